//! Tokens that end while they are asked for, and an upstream that takes its time: does anyone wait?

use std::time::Duration;

use super::peer::Setup;
use super::workload::{Bench, Round, Rounds, Workload, for_caches, ms, upstream};
use crate::ask::prime;
use crate::clock::steady;
use crate::driver::drive;
use crate::plan::{Length, Pace, Plan, Target};
use crate::report::float;

const RATE: u32 = 2_000;
pub(super) const PRIME: Duration = Duration::from_secs(10);

pub(super) const EXPIRY: Workload = Workload {
    name: "expiry",
    about: |sizes| {
        format!(
            "{RATE} requests a second for {} ms on 64 kept links; tokens live {} s, caches keep them {} s, the upstream takes {} ms",
            ms(sizes.expiry),
            sizes.life_s,
            sizes.ttl_s(),
            ms(sizes.slow)
        )
    },
    leaves_out: for_caches,
    most_rounds: 3,
    begin,
};

fn begin(bench: &Bench) -> anyhow::Result<Rounds> {
    let sizes = bench.sizes;
    let emulator = upstream(sizes.life_s, sizes.slow)?;
    let bench = bench.clone();
    Ok(Box::new(move || {
        let ready = bench.ready(&Setup {
            ttl_s: sizes.ttl_s(),
            ..Setup::new(emulator.address())
        })?;
        let server = ready.start()?;
        let plan = plan(&ready.target, RATE, sizes.expiry);
        warm(&plan)?;
        emulator.reset_counts();
        let driven = drive(&plan, |_| ())?;
        drop(server);
        let latency = driven.latency.percentiles();
        let figures = [
            ("upstream_calls", float(emulator.counts().token_calls)),
            ("max_ms", latency.max / 1_000.0),
            ("p99_us", latency.p99),
            ("p50_us", latency.p50),
            ("waited", float(driven.latency.at_least(sizes.slow / 5))),
        ];
        Ok(Round {
            figures: figures.into(),
            counts: driven.counts,
        })
    }))
}

/// Callers at a fixed rate on kept links.
pub(super) fn plan(target: &Target, per_s: u32, length: Duration) -> Plan {
    Plan {
        pace: Pace::Open { per_s },
        links: 64,
        length: Length::For(length),
        timeout: Duration::from_secs(3),
        ..Plan::new(target.clone())
    }
}

/// Until there is a token for each key.
pub(super) fn warm(plan: &Plan) -> anyhow::Result<()> {
    let until = steady() + PRIME;
    prime(plan, || steady() > until)
}
