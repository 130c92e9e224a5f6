//! Many callers at once for a key that nobody has: how many calls that makes, and when the last
//! caller has the answer.

use anyhow::Context as _;

use super::peer::Setup;
use super::workload::{Bench, DAY_S, Round, Rounds, Workload, for_caches, ms, upstream};
use crate::clock::Now;
use crate::driver::{Moment, drive};
use crate::plan::{Length, Plan};
use crate::report::{float, rounded};

pub(super) const HERD: Workload = Workload {
    name: "herd",
    about: |sizes| {
        format!(
            "{} new links ask for one cold key at once, the upstream takes {} ms",
            sizes.herd_links,
            ms(sizes.herd_latency)
        )
    },
    leaves_out: for_caches,
    most_rounds: 3,
    begin,
};

fn begin(bench: &Bench) -> anyhow::Result<Rounds> {
    let emulator = upstream(DAY_S, bench.sizes.herd_latency)?;
    let (links, latency) = (bench.sizes.herd_links, bench.sizes.herd_latency);
    let bench = bench.clone();
    Ok(Box::new(move || {
        emulator.reset_counts();
        let cold = bench.ready(&Setup::new(emulator.address()))?;
        let server = cold.start()?;
        let plan = Plan {
            links,
            length: Length::Requests(links as u64),
            ..Plan::new(cold.target.clone())
        };
        let mut began_ms = 0;
        let driven = drive(&plan, |moment| {
            if moment == Moment::Measured {
                began_ms = Now::read().unix_ms();
            }
        })?;
        drop(server);
        let counts = emulator.counts();
        let first_ms = counts.arrivals_unix_ms.iter().min().copied();
        let first_ms = first_ms.context("nothing arrived upstream")?;
        let answered_ms = float(first_ms) + ms(latency);
        let last_ms = float(began_ms) + ms(driven.took);
        let figures = [
            ("upstream_calls", float(counts.token_calls)),
            ("last_after_ms", rounded(last_ms - answered_ms)),
            ("max_ms", driven.latency.percentiles().max / 1_000.0),
        ];
        Ok(Round {
            figures: figures.into(),
            counts: driven.counts,
        })
    }))
}
