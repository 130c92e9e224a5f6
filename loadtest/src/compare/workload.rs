//! The workloads: what is done to each server, in rounds.
//!
//! A workload begins with each server, which gives back what does one round; the rounds then go from
//! server to server, so that all of them meet the machine's good and bad minutes alike.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use foretoken_emulator::{Emulator, Limits, Settings};

use super::peer::{Peer, Ready, Setup};
use super::{expiry, footprint, herd, idle, loads, outage, restart};
use crate::outcome::Counts;
use crate::process::Server;

/// What one round gave.
#[derive(Default)]
pub(crate) struct Round {
    pub figures: BTreeMap<&'static str, f64>,
    pub counts: Counts,
}

/// Does one round.
pub(crate) type Rounds = Box<dyn FnMut() -> anyhow::Result<Round>>;

pub(crate) struct Workload {
    pub name: &'static str,
    pub about: fn(&Sizes) -> String,
    /// Why a server is not for it, if it is not.
    pub leaves_out: fn(&Peer) -> Option<&'static str>,
    /// Most rounds, where one takes long.
    pub most_rounds: usize,
    pub begin: fn(&Bench) -> anyhow::Result<Rounds>,
}

pub(super) const WORKLOADS: [Workload; 13] = [
    loads::KEEP_ALIVE,
    loads::UNIX,
    loads::OPEN,
    loads::CONNECT_EACH,
    loads::PIPELINED,
    loads::DENSE,
    loads::LOPSIDED,
    idle::IDLE,
    herd::HERD,
    expiry::EXPIRY,
    outage::OUTAGE,
    restart::RESTART,
    footprint::FOOTPRINT,
];

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub quick: bool,
    /// The measured part of a round, and what comes before.
    pub round: Duration,
    pub warm_up: Duration,
    pub idle_links: usize,
    pub herd_links: usize,
    pub herd_latency: Duration,
    /// Of tokens that expire, and how long caches keep them: half, as Foretoken does.
    pub life_s: u64,
    /// How slow the upstream is when they are renewed, and how long that is looked at.
    pub slow: Duration,
    pub expiry: Duration,
    /// Of each part of an outage.
    pub outage: Duration,
    pub processes: usize,
    pub restart_keys: usize,
    pub footprint_keys: usize,
    pub footprint_links: usize,
}

impl Sizes {
    pub(super) fn full(round: Duration) -> Self {
        Self {
            quick: false,
            round,
            warm_up: Duration::from_millis(200),
            idle_links: 10_000,
            herd_links: 1_000,
            herd_latency: Duration::from_millis(300),
            life_s: 4,
            slow: Duration::from_millis(500),
            expiry: Duration::from_secs(8),
            outage: Duration::from_secs(2),
            processes: 8,
            restart_keys: 1_000,
            footprint_keys: 10_000,
            footprint_links: 1_000,
        }
    }

    /// Everything once, as little as will do to see that it works.
    pub(super) fn quick() -> Self {
        Self {
            quick: true,
            round: Duration::from_millis(60),
            warm_up: Duration::from_millis(10),
            idle_links: 20,
            herd_links: 20,
            herd_latency: Duration::from_millis(100),
            life_s: 1,
            slow: Duration::from_millis(100),
            expiry: Duration::from_secs(1),
            outage: Duration::from_millis(200),
            processes: 2,
            restart_keys: 5,
            footprint_keys: 20,
            footprint_links: 10,
        }
    }

    pub(crate) fn ttl_s(&self) -> u64 {
        (self.life_s / 2).max(1)
    }
}

/// A server to be measured, and how.
#[derive(Clone)]
pub(crate) struct Bench {
    pub peer: &'static Peer,
    pub program: PathBuf,
    pub sizes: Sizes,
    /// The CPU of a server that has one of its own, and that of the driver.
    pub cpus: (usize, usize),
    /// How many CPUs there are in all.
    pub all_cpus: usize,
}

impl Bench {
    /// The server, set up anew: it has nothing of what an earlier one kept.
    pub(crate) fn ready(&self, setup: &Setup) -> anyhow::Result<Ready> {
        self.peer.ready(&self.program, setup)
    }
}

/// A server that goes on from round to round, with its upstream. The server ends first.
pub(crate) struct Running {
    pub server: Server,
    pub ready: Ready,
    _emulator: Emulator,
}

impl Running {
    /// With tokens of a day, set up as `set` says.
    pub(crate) fn start(bench: &Bench, set: impl FnOnce(Setup) -> Setup) -> anyhow::Result<Self> {
        let emulator = upstream(DAY_S, Duration::ZERO)?;
        let ready = bench.ready(&set(Setup::new(emulator.address())))?;
        Ok(Self {
            server: ready.start()?,
            ready,
            _emulator: emulator,
        })
    }
}

/// An upstream without limits, so that no server is refused for another's sake.
pub(crate) fn upstream(lifetime_s: u64, latency: Duration) -> anyhow::Result<Emulator> {
    Ok(Emulator::start(Settings {
        limits: Limits::NONE,
        lifetime_s,
        latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
        // Each call gets a new token.
        reissue_below: 1.0,
        ..Settings::default()
    })?)
}

/// A day, as IMDS gives them.
pub(crate) const DAY_S: u64 = 86_400;

pub(crate) fn for_all(_: &Peer) -> Option<&'static str> {
    None
}

pub(crate) fn for_caches(peer: &Peer) -> Option<&'static str> {
    (!peer.cache).then_some("it is no cache")
}

pub(crate) fn for_foretoken(peer: &Peer) -> Option<&'static str> {
    (peer.name != "foretoken").then_some("it is Foretoken's own")
}

pub(crate) fn ms(span: Duration) -> f64 {
    crate::report::rounded(span.as_secs_f64() * 1_000.0)
}
