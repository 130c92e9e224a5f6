//! The results, in the one schema that the README describes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::driver::Driven;
use crate::expect::Expected;
use crate::latency::Percentiles;
use crate::life::LifeLeft;
use crate::outcome::Counts;
use crate::plan::{Keep, Length, Pace, Plan};
use crate::refreshes::Refreshes;
use crate::slow::SlowUse;
use crate::story::Story;
use crate::timeline::Columns;

/// The version of the schema: it changes when a member changes its meaning or goes.
const SCHEMA: u32 = 1;

/// What came of one run or scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this schema.
    pub schema: u32,
    /// The name of the scenario, or `run`.
    pub name: String,
    /// Each load, in the order in which they were planned.
    pub loads: Vec<Load>,
    /// What the server used, if its process is known.
    pub server: Option<ServerUse>,
    /// What this process used itself.
    pub client: ClientUse,
    /// What idle links cost, if there were any.
    pub idle: Option<Idle>,
    /// What arrived upstream, if an emulator is there to tell.
    pub upstream: Option<Upstream>,
    /// What slow clients got.
    pub slow: Vec<SlowUse>,
    /// From the start of the server to the first good answer, if it was started anew before the loads.
    pub restart_ms: Option<u64>,
    /// What callers felt of refreshes, if an emulator is there to tell of them.
    pub refreshes: Option<Refreshes>,
    /// What a scenario was to come to.
    pub expected: Vec<Expected>,
    /// What happened around the loads.
    pub story: Story,
}

/// One load.
#[derive(Debug, Clone, Serialize)]
pub struct Load {
    /// What it is called.
    pub name: String,
    /// What was asked for.
    pub plan: Planned,
    /// Seconds of the measured part, to its last answer.
    pub took_s: f64,
    /// Requests of the measured part, answered or not.
    pub requests: u64,
    /// Whole answers a second.
    pub answers_per_s: f64,
    /// What became of the requests.
    #[serde(flatten)]
    pub counts: Counts,
    /// The same for the warm-up, which is in none of the other figures.
    pub warm_up: Counts,
    /// Microseconds from when a request was to be sent until its answer was there, or it failed.
    pub latency_us: Percentiles,
    /// Microseconds from when it was sent.
    pub service_us: Percentiles,
    /// Links opened, warm-up included.
    pub links_opened: u64,
    /// Links that the server closed while nothing was on its way on them.
    pub links_closed_idle: u64,
    /// Client processes that ended and were followed by another.
    pub restarts: u64,
    /// Percentiles and the microseconds of `latency_us` that so many do not exceed.
    pub curve_us: Vec<(f64, f64)>,
    /// What was left of the tokens that were handed out.
    pub life_left_s: Option<LifeLeft>,
    /// The load in intervals.
    pub timeline: Columns,
}

/// The plan of a load.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Where requests went: `IP:PORT` or `unix:PATH`.
    pub target: String,
    /// The rate of an open loop; none is a closed loop.
    pub per_s: Option<u32>,
    /// Links at the same time.
    pub links: usize,
    /// Whether each request had a link of its own.
    pub connect_each: bool,
    /// Requests on the way on one link.
    pub pipeline: usize,
    /// Clients and their weights.
    pub clients: BTreeMap<&'static str, u32>,
    /// Keys asked for.
    pub keys: usize,
    /// The exponent of Zipf's law among them.
    pub skew: f64,
    /// Seconds before the measured part.
    pub warm_up_s: f64,
    /// Seconds of the measured part, if it was a time.
    pub duration_s: Option<f64>,
    /// Requests of the measured part, if it was a count.
    pub requests: Option<u64>,
    /// Seconds until an answer is given up.
    pub timeout_s: f64,
    /// Seconds of rest between an answer and the next request of a link.
    pub think_s: Option<f64>,
    /// Client processes; 0 is the driver itself.
    pub processes: usize,
    /// Seconds of which each of these lives.
    pub restart_every_s: Option<f64>,
    /// Threads of the driver, or of each process.
    pub threads: usize,
    /// Their CPUs.
    pub cpus: Vec<usize>,
    /// The seed.
    pub seed: u64,
}

