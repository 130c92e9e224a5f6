//! The memory of a server that has many keys and many links.

use std::time::Duration;

use super::peer::Setup;
use super::workload::{Bench, DAY_S, Round, Rounds, Workload, for_foretoken, upstream};
use crate::measure::{Around, measure};
use crate::plan::{Length, Plan};
use crate::report::float;

const PRIME: Duration = Duration::from_mins(2);

pub(super) const FOOTPRINT: Workload = Workload {
    name: "footprint",
    about: |sizes| {
        format!(
            "memory with {} keys and {} links, on all CPUs, after {} requests",
            sizes.footprint_keys, sizes.footprint_links, sizes.footprint_keys
        )
    },
    leaves_out: for_foretoken,
    most_rounds: 1,
    begin,
};

fn begin(bench: &Bench) -> anyhow::Result<Rounds> {
    let emulator = upstream(DAY_S, Duration::ZERO)?;
    let bench = bench.clone();
    Ok(Box::new(move || {
        let ready = bench.ready(&Setup {
            workers: bench.all_cpus,
            many_keys: true,
            ..Setup::new(emulator.address())
        })?;
        let server = ready.start()?;
        let plan = Plan {
            keys: bench.sizes.footprint_keys,
            links: 16,
            length: Length::Requests(bench.sizes.footprint_keys as u64),
            ..Plan::new(ready.target.clone())
        };
        let around = Around {
            pid: Some(server.pid()),
            idle: bench.sizes.footprint_links,
            prime: Some(PRIME),
            ..Around::default()
        };
        let report = measure(&[("footprint".to_owned(), plan)], &around, |_, _| ())?;
        let rss_kib = report.server.map_or(0, |server| server.rss_after_kib);
        Ok(Round {
            figures: [("rss_kib", float(rss_kib))].into(),
            counts: report.loads[0].counts.clone(),
        })
    }))
}
