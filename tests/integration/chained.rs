//! Foretoken in front of Foretoken: whatever recorded clients ask the one in front, in any dialect,
//! gets through the one behind, in the dialect of each kind of source.
//!
//! Entra is no dialect of Foretoken's, so there the emulator stands behind.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use foretoken::app::App;
use foretoken::config::{self, Environment};
use foretoken::upstream::Kind;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;

use crate::support::recorded::Told;
use crate::support::replay::{Places, Replay, SECRET, client, listeners};
use crate::support::source::start_before;
use crate::support::{House, emulator_settings};

/// Both ask as fast as they can: the emulators have no limits.
const HURRY: &str = "max_in_flight = 64\nmax_per_second = 1000\n";
/// Requests for tokens among the recorded ones.
const TOKENS: usize = 407;

/// Which selectors a source takes (`protocols.md` §5), and how many of the recorded requests it
/// therefore cannot serve.
fn takes(kind: Kind) -> (fn(Option<&str>) -> bool, usize) {
    match kind {
        Kind::Imds | Kind::AppService | Kind::Arc | Kind::VmExtension => (|_| true, 0),
        Kind::AppService2017 | Kind::AzureMl | Kind::WorkloadIdentity => {
            (|selector| matches!(selector, None | Some("client_id")), 38)
        }
        Kind::ServiceFabric | Kind::CloudShell => (|selector| selector.is_none(), 90),
    }
}

/// What a source tells of a token beside the token and its end.
fn told(kind: Kind) -> Told {
    match kind {
        // Entra says how long, not when, and none of the rest; its client stands for the machine.
        Kind::WorkloadIdentity => Told {
            client_id: false,
            not_before: false,
            machine: false,
            early_s: 2,
        },
        _ => Told::ALL,
    }
}

#[test]
fn every_recorded_request_gets_through_every_kind_of_source() {
    let kinds = Kind::ALL.map(|kind| {
        let name = kind.as_str().to_owned();
        let started = thread::Builder::new().name(name);
        started.spawn(move || through(kind)).expect("a thread")
    });
    for kind in kinds {
        kind.join().expect("a kind that serves every request");
    }
}

fn through(kind: Kind) {
    let (behind, folder) = behind(kind);
    let front = front(kind, &behind, &folder);
    let places = Places::of(&front, folder);
    let (takes, refused) = takes(kind);
    let replay = Replay::run_at(behind, places, told(kind), takes);
    assert!(
        replay.complaints.is_empty(),
        "{} of {} requests:\n{}",
        replay.complaints.len(),
        replay.asked.values().sum::<usize>(),
        replay.complaints.join("\n"),
    );
    let asked = replay
        .asked
        .iter()
        .filter(|(sort, _)| sort.ends_with(" token"));
    let asked: usize = asked.map(|(_, requests)| requests).sum();
    assert_eq!((asked, replay.refused), (TOKENS, refused));
    // Neither of the two asks twice for what it holds. Where a secret binds the one in front to a
    // client, unknown parameters get no further.
    let bound = matches!(
        kind,
        Kind::AppService | Kind::AppService2017 | Kind::AzureMl | Kind::ServiceFabric
    );
    let keys = replay.keys.iter();
    let keys = keys.map(|(selector, resource, capabilities, extras)| {
        let extras = extras.iter().filter(|_| !bound).collect::<Vec<_>>();
        (selector, resource, capabilities, extras)
    });
    let keys: BTreeSet<_> = keys.collect();
    let counts = replay.house.emulator.counts();
    assert_eq!(counts.token_calls, keys.len() as u64, "{counts:?}");
    assert_eq!(counts.refused, 0, "{counts:?}");
    drop(front);
}

/// The one behind, with a listener for what the source of this kind speaks.
fn behind(kind: Kind) -> (House, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().display();
    if kind == Kind::WorkloadIdentity {
        let mut settings = emulator_settings();
        settings.kind = crate::support::source::played(kind, folder.path());
        return (House::start_with(settings, ""), folder);
    }
    let dialect = match kind {
        Kind::AzureMl => "app-service-2017",
        other => other.as_str(),
    };
    let more = match kind {
        Kind::Arc => format!("arc_folder = \"{root}/behind\"\narc_allow_agent = true\n"),
        Kind::ServiceFabric => format!("tls = \"{root}/behind\"\n"),
        // One of the two speaks as Azure ML does, the other as App Service did.
        Kind::AppService2017 => "expires_on_2017 = \"date\"\n".to_owned(),
        _ => String::new(),
    };
    let listener = format!(
        "{HURRY}[[listener]]\naddress = \"127.0.0.1:0\"\ndialects = [\"{dialect}\"]\n{more}{}",
        client()
    );
    (House::start_with(emulator_settings(), &listener), folder)
}

/// The one in front, with a listener for every way to be asked.
fn front(kind: Kind, behind: &House, folder: &TempDir) -> App {
    let root = folder.path();
    let more = format!("{HURRY}{}", listeners(root));
    if kind == Kind::WorkloadIdentity {
        return start_before(&behind.emulator, kind.as_str(), folder, &more);
    }
    let place = behind.addresses()[1];
    let upstream = upstream(kind, place, root);
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\n{upstream}{more}"
    );
    let environment = Environment {
        state_directory: Some(root.into()),
        cpus: 2,
        ..Environment::default()
    };
    let settings = config::parse(&text, Path::new("front.toml"), &environment)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    App::start(&settings).expect("Foretoken starts")
}

fn upstream(kind: Kind, place: SocketAddr, root: &Path) -> String {
    let secret = format!("secret = \"{SECRET}\"\n");
    let (endpoint, more) = match kind {
        Kind::Imds | Kind::VmExtension | Kind::CloudShell => {
            (format!("http://{place}"), String::new())
        }
        Kind::AppService => (format!("http://{place}/msi/token"), secret),
        Kind::AppService2017 | Kind::AzureMl => (format!("http://{place}/MSI/token"), secret),
        Kind::Arc => {
            let folder = root.join("behind");
            let more = format!("arc_folder = \"{}\"\n", folder.display());
            (format!("http://{place}"), more)
        }
        Kind::ServiceFabric => {
            let cert = CertificateDer::from_pem_file(root.join("behind/cert.pem"));
            let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &cert.expect("a certificate"));
            let hash: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
            let path = "/metadata/identity/oauth2/token";
            let more = format!("{secret}thumbprint = \"{hash}\"\n");
            (format!("https://{place}{path}"), more)
        }
        Kind::WorkloadIdentity => panic!("Entra is behind the emulator"),
    };
    let kind = kind.as_str();
    format!("kind = \"{kind}\"\nendpoint = \"{endpoint}\"\n{more}")
}
