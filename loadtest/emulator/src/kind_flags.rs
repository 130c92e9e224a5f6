//! The command line flags that say which token source to play.

use anyhow::bail;
use clap::{Args, ValueEnum};
use foretoken_emulator::{AppService, AppService2017, AzureMl, ExpiryForm, Kind};

#[derive(Args)]
pub struct KindFlags {
    /// The token source to play
    #[arg(long, default_value = "imds", value_name = "NAME")]
    kind: KindName,

    /// app-service, app-service-2017, azure-ml: the path of tokens
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    /// app-service, app-service-2017, azure-ml: what callers must present
    #[arg(long, value_name = "TEXT")]
    secret: Option<String>,

    /// app-service-2017, azure-ml: how `expires_on` is written
    #[arg(long, value_name = "FORM")]
    expires_on: Option<ExpiryForm>,

    /// app-service-2017: failures as status 200 with an `ExceptionMessage`
    #[arg(long)]
    failures_as_200: bool,

    /// azure-ml: name the client id in replies
    #[arg(long)]
    client_id_in_reply: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindName {
    Imds,
    AppService,
    #[value(name = "app-service-2017")]
    AppService2017,
    AzureMl,
    CloudShell,
    VmExtension,
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
