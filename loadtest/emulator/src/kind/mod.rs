//! The kinds of token source an emulator can play. Each has a file that holds all that is its
//! own: what can be chosen about it, its rules, its success body, its words for refusals, and
//! the variables its platform sets.

mod app_service;
mod app_service_2017;
pub(crate) mod arc;
pub(crate) mod assertion;
mod azure_ml;
mod cloud_shell;
mod entra;
pub(crate) mod imds;
mod service_fabric;
mod vm_extension;

use std::io;

pub use app_service::AppService;
pub use app_service_2017::AppService2017;
pub use arc::ArcAgent;
pub use azure_ml::AzureMl;
pub use entra::Entra;
pub use service_fabric::ServiceFabric;

use crate::fields::Fields;
use crate::http::Request;
use crate::refusals::{Refusal, Words};
use crate::rules::{Rules, TokenRequest};
use crate::tls::Tls;
use crate::token_reply::Success;
use crate::world::World;

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
    /// The agent of an Azure Arc machine.
    Arc(ArcAgent),
    /// The token service of a Service Fabric cluster, over TLS.
    ServiceFabric(ServiceFabric),
    /// The token service of Cloud Shell.
    CloudShell,
    /// The retired extension of virtual machines, once on port 50342.
    VmExtension,
    /// Entra's own token endpoint, over TLS.
    Entra(Entra),
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
            Self::Arc(_) => "arc",
            Self::ServiceFabric(_) => "service-fabric",
            Self::CloudShell => "cloud-shell",
            Self::VmExtension => "vm-extension",
            Self::Entra(_) => "entra",
        }
    }

    pub(crate) fn rules(&self) -> Rules<'_> {
        match self {
            Self::Imds => imds::rules(),
            Self::AppService(options) => options.rules(),
            Self::AppService2017(options) => options.rules(),
            Self::AzureMl(options) => options.rules(),
            Self::Arc(options) => options.rules(),
            Self::ServiceFabric(options) => options.rules(),
            Self::CloudShell => cloud_shell::rules(),
            Self::VmExtension => vm_extension::rules(),
            Self::Entra(_) => Entra::rules(),
        }
    }

    /// Holds a request on the token path against the rules.
    pub(crate) fn token_request(
        &self,
        world: &World,
        request: &Request,
    ) -> Result<TokenRequest, Refusal> {
        if let Self::Entra(options) = self {
            return options.token_request(world, request);
        }
        let asked = self.rules().token_request(request)?;
        if let Some(mut challenges) = world.challenges() {
            challenges.check(request)?;
        }
        Ok(asked)
    }

    /// The body of a success.
    pub(crate) fn success(&self, success: &Success<'_>) -> Fields {
        match self {
            Self::Imds => imds::success(success),
            Self::AppService(_) => app_service::success(success),
            Self::AppService2017(options) => options.success(success),
            Self::AzureMl(options) => options.success(success),
            Self::Arc(_) => arc::success(success),
            Self::ServiceFabric(options) => options.success(success),
            Self::CloudShell => cloud_shell::success(success),
            Self::VmExtension => vm_extension::success(success),
            Self::Entra(options) => options.success(success),
        }
    }

    /// The kind's own words for a refusal, where it has other ones than IMDS.
    pub(crate) fn words(&self, refusal: &Refusal) -> Option<Words> {
        match self {
            Self::Imds | Self::Arc(_) | Self::CloudShell => None,
            Self::AppService(_) => app_service::words(refusal),
            Self::AppService2017(_) | Self::AzureMl(_) => app_service_2017::words(refusal),
            Self::ServiceFabric(_) => service_fabric::words(refusal),
            Self::VmExtension => vm_extension::words(refusal),
            Self::Entra(_) => entra::words(refusal),
        }
    }

    /// The certificate it presents; `None` if it speaks plain HTTP.
    pub(crate) fn tls(&self) -> io::Result<Option<Tls>> {
        match self {
            Self::ServiceFabric(_) => Tls::self_signed().map(Some),
            Self::Entra(_) => Tls::issued().map(Some),
            _ => Ok(None),
        }
    }

    /// The variables that the platform would set for its programs.
    pub(crate) fn environment(&self, world: &World) -> Vec<(&'static str, String)> {
        let host = world.base_url();
        let endpoint = format!("{host}{}", self.rules().path.text());
        match self {
            // Nothing is set on a virtual machine; this is how clients are led elsewhere.
            Self::Imds => vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", host)],
            Self::AppService(AppService { secret, .. }) => vec![
                ("IDENTITY_ENDPOINT", endpoint),
                ("IDENTITY_HEADER", secret.clone()),
            ],
            Self::AppService2017(AppService2017 { secret, .. })
            | Self::AzureMl(AzureMl { secret, .. }) => {
                vec![("MSI_ENDPOINT", endpoint), ("MSI_SECRET", secret.clone())]
            }
            Self::Arc(_) => vec![("IDENTITY_ENDPOINT", endpoint), ("IMDS_ENDPOINT", host)],
            Self::ServiceFabric(ServiceFabric { secret, .. }) => vec![
                ("IDENTITY_ENDPOINT", endpoint),
                ("IDENTITY_HEADER", secret.clone()),
                (
                    "IDENTITY_SERVER_THUMBPRINT",
                    world
                        .tls
                        .as_ref()
                        .map_or_else(String::new, |tls| tls.thumbprint.clone()),
                ),
                ("IDENTITY_API_VERSION", "2019-07-01-preview".to_owned()),
            ],
            Self::CloudShell | Self::VmExtension => vec![("MSI_ENDPOINT", endpoint)],
            Self::Entra(options) => options.environment(world),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asker, RESOURCE, ask_as, every_kind};
    use crate::{Fault, FaultKind, Limits, Settings};

    #[test]
    fn every_kind_is_steered_in_the_same_way() {
        for kind in every_kind("kinds") {
            let name = kind.name();
            let asker = Asker::with_settings(Settings {
                kind: kind.clone(),
                canary: Some("bird".to_owned()),
                limits: Limits::NONE,
                ..Settings::default()
            });
            let emulator = &asker.emulator;

            let first = ask_as(&kind, &asker);
            assert_eq!(first.status, 200, "{name}: {}", first.body);
            assert_eq!(first.claims()["aud"], RESOURCE, "{name}");
            let canary = emulator.canary_in_tokens().unwrap();
            assert!(first.token().contains(&canary), "{name}");
            assert_eq!(ask_as(&kind, &asker).token(), first.token(), "{name}");
            emulator.forget_tokens();
            assert_ne!(ask_as(&kind, &asker).token(), first.token(), "{name}");

            for status in [400, 401, 404, 410, 429, 500, 503] {
                let fault = FaultKind::Status {
                    status,
                    retry_after_s: Some(3),
                };
                emulator.set_fault(Some(Fault::times(fault, 1)));
                let reply = ask_as(&kind, &asker);
                assert_eq!(
                    (reply.status, reply.header("retry-after")),
                    (status, Some("3")),
                    "{name}: {}",
                    reply.body
                );
                assert!(reply.json().is_object(), "{name}");
            }
            emulator.set_fault(Some(Fault::times(
                FaultKind::Edit {
                    members: serde_json::Map::from_iter([("access_token".to_owned(), 7.into())]),
                },
                1,
            )));
            assert_eq!(ask_as(&kind, &asker).json()["access_token"], 7, "{name}");

            let counts = asker.get("/_emulator/counts").json();
            assert_eq!(counts["token_calls"], 11, "{name}");
            assert_eq!(counts["faulted"], 8, "{name}");
            assert_eq!(counts["refused"], 0, "{name}");
            assert!(!emulator.environment().is_empty());
            assert!(emulator.requests().len() >= 11);

            emulator.set_limits(Limits {
                requests_per_s: 1,
                at_once: 0,
            });
            let statuses = [(); 8].map(|()| ask_as(&kind, &asker).status);
            assert!(statuses.contains(&429), "{name}: {statuses:?}");
        }
        let Kind::Arc(ArcAgent { key_folder, .. }) = &every_kind("kinds")[4] else {
            unreachable!("the list says so");
        };
        std::fs::remove_dir(key_folder).unwrap();
    }
}
