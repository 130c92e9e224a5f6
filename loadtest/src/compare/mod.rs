//! Servers side by side: Foretoken, what an engineer would install in its place, and what a server
//! costs at the least.
//!
//! - `peers` lists the servers, each a `peer`; `workload` lists what is done to them, each in a file
//!   of its own; `loads` has those that are a load and nothing more.
//! - `results` is what comes out, with the `spread` over rounds; `figures` says what each figure is,
//!   `goals` what is aimed at; `table` is all of it for people.
//!
//! A server that is not here is named in the results, and so is one that failed.

mod expiry;
mod figures;
mod footprint;
mod goals;
mod herd;
mod idle;
mod loads;
mod machine;
mod outage;
mod peer;
mod peers;
mod restart;
mod results;
mod spread;
mod table;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::thread::sched_getaffinity;

pub use figures::Figure;
pub use goals::{Goal, Part, Verdict};
pub use machine::Machine;
pub use results::{Answers, Measured, Results, Server, Workload};
pub use spread::{Ratio, Spread};

use crate::process::allow_many_files;
use peer::Peer;
use peers::PEERS;
use workload::{Bench, Rounds, Sizes, WORKLOADS};

/// What is compared, and how thoroughly.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The servers, by name; none are all of them.
    pub only: Vec<String>,
    /// The workloads, by name; none are all of them.
    pub workloads: Vec<String>,
    /// Rounds of each workload; of those that take long, fewer.
    pub rounds: usize,
    /// How long a round is.
    pub round: Duration,
    /// The program of Foretoken; without it, the one beside this program.
    pub foretoken: Option<PathBuf>,
    /// Everything once and as little as will do: shows that it works, and tells nothing of speed.
    pub quick: bool,
    /// Results to which these are added: workloads that are measured again take the old ones' place.
    pub add_to: Option<Results>,
}

/// What happens while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Rounds done.
    pub done: usize,
    /// Rounds in all.
    pub of: usize,
    /// What is done now: workload and server.
    pub now: String,
}

/// The names of servers and of workloads.
#[must_use]
pub fn names() -> (Vec<&'static str>, Vec<&'static str>) {
    (
        PEERS.iter().map(|peer| peer.name).collect(),
        WORKLOADS.iter().map(|workload| workload.name).collect(),
    )
}

/// Compares. What happens is told to `watch`.
///
/// # Errors
/// If a name is unknown or nothing is left to measure. A server that cannot be measured is no
/// error: the results say so.
pub fn compare(options: &Options, watch: impl Fn(&Step)) -> anyhow::Result<Results> {
    let (servers, workloads) = names();
    for (asked, known) in [(&options.only, &servers), (&options.workloads, &workloads)] {
        for name in asked {
            let known_names = || format!("there is no `{name}`, but {}", known.join(", "));
            ensure!(known.contains(&name.as_str()), known_names());
        }
    }
    ensure!(options.rounds > 0, "at least one round is needed");
    allow_many_files();
    let (machine, commit) = (Machine::here(), machine::commit());
    let mut results = match options.add_to.clone() {
        Some(earlier) => {
            ensure!(
                earlier.machine == machine,
                "the earlier results are of another machine"
            );
            let commit = earlier
                .commit
                .clone()
                .filter(|old| commit.as_ref() == Some(old));
            Results { commit, ..earlier }
        }
        None => Results::new(machine, commit),
    };
    let wanted =
        |names: &[String], name: &str| names.is_empty() || names.iter().any(|it| it == name);
    let earlier = std::mem::take(&mut results.servers);
    let mut here = Vec::new();
    for peer in &PEERS {
        let (mut told, program) = peer.look(options.foretoken.as_deref());
        match program {
            Some(program) if wanted(&options.only, peer.name) => here.push((peer, program)),
            Some(_) => match earlier.iter().find(|old| old.name == peer.name) {
                Some(old) => told.clone_from(old),
                None => told.missing = Some("it was not asked for".to_owned()),
            },
            None => {}
        }
        results.servers.push(told);
    }
    ensure!(!here.is_empty(), "no server is here to be compared");

    let planned: Vec<_> = WORKLOADS
        .iter()
        .filter(|it| wanted(&options.workloads, it.name))
        .collect();
    let rounds = |workload: &workload::Workload| {
        let most = if options.quick {
            1
        } else {
            workload.most_rounds
        };
        options.rounds.min(most)
    };
    let taking = |workload: &workload::Workload| {
        here.iter()
            .filter(|(peer, _)| (workload.leaves_out)(peer).is_none())
            .count()
    };
    let mut step = Step {
        done: 0,
        of: planned.iter().map(|it| rounds(it) * taking(it)).sum(),
        now: String::new(),
    };
    let sizes = if options.quick {
        Sizes::quick()
    } else {
        Sizes::full(options.round)
    };
    for workload in planned {
        let measured = run(workload, rounds(workload), &here, sizes, |now| {
            now.clone_into(&mut step.now);
            watch(&step);
            step.done += 1;
        })?;
        results.put(measured);
    }
    results.goals = goals::goals(&results);
    Ok(results)
}

/// One workload at all servers.
fn run(
    workload: &workload::Workload,
    rounds: usize,
    here: &[(&'static Peer, PathBuf)],
    sizes: Sizes,
    mut watch: impl FnMut(&str),
) -> anyhow::Result<Workload> {
    let cpus = own_cpus()?;
    let mut measured = Workload {
        name: workload.name.to_owned(),
        about: (workload.about)(&sizes),
        quick: sizes.quick,
        servers: Vec::new(),
        left_out: std::collections::BTreeMap::new(),
    };
    let mut begun: Vec<(Measured, Rounds)> = Vec::new();
    for (peer, program) in here {
        if let Some(why) = (workload.leaves_out)(peer) {
            measured
                .left_out
                .insert(peer.name.to_owned(), why.to_owned());
            continue;
        }
        let bench = Bench {
            peer,
            program: program.clone(),
            sizes,
            cpus: (cpus[0], cpus[cpus.len() - 1]),
            all_cpus: cpus.len(),
        };
        let own = Measured {
            name: peer.name.to_owned(),
            ..Measured::default()
        };
        match (workload.begin)(&bench) {
            Ok(rounds) => begun.push((own, rounds)),
            Err(error) => {
                measured
                    .left_out
                    .insert(own.name, format!("it failed: {error:#}"));
            }
        }
    }
    for _ in 0..rounds {
        let mut go_on = Vec::new();
        for (mut own, mut round) in begun {
            watch(&format!("{}: {}", workload.name, own.name));
            match round() {
                Ok(one) => {
                    let figures = one.figures.into_iter();
                    own.rounds.push(
                        figures
                            .map(|(name, value)| (name.to_owned(), value))
                            .collect(),
                    );
                    own.answers.add(&one.counts);
                    go_on.push((own, round));
                }
                Err(error) => {
                    measured
                        .left_out
                        .insert(own.name, format!("it failed: {error:#}"));
                }
            }
        }
        begun = go_on;
    }
    measured.servers = begun.into_iter().map(|(own, _)| own).collect();
    measured.sum_up();
    Ok(measured)
}

/// The CPUs that this process may use.
fn own_cpus() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    let cpus: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect();
    cpus.first().context("this process may use no CPU")?;
    Ok(cpus)
}
