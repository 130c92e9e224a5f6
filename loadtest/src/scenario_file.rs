//! The parts of a scenario's file.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use foretoken_emulator::{Emulator, Limits, Settings};
use serde::{Deserialize, Deserializer};

use crate::expect::Expect;
use crate::plan::Target;
use crate::slow::{Slow, SlowAt};
use crate::span::span;
use crate::timeline::millis;

/// `[emulator]`: upstream, in this process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    pub listen: Option<SocketAddr>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default, deserialize_with = "perhaps_spanned")]
    pub lifetime: Option<Duration>,
    #[serde(default, deserialize_with = "spanned")]
    pub latency: Duration,
    /// At or below which share of its life a token is replaced.
    pub reissue_below: Option<f64>,
    /// The text of a scenario of the emulator's, which begins before the first request, or the file
    /// with it.
    pub timeline: Option<String>,
    pub timeline_file: Option<PathBuf>,
}

/// `[server]`: what is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Served {
    pub command: Vec<String>,
    /// The text of its configuration, or the file with it.
    pub config: Option<String>,
    pub config_file: Option<PathBuf>,
    pub target: Option<String>,
    /// Whether it is started anew once the keys have tokens.
    #[serde(default)]
    pub restart: bool,
    #[serde(default)]
    pub cpus: Vec<usize>,
}

/// `[[load]]`: some of the callers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    pub name: String,
    pub rate: Option<u32>,
    #[serde(default = "one")]
    pub links: usize,
    #[serde(default)]
    pub connect_each: bool,
    #[serde(default = "one")]
    pub pipeline: usize,
    #[serde(default)]
    pub clients: BTreeMap<String, u32>,
    #[serde(default = "one")]
    pub keys: usize,
    #[serde(default)]
    pub skew: f64,
    /// In place of the scenario's `duration`.
    pub requests: Option<u64>,
    #[serde(default, deserialize_with = "perhaps_spanned")]
    pub think: Option<Duration>,
    #[serde(default)]
    pub processes: usize,
    #[serde(default, deserialize_with = "perhaps_spanned")]
    pub restart_every: Option<Duration>,
    #[serde(default, deserialize_with = "perhaps_spanned")]
    pub timeout: Option<Duration>,
    #[serde(default = "one")]
    pub threads: usize,
    #[serde(default)]
    pub cpus: Vec<usize>,
    #[serde(default)]
    pub seed: u64,
    #[serde(default, deserialize_with = "spanned")]
    pub after: Duration,
    #[serde(default)]
    pub expect: Expect,
}

/// `[[slow]]`: clients that are slow on purpose.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlowAsked {
    pub name: String,
    pub at: SlowAt,
    #[serde(default = "one")]
    pub links: usize,
    #[serde(deserialize_with = "spanned")]
    pub pause: Duration,
}

fn one() -> usize {
    1
}

pub(crate) fn spanned<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    span(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

pub(crate) fn perhaps_spanned<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    spanned(from).map(Some)
}

impl Upstream {
    pub(crate) fn start(&self) -> std::io::Result<Emulator> {
        let base = Settings::default();
        let life = self.lifetime.map_or(base.lifetime_s, |life| life.as_secs());
        Emulator::start(Settings {
            listen: self.listen.unwrap_or(base.listen),
            limits: self.limits,
            lifetime_s: life,
            latency_ms: millis(self.latency),
            reissue_below: self.reissue_below.unwrap_or(base.reissue_below),
            ..base
        })
    }
}

impl Served {
    /// Without one, a port that is free now.
    pub(crate) fn target(&self) -> anyhow::Result<Target> {
        match &self.target {
            Some(text) => text.parse().map_err(anyhow::Error::msg),
            None => Ok(Target::Tcp(free_port()?)),
        }
    }
}

impl SlowAsked {
    pub(crate) fn slow(&self) -> Slow {
        Slow {
            name: self.name.clone(),
            at: self.at,
            links: self.links,
            pause: self.pause,
        }
    }
}

pub(crate) fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
