//! A dense machine: many client processes with a few links each, all CPUs for everyone.
//!
//! Each process is a `foretoken-load run` of its own. Percentiles of all of them together cannot be
//! had from those of each, so the figure is that of the process in the middle.

use std::env;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::peer::Setup;
use super::workload::{Bench, Round, Rounds, Running, Workload, for_all};
use crate::ask::prime;
use crate::clock::steady;
use crate::outcome::{Counts, Failed, Wrong};
use crate::plan::Plan;
use crate::process::Usage;
use crate::report::{each, rounded};

const LINKS: usize = 2;

pub(super) const DENSE: Workload = Workload {
    name: "dense",
    about: |sizes| {
        format!(
            "{} client processes with {LINKS} kept links each, closed loop, one worker for each CPU, nothing pinned from outside; latencies are those of the process in the middle",
            sizes.processes
        )
    },
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin,
};

fn begin(bench: &Bench) -> anyhow::Result<Rounds> {
    let running = Running::start(bench, |setup| Setup {
        workers: bench.all_cpus,
        ..setup
    })?;
    let until = steady() + Duration::from_secs(10);
    prime(&Plan::new(running.ready.target.clone()), || {
        steady() > until
    })?;
    let (processes, round) = (bench.sizes.processes, bench.sizes.round);
    Ok(Box::new(move || {
        let Running { server, ready, .. } = &running;
        let folder = tempfile::tempdir()?;
        let before = Usage::read(server.pid())?;
        let clients = (0..processes).map(|number| {
            let out = folder.path().join(number.to_string());
            let child = Command::new(env::current_exe()?)
                .args([
                    "run",
                    "--links",
                    &LINKS.to_string(),
                    "--to",
                    &ready.target.to_string(),
                ])
                .args(["--duration", &format!("{}ms", round.as_millis())])
                .args(["--seed", &number.to_string()])
                .arg("--out")
                .arg(&out)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            Ok((Client(child?), out))
        });
        let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        let mut loads = Vec::new();
        for (mut client, out) in clients {
            client.0.wait()?;
            let report: Value = serde_json::from_slice(&fs::read(out).context("a client failed")?)?;
            loads.push(report["loads"][0].clone());
        }
        let after = Usage::read(server.pid())?;
        sum_up(&loads, after.cpu_us.saturating_sub(before.cpu_us))
    }))
}

/// A process that ends with this, if it has not ended by itself.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        // Nothing is done to one that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sum_up(loads: &[Value], cpu_us: u64) -> anyhow::Result<Round> {
    ensure!(!loads.is_empty(), "there are no client processes");
    let rates = loads
        .iter()
        .filter_map(|load| load["answers_per_s"].as_f64());
    let middle = |name: &str| {
        let mut values: Vec<_> = loads
            .iter()
            .filter_map(|load| load["latency_us"][name].as_f64())
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let requests = loads
        .iter()
        .filter_map(|load| load["requests"].as_u64())
        .sum();
    let figures = [
        ("answers_per_s", rounded(rates.sum())),
        ("p50_us", middle("p50")),
        ("p99_us", middle("p99")),
        ("p99_9_us", middle("p99_9")),
        ("max_us", middle("max")),
        ("cpu_us_per_request", each(cpu_us, requests)),
    ];
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let mut counts = Counts::default();
    for load in loads {
        let mut one = Counts {
            right: count(&load["right"]),
            ..Counts::default()
        };
        for (status, number) in load["by_status"].as_object().into_iter().flatten() {
            one.by_status.insert(status.parse()?, count(number));
        }
        for wrong in Wrong::ALL.map(Wrong::as_str) {
            add(&mut one.wrong, wrong, count(&load["wrong"][wrong]));
        }
        for failed in Failed::ALL.map(Failed::as_str) {
            add(&mut one.failed, failed, count(&load["failed"][failed]));
        }
        counts.merge(&one);
    }
    Ok(Round {
        figures: figures.into(),
        counts,
    })
}

fn add(to: &mut std::collections::BTreeMap<&'static str, u64>, name: &'static str, count: u64) {
    if count > 0 {
        to.insert(name, count);
    }
}
