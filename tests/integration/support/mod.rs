//! What tests share: a Foretoken on free ports in front of an emulator, and plain sockets.

pub mod corpus;
pub mod http;
pub mod jwt;
pub mod metrics;
pub mod nobody;
pub mod privilege;
pub mod process;
pub mod recorded;
pub mod replay;
pub mod site;
pub mod source;
pub mod tls;
pub mod wait;

use std::net::SocketAddr;
use std::path::Path;

use foretoken::app::App;
use foretoken::config::{self, Environment, Settings};
use foretoken::server::Address;
use foretoken_emulator::{Emulator, Limits};
use tempfile::TempDir;

/// An emulator without limits, and a Foretoken in this process in front of it.
pub struct House {
    pub emulator: Emulator,
    pub app: App,
    /// State folder; removed with the house.
    pub folder: TempDir,
}

impl House {
    /// With default settings on free ports.
    pub fn start() -> Self {
        Self::start_with(emulator_settings(), "")
    }

    /// With these emulator settings and more lines of configuration.
    pub fn start_with(emulator: foretoken_emulator::Settings, more: &str) -> Self {
        let emulator = Emulator::start(emulator).expect("the emulator starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = settings(emulator.address(), folder.path(), more);
        let app = App::start(&settings).expect("Foretoken starts");
        Self {
            emulator,
            app,
            folder,
        }
    }

    /// Where tokens are served.
    pub fn address(&self) -> SocketAddr {
        tcp(&self.app)
    }

    /// Every TCP address at which tokens are served, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        tcp_addresses(&self.app).collect()
    }
}

/// The first TCP address at which an app serves tokens.
pub fn tcp(app: &App) -> SocketAddr {
    tcp_addresses(app).next().expect("a TCP listener")
}

pub fn tcp_addresses(app: &App) -> impl Iterator<Item = SocketAddr> {
    let addresses = app.addresses().iter();
    addresses.filter_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    })
}

/// An emulator on a free port that enforces no limits.
pub fn emulator_settings() -> foretoken_emulator::Settings {
    foretoken_emulator::Settings {
        limits: Limits::NONE,
        ..Default::default()
    }
}

/// A configuration on free ports with its state in `folder`. `more` must not repeat its tables.
pub fn config_text(upstream: SocketAddr, more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nendpoint = \"http://{upstream}\"\n{more}"
    )
}

/// The settings of [`config_text`].
pub fn settings(upstream: SocketAddr, folder: &Path, more: &str) -> Settings {
    let environment = Environment {
        state_directory: Some(folder.into()),
        cpus: 2,
        ..Environment::default()
    };
    config::parse(
        &config_text(upstream, more),
        Path::new("test.toml"),
        &environment,
    )
    .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}
