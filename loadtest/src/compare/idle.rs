//! Links that wait for nothing: what each weighs, and what of that stays when they are closed.

use std::time::Duration;

use super::peer::Setup;
use super::workload::{Bench, DAY_S, Round, Rounds, Workload, for_all, upstream};
use crate::measure::{Around, measure};
use crate::plan::{Length, Plan};
use crate::report::{float, rounded};

pub(super) const IDLE: Workload = Workload {
    name: "idle",
    about: |sizes| {
        format!(
            "{} kept links that asked once each, memory of each, and what is left of it when they are closed",
            sizes.idle_links
        )
    },
    leaves_out: for_all,
    most_rounds: 2,
    begin,
};

fn begin(bench: &Bench) -> anyhow::Result<Rounds> {
    let emulator = upstream(DAY_S, Duration::ZERO)?;
    let ready = bench.ready(&Setup::new(emulator.address()))?;
    let links = bench.sizes.idle_links;
    Ok(Box::new(move || {
        let _upstream = &emulator;
        // A process that never had links: what it keeps of them is looked at once only.
        let server = ready.start()?;
        let plan = Plan {
            length: Length::Requests(1),
            ..Plan::new(ready.target.clone())
        };
        let around = Around {
            pid: Some(server.pid()),
            idle: links,
            prime: Some(Duration::from_secs(10)),
            ..Around::default()
        };
        let report = measure(&[("idle".to_owned(), plan)], &around, |_, _| ())?;
        let mut round = Round {
            counts: report.loads[0].counts.clone(),
            ..Round::default()
        };
        if let Some(idle) = report.idle {
            let kept = float(idle.after_close_kib) - float(idle.before_kib);
            round.figures.insert("kib_per_link", idle.kib_per_link);
            let kept_kib = rounded(kept / float(links as u64));
            round.figures.insert("kept_kib_per_link", kept_kib);
        }
        Ok(round)
    }))
}