/// What the server's process and its children used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerUse {
    /// The process.
    pub pid: u32,
    /// Time on a CPU in the measured part.
    pub cpu_s: f64,
    /// The same for each request of it, in microseconds.
    pub cpu_us_per_request: f64,
    /// Resident before the measured part.
    pub rss_before_kib: u64,
    /// Resident after it.
    pub rss_after_kib: u64,
    /// The most since the process began.
    pub rss_peak_kib: u64,
    /// Resident after it, shared pages counted once.
    pub pss_after_kib: Option<u64>,
}

/// What this process used in the measured part, with the emulator if that runs in it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ClientUse {
    /// Time on a CPU.
    pub cpu_s: f64,
    /// The same for each request, in microseconds.
    pub cpu_us_per_request: f64,
}

/// Links that were opened before the load, asked once each, and stayed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Idle {
    /// How many.
    pub links: usize,
    /// The server's memory before: shared pages counted once, if the kernel tells.
    pub before_kib: u64,
    /// With them.
    pub with_kib: u64,
    /// The difference for each link.
    pub kib_per_link: f64,
    /// After the load, when they were closed.
    pub after_close_kib: u64,
}

/// What arrived upstream from before the first request until after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Token calls.
    pub calls: u64,
    /// Of these, answered 429 by the limits.
    pub throttled: u64,
    /// Requests spoilt by a fault.
    pub faulted: u64,
    /// Requests that broke a rule.
    pub refused: u64,
    /// The most calls in one second since the emulator began.
    pub peak_per_s: u64,
    /// The most at once since the emulator began.
    pub peak_at_once: u64,
}

impl Report {
    pub(crate) fn new(loads: Vec<Load>, client: ClientUse) -> Self {
        Self {
            schema: SCHEMA,
            name: "run".to_owned(),
            loads,
            server: None,
            client,
            idle: None,
            upstream: None,
            slow: Vec::new(),
            restart_ms: None,
            refreshes: None,
            expected: Vec::new(),
            story: Story::default(),
        }
    }

    /// Requests of all loads.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.loads.iter().map(|load| load.requests).sum()
    }

    /// Wrong answers of all loads, those of warm-ups too.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        let wrong = |load: &Load| load.counts.wrong_in_all() + load.warm_up.wrong_in_all();
        self.loads.iter().map(wrong).sum()
    }

    /// What was expected and did not come.
    pub fn broken(&self) -> impl Iterator<Item = &Expected> {
        self.expected.iter().filter(|expected| !expected.kept)
    }

    /// As JSON, for machines.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings always serialise") + "\n"
    }

    /// A few lines, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for load in &self.loads {
            let (counts, latency) = (&load.counts, &load.latency_us);
            let _ = writeln!(
                text,
                "{}: {} requests in {:.2} s, {:.0} answers a second: {} right, {} refused, {} wrong, {} failed",
                load.name,
                load.requests,
                load.took_s,
                load.answers_per_s,
                counts.right,
                counts.refused(),
                counts.wrong_in_all(),
                counts.failed_in_all(),
            );
            for (name, count) in counts.wrong.iter().chain(&counts.failed) {
                let _ = writeln!(text, "  {name}: {count}");
            }
            let _ = writeln!(
                text,
                "  latency, µs: p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
                latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max,
            );
        }
        if let Some(server) = &self.server {
            let _ = writeln!(
                text,
                "server: {:.2} µs on the CPU for each request, {} KiB resident",
                server.cpu_us_per_request, server.rss_after_kib,
            );
        }
        let _ = writeln!(
            text,
            "driver: {:.2} µs on the CPU for each request",
            self.client.cpu_us_per_request,
        );
        if let Some(idle) = &self.idle {
            let _ = writeln!(
                text,
                "idle: {:.2} KiB for each of {} links",
                idle.kib_per_link, idle.links
            );
        }
        if let Some(upstream) = &self.upstream {
            let _ = writeln!(
                text,
                "upstream: {} calls, {} throttled",
                upstream.calls, upstream.throttled
            );
        }
        for slow in &self.slow {
            let (counts, at) = (&slow.counts, slow.at);
            let _ = writeln!(
                text,
                "{}: {} clients, slow at {at:?}: {} right, {} refused, {} wrong, {} failed",
                slow.name,
                slow.links,
                counts.right,
                counts.refused(),
                counts.wrong_in_all(),
                counts.failed_in_all(),
            );
        }
        if let Some(ms) = self.restart_ms {
            let _ = writeln!(text, "restart: {ms} ms to the first good answer");
        }
        for phase in self.refreshes.iter().flat_map(|it| &it.phases) {
            if phase.calls > 0 {
                let _ = writeln!(text, "{}", phase.line());
            }
        }
        for expected in &self.expected {
            let _ = writeln!(
                text,
                "{}: {} {}, wanted {}",
                if expected.kept { "kept" } else { "NOT KEPT" },
                expected.name,
                expected
                    .was
                    .map_or("not counted".to_owned(), |was| was.to_string()),
                expected.wanted,
            );
        }
        text
    }
}

