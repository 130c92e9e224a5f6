//! The matrix: every fault mode of the emulator against the built program, over sockets, while it
//! holds no token, a fresh one, and one in its last minute. `./recipes matrix` plays all of them,
//! `./recipes reliability` writes the table of it, `docs/reliability.md`; `cargo test` plays a sample.
//!
//! A row is a process of its own before an emulator of its own. Asserted are counts, statuses,
//! tokens and that everything ends; times are reported.

mod cell;
mod scenarios;
mod table;
mod watch;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use foretoken::upstream::Kind;
use foretoken_emulator::{Group, Mode, modes};

use crate::support::source::played;
use cell::Row;

/// Names the file that gets the table; with it every mode is played.
const TABLE: &str = "FORETOKEN_TABLE";
/// Plays the modes whose names hold this, for one who looks into one; empty, every mode.
const MODE: &str = "FORETOKEN_MODE";
/// Rows are played beside each other: they mostly wait.
const LANES: usize = 28;

/// Of each group the ways that are least alike, and none that asks for minutes.
const SAMPLE: [&str; 17] = [
    "status-400",
    "status-429-after-seconds",
    "status-503-after-date",
    "token-as-500",
    "connect-refused",
    "hang",
    "reset-mid-body",
    "length-too-short",
    "chunked-cut",
    "coding-unknown",
    "redirect-self",
    "json-truncated",
    "bad-utf-8",
    "wrong-resource",
    "expired-token",
    "unchanged",
    "tls-other-certificate",
];

#[test]
fn every_fault_mode_meets_keys_that_are_cold_warm_and_in_their_last_minute() {
    let file = std::env::var_os(TABLE);
    let mut jobs = jobs();
    if let Ok(part) = std::env::var(MODE) {
        jobs.retain(|job| job.mode.name().contains(&part));
    } else if file.is_none() {
        jobs.retain(|job| SAMPLE.contains(&job.mode.name()));
        assert!(jobs.len() >= SAMPLE.len(), "a mode has another name");
    }
    // What asks for minutes begins first.
    jobs.sort_by_key(|job| std::cmp::Reverse(cell::asked_ms(job.mode)));
    let mut rows = in_lanes(&jobs, |job| cell::play(job.mode, job.kind));
    let places = modes().iter().map(Mode::name).collect::<Vec<_>>();
    rows.sort_by_key(|row| places.iter().position(|name| *name == row.mode.name()));
    if let Some(file) = file {
        table::write(file.as_ref(), &rows);
    }
    let wrong: Vec<_> = rows.iter().flat_map(Row::wrong).collect();
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        rows.len(),
        wrong.join("\n")
    );
}

struct Job {
    mode: &'static Mode,
    kind: Kind,
}

/// Each mode with IMDS if it makes sense there, else with each kind that it makes sense for.
fn jobs() -> Vec<Job> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fits = |mode: &Mode, kind| mode.fault(&played(kind, folder.path())).is_some();
    let mut jobs = Vec::new();
    for mode in modes() {
        if fits(mode, Kind::Imds) {
            jobs.push(Job {
                mode,
                kind: Kind::Imds,
            });
            continue;
        }
        let others = [
            Kind::AppService2017,
            Kind::ServiceFabric,
            Kind::WorkloadIdentity,
        ];
        let others: Vec<_> = others
            .into_iter()
            .filter(|kind| fits(mode, *kind))
            .collect();
        let nowhere = mode.kinds().is_empty() && mode.group() == Group::Connect;
        assert!(!others.is_empty() || nowhere, "{}", mode.name());
        jobs.extend(others.into_iter().map(|kind| Job { mode, kind }));
    }
    jobs
}

/// Does all jobs, so many at a time.
fn in_lanes<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let lane = || {
        let mut done = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(work(job));
        }
        done
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES.min(jobs.len()))
            .map(|_| scope.spawn(lane))
            .collect();
        let ended = lanes.into_iter().map(ScopedJoinHandle::join);
        ended.flat_map(|done| done.expect("no panic")).collect()
    })
}
