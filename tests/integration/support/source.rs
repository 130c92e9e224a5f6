//! A Foretoken in front of an emulator of any kind, led there as the platform leads programs.

use std::fs;
use std::path::Path;

use foretoken::app::App;
use foretoken::config::{self, Environment, Platform};
use foretoken::upstream::Kind;
use foretoken_emulator::{self as emulator, Emulator};
use tempfile::TempDir;

use super::{House, emulator_settings};

/// The emulator's kind that plays a source, with its files in `folder`.
pub fn played(kind: Kind, folder: &Path) -> emulator::Kind {
    match kind {
        Kind::Imds => emulator::Kind::Imds,
        Kind::AppService => emulator::Kind::AppService(emulator::AppService::default()),
        Kind::AppService2017 => emulator::Kind::AppService2017(emulator::AppService2017::default()),
        Kind::AzureMl => emulator::Kind::AzureMl(emulator::AzureMl {
            client_id_in_reply: true,
            ..emulator::AzureMl::default()
        }),
        Kind::Arc => emulator::Kind::Arc(emulator::ArcAgent {
            key_folder: folder.join("keys"),
            ..emulator::ArcAgent::default()
        }),
        Kind::ServiceFabric => emulator::Kind::ServiceFabric(emulator::ServiceFabric::default()),
        Kind::CloudShell => emulator::Kind::CloudShell,
        Kind::VmExtension => emulator::Kind::VmExtension,
        Kind::WorkloadIdentity => emulator::Kind::Entra(emulator::Entra {
            federated_token_file: Some(folder.join("federated")),
            ..emulator::Entra::default()
        }),
    }
}

/// A house whose source is of this kind.
pub fn house(kind: Kind) -> House {
    house_of(kind, |_| {})
}

/// As [`house`], with the emulator changed.
pub fn house_of(kind: Kind, change: impl FnOnce(&mut emulator::Settings)) -> House {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let emulator = emulator_of(kind, &folder, change);
    let app = start_before(&emulator, kind.as_str(), &folder, "");
    House {
        emulator,
        app,
        folder,
    }
}

/// An emulator of this kind.
pub fn emulator_of(
    kind: Kind,
    folder: &TempDir,
    change: impl FnOnce(&mut emulator::Settings),
) -> Emulator {
    let mut settings = emulator_settings();
    settings.kind = played(kind, folder.path());
    change(&mut settings);
    Emulator::start(settings).expect("the emulator starts")
}

/// A Foretoken before an emulator of Entra that trusts these certificates.
pub fn start_trusting(emulator: &Emulator, folder: &TempDir, ca_file: &Path) -> App {
    let typed = format!("ca_file = \"{}\"", ca_file.display());
    let settings = settings_of(emulator, "workload-identity", &typed, folder, "");
    App::start(&settings).expect("Foretoken starts")
}

/// A Foretoken before an emulator, led there by the variables of the emulator's platform; what no
/// variable says is typed. `more` are further lines.
pub fn start_before(emulator: &Emulator, kind: &str, folder: &TempDir, more: &str) -> App {
    App::start(&settings_before(emulator, kind, folder, more)).expect("Foretoken starts")
}

/// As [`start_before`], not started.
pub fn settings_before(
    emulator: &Emulator,
    kind: &str,
    folder: &TempDir,
    more: &str,
) -> config::Settings {
    let root = folder.path();
    let typed = match kind {
        "imds" | "vm-extension" => format!("endpoint = \"http://{}\"", emulator.address()),
        "arc" => format!("arc_folder = \"{}/keys\"", root.display()),
        "workload-identity" => {
            let authority = emulator.ca_pem().expect("a certificate authority");
            fs::write(root.join("ca.pem"), authority).expect("a file");
            format!("ca_file = \"{}/ca.pem\"", root.display())
        }
        _ => String::new(),
    };
    settings_of(emulator, kind, &typed, folder, more)
}

fn settings_of(
    emulator: &Emulator,
    kind: &str,
    typed: &str,
    folder: &TempDir,
    more: &str,
) -> config::Settings {
    let root = folder.path();
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nkind = \"{kind}\"\n{typed}\n{more}"
    );
    let told = emulator.environment();
    let value = |name: &str| {
        let found = told.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.into())
    };
    let environment = Environment {
        state_directory: Some(root.into()),
        cpus: 2,
        platform: Platform::with(value),
        ..Environment::default()
    };
    config::parse(&text, Path::new("test.toml"), &environment)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}
