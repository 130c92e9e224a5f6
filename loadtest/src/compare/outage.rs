//! An upstream that fails when a token has not been renewed yet, and goes on failing past its end:
//! first with 500, then in silence. Who serves dead tokens, and how long does anyone wait?

use std::thread;
use std::time::Duration;

use super::expiry::{plan, warm};
use super::peer::Setup;
use super::workload::{Bench, Round, Rounds, Workload, for_caches, ms, upstream};
use crate::clock::steady;
use crate::driver::{Driven, drive};
use crate::outcome::{Counts, Wrong};
use crate::report::float;

const RATE: u32 = 200;

pub(super) const OUTAGE: Workload = Workload {
    name: "outage",
    about: |sizes| {
        format!(
            "{RATE} requests a second on 64 kept links, {} ms each: while the token is good, after its end with an upstream that answers 500, and with one that says nothing; tokens live {} s, caches keep them {} s, clients wait 3 s",
            ms(sizes.outage),
            sizes.life_s,
            sizes.ttl_s()
        )
    },
    leaves_out: for_caches,
    most_rounds: 1,
    begin,
};

fn begin(bench: &Bench) -> anyhow::Result<Rounds> {
    let sizes = bench.sizes;
    let emulator = upstream(sizes.life_s, Duration::ZERO)?;
    let bench = bench.clone();
    Ok(Box::new(move || {
        emulator.clear_modes();
        let ready = bench.ready(&Setup {
            ttl_s: sizes.ttl_s(),
            ..Setup::new(emulator.address())
        })?;
        let server = ready.start()?;
        let mut plan = plan(&ready.target, RATE, sizes.outage);
        if sizes.quick {
            plan.timeout = sizes.outage;
        }
        warm(&plan)?;
        // Whenever it was issued, and whatever a clock rounds.
        let dead = steady() + Duration::from_secs(sizes.life_s + 1);
        emulator.set_mode("status-500")?;
        let alive = drive(&plan, |_| ())?;
        thread::sleep(dead.saturating_duration_since(steady()));
        let error = drive(&plan, |_| ())?;
        emulator.clear_modes();
        emulator.set_mode("hang")?;
        let hang = drive(&plan, |_| ())?;
        drop(server);

        let mut counts = Counts::default();
        for part in [&alive, &error, &hang] {
            counts.merge(&part.counts);
        }
        let wrong = |wrong: Wrong| counts.wrong.get(wrong.as_str()).copied().unwrap_or(0);
        let longest = |part: &Driven| part.latency.percentiles().max / 1_000.0;
        let figures = [
            ("dead", float(wrong(Wrong::Expired))),
            ("wrong_expires_in", float(wrong(Wrong::ExpiresIn))),
            ("alive_refused", float(alive.counts.refused())),
            ("alive_failed", float(alive.counts.failed_in_all())),
            ("error_refused", float(error.counts.refused())),
            ("error_failed", float(error.counts.failed_in_all())),
            ("error_max_ms", longest(&error)),
            ("hang_refused", float(hang.counts.refused())),
            ("hang_failed", float(hang.counts.failed_in_all())),
            ("hang_max_ms", longest(&hang)),
        ];
        Ok(Round {
            figures: figures.into(),
            counts,
        })
    }))
}
