//! What the report needs of the results of a run or scenario, as their JSON has it.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Run {
    pub name: String,
    pub loads: Vec<Load>,
    pub server: Option<Server>,
    pub idle: Option<Idle>,
    pub upstream: Option<Upstream>,
    #[serde(default)]
    pub slow: Vec<Slow>,
    pub restart_ms: Option<u64>,
    pub refreshes: Option<Refreshes>,
    #[serde(default)]
    pub expected: Vec<Expected>,
    pub story: Story,
}

#[derive(Deserialize)]
pub(super) struct Load {
    pub name: String,
    pub plan: Plan,
    pub requests: u64,
    pub answers_per_s: f64,
    #[serde(flatten)]
    pub counts: Counts,
    pub latency_us: Percentiles,
    pub curve_us: Vec<(f64, f64)>,
    pub life_left_s: Option<LifeLeft>,
    pub timeline: Columns,
}

#[derive(Deserialize)]
pub(super) struct Plan {
    pub per_s: Option<u32>,
    pub links: usize,
    pub connect_each: bool,
    pub pipeline: usize,
    pub keys: usize,
    pub think_s: Option<f64>,
    pub processes: usize,
    pub restart_every_s: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Counts {
    pub right: u64,
    pub by_status: BTreeMap<String, u64>,
    pub wrong: BTreeMap<String, u64>,
    pub failed: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
pub(super) struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

#[derive(Deserialize)]
pub(super) struct LifeLeft {
    pub min: f64,
    pub p1: f64,
    pub p50: f64,
}

#[derive(Deserialize)]
pub(super) struct Columns {
    pub interval_ms: u64,
    pub at_s: Vec<f64>,
    pub p50_us: Vec<f64>,
    pub p99_us: Vec<f64>,
    pub max_us: Vec<f64>,
    pub refused: Vec<u64>,
    pub wrong: Vec<u64>,
    pub failed: Vec<u64>,
}

#[derive(Deserialize)]
pub(super) struct Server {
    pub cpu_us_per_request: f64,
    pub rss_after_kib: u64,
}

#[derive(Deserialize)]
pub(super) struct Idle {
    pub links: u64,
    pub kib_per_link: f64,
}

#[derive(Deserialize)]
pub(super) struct Upstream {
    pub calls: u64,
    pub throttled: u64,
    pub faulted: u64,
    pub peak_per_s: u64,
    pub peak_at_once: u64,
}

#[derive(Deserialize)]
pub(super) struct Slow {
    pub name: String,
    pub links: u64,
    pub pause_s: f64,
    #[serde(flatten)]
    pub counts: Counts,
}

#[derive(Deserialize)]
pub(super) struct Refreshes {
    pub window_s: f64,
    pub phases: Vec<Phase>,
}

#[derive(Deserialize)]
pub(super) struct Phase {
    pub name: String,
    pub calls: u64,
    pub lag: Option<Lag>,
    pub around: Felt,
    pub steady: Felt,
}

#[derive(Deserialize)]
pub(super) struct Lag {
    pub renewed: u64,
    pub mean_ms: f64,
    pub max_ms: f64,
}

#[derive(Deserialize)]
pub(super) struct Felt {
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

#[derive(Deserialize)]
pub(super) struct Expected {
    pub name: String,
    pub wanted: String,
    pub was: Option<u64>,
    pub kept: bool,
}

#[derive(Deserialize)]
pub(super) struct Story {
    pub limit_per_s: Option<u64>,
    pub budget_per_s: Option<u64>,
    pub upstream: Seconds,
    pub calls_at_s: Vec<f64>,
    pub phases: Vec<Span>,
}

#[derive(Deserialize)]
pub(super) struct Seconds {
    pub at_s: Vec<f64>,
    pub calls: Vec<u64>,
    pub throttled: Vec<u64>,
    pub faulted: Vec<u64>,
}

#[derive(Deserialize)]
pub(super) struct Span {
    pub name: String,
    pub from_s: f64,
    pub to_s: Option<f64>,
    pub faults: Vec<String>,
}

impl Counts {
    pub(super) fn refused(&self) -> u64 {
        let refused = self.by_status.iter().filter(|(status, _)| *status != "200");
        refused.map(|(_, count)| count).sum()
    }

    pub(super) fn wrong(&self) -> u64 {
        self.wrong.values().sum()
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.values().sum()
    }
}
