//! A restart: from the start of the process to its first good answer, out of what it had stored.

use std::thread;
use std::time::Duration;

use anyhow::ensure;

use super::peer::Setup;
use super::workload::{Bench, DAY_S, Round, Rounds, Workload, for_foretoken, ms, upstream};
use crate::ask::{Asker, prime};
use crate::check::{Between, Checker};
use crate::clock::{Now, steady};
use crate::keys::resource;
use crate::outcome::{Counts, Outcome};
use crate::plan::Plan;
use crate::report::float;

/// What is stored lags behind what is served.
const STORED: Duration = Duration::from_secs(2);
const PRIME: Duration = Duration::from_mins(1);

pub(super) const RESTART: Workload = Workload {
    name: "restart",
    about: |sizes| {
        format!(
            "from the start of the process to its first good answer, with {} stored keys, on all CPUs",
            sizes.restart_keys
        )
    },
    leaves_out: for_foretoken,
    most_rounds: usize::MAX,
    begin,
};

fn begin(bench: &Bench) -> anyhow::Result<Rounds> {
    let emulator = upstream(DAY_S, Duration::ZERO)?;
    let ready = bench.ready(&Setup {
        workers: bench.all_cpus,
        many_keys: true,
        ..Setup::new(emulator.address())
    })?;
    let keys = bench.sizes.restart_keys;
    let filled = ready.start()?;
    let until = steady() + PRIME;
    let plan = Plan {
        keys,
        ..Plan::new(ready.target.clone())
    };
    prime(&plan, || steady() > until)?;
    thread::sleep(STORED);
    drop(filled);
    Ok(Box::new(move || {
        emulator.reset_counts();
        let began = Now::read();
        let server = ready.start()?;
        // The last one that was stored.
        let asked = keys - 1;
        let (status, body) = Asker::open(&ready.target)?.token(&ready.target, asked, keys)?;
        let answered = Now::read();
        let mut checker = Checker::new((0..keys).map(|key| resource(key, keys)).collect());
        let when = Between {
            asked_ms: began.unix_ms(),
            arrived_ms: answered.unix_ms(),
        };
        let outcome = checker.judge(asked, status, &body, when);
        ensure!(
            outcome == Outcome::Right,
            "the first answer is {}",
            outcome.as_str()
        );
        let calls = emulator.counts().token_calls;
        drop(server);
        let mut counts = Counts::default();
        counts.add(outcome);
        let figures = [
            ("first_answer_ms", ms(answered.steady - began.steady)),
            ("upstream_calls", float(calls)),
        ];
        Ok(Round {
            figures: figures.into(),
            counts,
        })
    }))
}
