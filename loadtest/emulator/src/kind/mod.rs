//! The kinds of token source an emulator can play. Each has a file that holds all that is its
//! own: what can be chosen about it, its rules, its success body, its words for refusals, and
//! the variables its platform sets.

mod app_service;
mod app_service_2017;
mod azure_ml;
mod cloud_shell;
pub(crate) mod imds;
mod vm_extension;

use std::net::SocketAddr;

pub use app_service::AppService;
pub use app_service_2017::AppService2017;
pub use azure_ml::AzureMl;

use crate::fields::Fields;
use crate::refusals::{Refusal, Words};
use crate::rules::Rules;
use crate::token_reply::Success;

/// The secret that callers present unless another is chosen; made up, and worth nothing.
pub const DEFAULT_SECRET: &str = "E0A1C0DE0000400080000000E5EC4E70";

/// Which token source an emulator plays: one for its whole life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Kind {
    /// The metadata service of a virtual machine.
    #[default]
    Imds,
    /// App Service, Functions and Container Apps, api-version 2019-08-01.
    AppService(AppService),
    /// App Service as it was before, api-version 2017-09-01.
    AppService2017(AppService2017),
    /// A compute instance of Azure Machine Learning; it speaks 2017-09-01 too.
    AzureMl(AzureMl),
    /// The token service of Cloud Shell.
    CloudShell,
    /// The retired extension of virtual machines, once on port 50342.
    VmExtension,
}

impl Kind {
    /// The name of the kind, as on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::AppService(_) => "app-service",
            Self::AppService2017(_) => "app-service-2017",
            Self::AzureMl(_) => "azure-ml",
            Self::CloudShell => "cloud-shell",
            Self::VmExtension => "vm-extension",
        }
    }

    pub(crate) fn rules(&self) -> Rules<'_> {
        match self {
            Self::Imds => imds::rules(),
            Self::AppService(options) => options.rules(),
            Self::AppService2017(options) => options.rules(),
            Self::AzureMl(options) => options.rules(),
            Self::CloudShell => cloud_shell::rules(),
            Self::VmExtension => vm_extension::rules(),
        }
    }

    /// The body of a success.
    pub(crate) fn success(&self, success: &Success<'_>) -> Fields {
        match self {
            Self::Imds => imds::success(success),
            Self::AppService(_) => app_service::success(success),
            Self::AppService2017(options) => options.success(success),
            Self::AzureMl(options) => options.success(success),
            Self::CloudShell => cloud_shell::success(success),
            Self::VmExtension => vm_extension::success(success),
        }
    }

    /// The kind's own words for a refusal, where it has other ones than IMDS.
    pub(crate) fn words(&self, refusal: &Refusal) -> Option<Words> {
        match self {
            Self::Imds | Self::CloudShell => None,
            Self::AppService(_) => app_service::words(refusal),
            Self::AppService2017(_) | Self::AzureMl(_) => app_service_2017::words(refusal),
            Self::VmExtension => vm_extension::words(refusal),
        }
    }

    /// The variables that the platform would set for its programs, for this kind at this address.
    pub(crate) fn environment(&self, address: SocketAddr) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://{address}{}", self.rules().path.text());
        match self {
            // Nothing is set on a virtual machine; this is how clients are led elsewhere.
            Self::Imds => vec![(
                "AZURE_POD_IDENTITY_AUTHORITY_HOST",
                format!("http://{address}"),
            )],
            Self::AppService(AppService { secret, .. }) => vec![
                ("IDENTITY_ENDPOINT", endpoint),
                ("IDENTITY_HEADER", secret.clone()),
            ],
            Self::AppService2017(AppService2017 { secret, .. })
            | Self::AzureMl(AzureMl { secret, .. }) => {
                vec![("MSI_ENDPOINT", endpoint), ("MSI_SECRET", secret.clone())]
            }
            Self::CloudShell | Self::VmExtension => vec![("MSI_ENDPOINT", endpoint)],
        }
    }

    /// What the `Server` header says: for IMDS the real name and its build number, and always
    /// that this is not it.
    pub(crate) fn server_header(&self) -> &'static str {
        match self {
            Self::Imds => "IMDS/150.870.65.0-foretoken-emulator",
            _ => "foretoken-emulator",
        }
    }
}
