//! The command line flags that say which token source to play.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use foretoken_emulator::{
    AppService, AppService2017, ArcAgent, AzureMl, Entra, ExpiryForm, Kind, ServiceFabric,
};

#[derive(Args)]
pub struct KindFlags {
    /// The token source to play
    #[arg(long, default_value = "imds", value_name = "NAME")]
    kind: KindName,

    /// app-service, app-service-2017, azure-ml: the path of tokens
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    /// app-service, app-service-2017, azure-ml, service-fabric: what callers must present
    #[arg(long, value_name = "TEXT")]
    secret: Option<String>,

    /// app-service-2017, azure-ml, service-fabric: how `expires_on` is written
    #[arg(long, value_name = "FORM")]
    expires_on: Option<ExpiryForm>,

    /// app-service-2017: failures as status 200 with an `ExceptionMessage`
    #[arg(long)]
    failures_as_200: bool,

    /// azure-ml: name the client id in replies
    #[arg(long)]
    client_id_in_reply: bool,

    /// arc: where key files are written; without it, a folder among the temporary files
    #[arg(long, value_name = "FOLDER")]
    key_folder: Option<PathBuf>,

    /// arc: ignore selectors and echo none, as old agents do
    #[arg(long)]
    old_agent: bool,

    /// entra: the subject federated tokens must have
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,

    /// entra: `refresh_in` in replies
    #[arg(long, value_name = "SECONDS")]
    refresh_in: Option<u64>,

    /// entra: where to write a federated token that is accepted for a day
    #[arg(long, value_name = "FILE")]
    federated_token_file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindName {
    Imds,
    AppService,
    #[value(name = "app-service-2017")]
    AppService2017,
    AzureMl,
    Arc,
    ServiceFabric,
    CloudShell,
    VmExtension,
    Entra,
}

impl KindFlags {
    /// The kind with its options; a flag that does not go with it is refused.
    pub fn into_kind(mut self) -> anyhow::Result<Kind> {
        let kind = match self.kind {
            KindName::Imds => Kind::Imds,
            KindName::CloudShell => Kind::CloudShell,
            KindName::VmExtension => Kind::VmExtension,
            KindName::AppService => {
                let mut options = AppService::default();
                take(&mut self.path, &mut options.path);
                take(&mut self.secret, &mut options.secret);
                Kind::AppService(options)
            }
            KindName::AppService2017 => {
                let mut options = AppService2017::default();
                take(&mut self.path, &mut options.path);
                take(&mut self.secret, &mut options.secret);
                take(&mut self.expires_on, &mut options.expires_on);
                options.failures_as_200 = std::mem::take(&mut self.failures_as_200);
                Kind::AppService2017(options)
            }
            KindName::AzureMl => {
                let mut options = AzureMl::default();
                take(&mut self.path, &mut options.path);
                take(&mut self.secret, &mut options.secret);
                take(&mut self.expires_on, &mut options.expires_on);
                options.client_id_in_reply = std::mem::take(&mut self.client_id_in_reply);
                Kind::AzureMl(options)
            }
            KindName::Arc => {
                let mut options = ArcAgent::default();
                take(&mut self.key_folder, &mut options.key_folder);
                options.old_agent = std::mem::take(&mut self.old_agent);
                Kind::Arc(options)
            }
            KindName::ServiceFabric => {
                let mut options = ServiceFabric::default();
                take(&mut self.secret, &mut options.secret);
                take(&mut self.expires_on, &mut options.expires_on);
                Kind::ServiceFabric(options)
            }
            KindName::Entra => {
                let mut options = Entra::default();
                take(&mut self.subject, &mut options.subject);
                options.refresh_in_s = self.refresh_in.take();
                options.federated_token_file = self.federated_token_file.take();
                Kind::Entra(options)
            }
        };
        match self.left_over() {
            Some(flag) => bail!("--{flag} does not go with --kind {}", kind.name()),
            None => Ok(kind),
        }
    }

    /// A flag that was given and that nothing took.
    fn left_over(&self) -> Option<&'static str> {
        [
            ("path", self.path.is_some()),
            ("secret", self.secret.is_some()),
            ("expires-on", self.expires_on.is_some()),
            ("failures-as-200", self.failures_as_200),
            ("client-id-in-reply", self.client_id_in_reply),
            ("key-folder", self.key_folder.is_some()),
            ("old-agent", self.old_agent),
            ("subject", self.subject.is_some()),
            ("refresh-in", self.refresh_in.is_some()),
            ("federated-token-file", self.federated_token_file.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }
}

/// Takes what was given on the command line.
fn take<T>(given: &mut Option<T>, option: &mut T) {
    if let Some(value) = given.take() {
        *option = value;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: KindFlags,
    }

    fn kind(line: &str) -> anyhow::Result<Kind> {
        let words = format!("emulator {line}");
        Line::try_parse_from(words.split_whitespace())?
            .flags
            .into_kind()
    }

    #[test]
    fn every_kind_can_be_named_and_imds_is_the_default() {
        assert_eq!(kind("").unwrap(), Kind::Imds);
        for name in [
            "imds",
            "app-service",
            "app-service-2017",
            "azure-ml",
            "arc",
            "service-fabric",
            "cloud-shell",
            "vm-extension",
            "entra",
        ] {
            assert_eq!(kind(&format!("--kind {name}")).unwrap().name(), name);
        }
    }

    #[test]
    fn flags_reach_their_kind_and_no_other() {
        let wanted = Kind::AzureMl(AzureMl {
            secret: "s".to_owned(),
            expires_on: ExpiryForm::WindowsDate,
            ..AzureMl::default()
        });
        let line = "--kind azure-ml --secret s --expires-on windows-date";
        assert_eq!(kind(line).unwrap(), wanted);
        let error = kind("--kind imds --secret s").unwrap_err();
        assert_eq!(error.to_string(), "--secret does not go with --kind imds");
        assert!(kind("--kind arc --refresh-in 7").is_err());
    }
}
