//! `foretoken demo`: the main job on a laptop, with an embedded emulator as the upstream.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use foretoken_emulator::Emulator;

use super::{Failure, status};
use crate::app::{self, App, Ended, Signals, StartError};
use crate::config::{self, Environment};
use crate::server::BindError;
use crate::telemetry::log;
use crate::telemetry::metrics::Outcome;

/// Where the emulator listens; Foretoken and its admin take the default ports behind it.
const EMULATOR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 16924);
/// Seconds between two lines of news.
const NEWS_S: u32 = 60;

pub(super) fn run() -> Result<(), Failure> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let environment = Environment {
        state_directory: Some(folder.path().into()),
        credentials_directory: None,
        ..Environment::of_process()
    };
    let text = format!("[upstream]\nendpoint = \"http://{EMULATOR}\"\n[log]\nlevel = \"warn\"\n");
    let settings = config::parse(&text, std::path::Path::new("demo"), &environment)
        .map_err(config::ConfigError::from)?;
    log::start(settings.log);
    log::tell_panics();
    app::harden();
    let signals = Signals::listen().context("cannot wait for signals")?;

    let emulator = foretoken_emulator::Settings {
        listen: EMULATOR,
        ..Default::default()
    };
    let emulator = Emulator::start(emulator).map_err(|error| {
        StartError::Bind(match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse {
                address: EMULATOR.to_string(),
            },
            _ => BindError::Other {
                address: EMULATOR.to_string(),
                error,
            },
        })
    })?;
    let app = App::start(&settings)?;
    super::say(&format!(
        "Foretoken serves tokens of an emulator; they open nothing. Ctrl-C ends it.\n\n  \
         curl -s -H Metadata:true \"http://127.0.0.1:16925/metadata/identity/oauth2/token?\
         api-version=2018-02-01&resource=https://vault.azure.net\"\n\n\
         For an Azure SDK:\n\n  \
         export AZURE_POD_IDENTITY_AUTHORITY_HOST=http://127.0.0.1:16925\n\n\
         Then: foretoken status · http://{}/metrics\n\n",
        app.admin_address()
    ))?;
    let mut news = News::default();
    let ended = signals.run(app, async |app| {
        if let Some(line) = news.tell(app, &emulator).await {
            // The demo goes on when nobody reads its news any more.
            let _ = super::say(&format!("{line}\n"));
        }
    });
    emulator.stop();
    match ended {
        Ended::Asked => Ok(()),
        Ended::Broken => Err(Failure::Broken),
    }
}

/// Tells what happened, when something did and at most once a minute.
#[derive(Default)]
struct News {
    told: (u64, u64, u64),
    wait_s: u32,
}

impl News {
    async fn tell(&mut self, app: &App, emulator: &Emulator) -> Option<String> {
        self.wait_s = self.wait_s.saturating_sub(1);
        let hits = app.metrics().requests(Outcome::Hit);
        let misses =
            app.metrics().requests(Outcome::Miss) + app.metrics().requests(Outcome::Coalesced);
        let facts = (hits, misses, emulator.counts().token_calls);
        if self.wait_s > 0 || facts == self.told {
            return None;
        }
        (self.told, self.wait_s) = (facts, NEWS_S);
        let next = app
            .next_call_in_s()
            .await
            .map_or_else(|| "none".into(), status::in_words);
        Some(format!(
            "hits {hits} · misses {misses} · upstream calls {} · next refresh in {next}",
            facts.2
        ))
    }
}