impl Load {
    /// The times of its timeline count from `from_ms`, by the wall clock.
    pub(crate) fn new(name: &str, plan: &Plan, driven: Driven, from_ms: u64) -> Self {
        let curve_us = driven.latency.curve();
        let took_s = rounded(driven.took.as_secs_f64());
        Self {
            name: name.to_owned(),
            plan: Planned::new(plan),
            took_s,
            requests: driven.counts.requests(),
            answers_per_s: if took_s > 0.0 {
                rounded(float(driven.counts.answers()) / took_s)
            } else {
                0.0
            },
            latency_us: driven.latency.percentiles(),
            service_us: driven.service.percentiles(),
            counts: driven.counts,
            warm_up: driven.warm_up,
            links_opened: driven.links_opened,
            links_closed_idle: driven.closed_idle,
            restarts: driven.restarts,
            curve_us,
            life_left_s: driven.lives.told(),
            timeline: driven.timeline.columns(from_ms),
        }
    }
}

impl Planned {
    fn new(plan: &Plan) -> Self {
        let (duration_s, requests) = match plan.length {
            Length::For(length) => (Some(length.as_secs_f64()), None),
            Length::Requests(count) => (None, Some(count)),
        };
        let clients = plan.clients.iter();
        Self {
            target: plan.target.to_string(),
            per_s: match plan.pace {
                Pace::Closed => None,
                Pace::Open { per_s } => Some(per_s),
            },
            links: plan.links,
            connect_each: plan.keep == Keep::OneRequest,
            pipeline: plan.pipeline,
            clients: clients
                .map(|(client, weight)| (client.name(), *weight))
                .collect(),
            keys: plan.keys,
            skew: plan.skew,
            warm_up_s: plan.warm_up.as_secs_f64(),
            duration_s,
            requests,
            timeout_s: plan.timeout.as_secs_f64(),
            think_s: plan.think.map(|think| think.as_secs_f64()),
            processes: plan.processes,
            restart_every_s: plan.restart_every.map(|every| every.as_secs_f64()),
            threads: plan.threads,
            cpus: plan.cpus.clone(),
            seed: plan.seed,
        }
    }
}

/// Microseconds of CPU for each request; 0 without any.
pub(crate) fn each(cpu_us: u64, requests: u64) -> f64 {
    if requests == 0 {
        return 0.0;
    }
    rounded(float(cpu_us) / float(requests))
}

/// To three places: no figure here is worth more.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

pub(crate) fn seconds(cpu_us: u64) -> f64 {
    Duration::from_micros(cpu_us).as_secs_f64()
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts and microseconds of a run have fewer than 53 bits"
)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
