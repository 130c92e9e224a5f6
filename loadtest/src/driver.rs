//! Carries a plan out: threads that each send, read and check on links of their own.
//!
//! A thread has one poll, one buffer to read into and one to write from. It owns its links, its
//! counts and its memory of right answers, so that threads share nothing that is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::clock::steady;
use crate::heads::Head;
use crate::keys::{Choice, resource};
use crate::latency::Latency;
use crate::life::Lives;
use crate::outcome::Counts;
use crate::plan::{Length, Plan};
use crate::processes;
use crate::timeline::Timeline;
use crate::worker::Worker;

/// From the start of the threads to their first request: time for them to be there.
pub(crate) const HEAD_START: Duration = Duration::from_millis(20);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(50);

/// What a plan came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Driven {
    /// Requests of the measured part.
    pub counts: Counts,
    /// Requests of the warm-up.
    pub warm_up: Counts,
    /// From when a request was to be sent until its answer had arrived. A request that failed
    /// counts with the time until that was known.
    pub latency: Latency,
    /// From when a request was sent.
    pub service: Latency,
    /// Links opened, warm-up included.
    pub links_opened: u64,
    /// Links that the server closed while nothing was on its way on them.
    pub closed_idle: u64,
    /// From the start of the measured part to its last answer.
    pub took: Duration,
    /// Client processes that ended before the load did, each followed by another.
    pub restarts: u64,
    /// Time on a CPU in the measured part of other processes than this one.
    pub elsewhere_cpu_us: u64,
    /// The same requests as `counts`, by when they were due.
    pub(crate) timeline: Timeline,
    /// What was left of the tokens of right answers.
    pub(crate) lives: Lives,
}

/// What happens while a plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The measured part begins now.
    Measured,
    /// So much is done.
    Progress {
        /// Requests done with, warm-up included.
        requests: u64,
        /// Since the first request.
        elapsed: Duration,
    },
}

/// What the threads of a plan in this process read in common.
pub(crate) struct Shared {
    pub plan: Plan,
    pub resources: Vec<String>,
    /// By client, then by key.
    pub heads: Vec<Vec<Head>>,
    pub which_client: Choice,
    pub which_key: Choice,
    pub part: Part,
}

/// Which part of a plan this process has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// When the load begins, everywhere.
    pub start: Instant,
    /// The number of its first thread among those of all processes.
    pub first: usize,
    /// From when until when it is there.
    pub from: Duration,
    pub until: Option<Duration>,
}

impl Shared {
    /// For the whole of a plan, which begins now.
    pub(crate) fn new(plan: &Plan) -> Self {
        let resources: Vec<_> = (0..plan.keys).map(|key| resource(key, plan.keys)).collect();
        let heads = plan.clients.iter().map(|(client, _)| {
            let heads = resources.iter();
            heads
                .map(|resource| Head::new(*client, &plan.target, resource))
                .collect()
        });
        Self {
            heads: heads.collect(),
            which_client: Choice::new(plan.clients.iter().map(|(_, weight)| f64::from(*weight))),
            which_key: Choice::of_keys(plan.keys, plan.skew),
            resources,
            part: Part {
                start: steady() + HEAD_START,
                first: 0,
                from: Duration::ZERO,
                until: None,
            },
            plan: plan.clone(),
        }
    }
}

/// Carries it out. What happens meanwhile is told to `watch`, on this thread.
///
/// # Errors
/// If the plan is out of range, a thread or process cannot be started or bound to its CPU, or the
/// system refuses a poll. That the server refuses or fails is no error: it is counted.
pub fn drive(plan: &Plan, watch: impl FnMut(Moment)) -> anyhow::Result<Driven> {
    plan.check()?;
    if plan.processes > 0 {
        return processes::drive(plan, watch);
    }
    drive_part(Shared::new(plan), watch)
}

/// Carries out this process's part of a plan.
pub(crate) fn drive_part(shared: Shared, watch: impl FnMut(Moment)) -> anyhow::Result<Driven> {
    let shared = Arc::new(shared);
    let plan = &shared.plan;
    let done: Arc<[AtomicU64]> = (0..plan.threads).map(|_| AtomicU64::new(0)).collect();
    let threads = (0..plan.threads).map(|number| {
        let (shared, done) = (Arc::clone(&shared), Arc::clone(&done));
        let thread = thread::Builder::new().name(format!("load-{number}"));
        thread.spawn(move || {
            let among_all = shared.part.first + number;
            bind(&shared.plan, among_all)?;
            Worker::new(&shared, among_all)?.run(&done[number])
        })
    });
    let threads = threads
        .collect::<Result<Vec<_>, _>>()
        .context("cannot start a thread")?;
    join_all(plan, shared.part.start, threads, &done, watch)
}

/// Waits for all threads, tells what happens, and puts together what they bring. Each brings when
/// its last answer came.
pub(crate) fn join_all(
    plan: &Plan,
    start: Instant,
    threads: Vec<JoinHandle<anyhow::Result<(Driven, Instant)>>>,
    done: &[AtomicU64],
    mut watch: impl FnMut(Moment),
) -> anyhow::Result<Driven> {
    let measured_from = start + plan.warm_up;
    let mut measured = false;
    loop {
        let now = steady();
        if now >= measured_from && !measured {
            measured = true;
            watch(Moment::Measured);
        }
        if threads.iter().all(JoinHandle::is_finished) {
            break;
        }
        let measures = measured_from.saturating_duration_since(now);
        thread::sleep(if measured { TELL } else { TELL.min(measures) });
        watch(Moment::Progress {
            requests: done.iter().map(|done| done.load(Ordering::Relaxed)).sum(),
            elapsed: steady().saturating_duration_since(start),
        });
    }
    let mut driven = Driven::new(plan);
    for thread in threads {
        let (one, ended) = thread.join().expect("a thread that does not panic")?;
        driven.merge(&one);
        let took = ended.saturating_duration_since(measured_from);
        driven.took = driven.took.max(one.took).max(took);
    }
    if let Length::For(length) = plan.length {
        // It went on for so long even if the last answer came before.
        driven.took = driven.took.max(length);
    }
    Ok(driven)
}

impl Driven {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            timeline: Timeline::new(plan.interval, plan.lasts()),
            ..Self::default()
        }
    }

    /// All but `took`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.warm_up.merge(&other.warm_up);
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.links_opened += other.links_opened;
        self.closed_idle += other.closed_idle;
        self.restarts += other.restarts;
        self.elsewhere_cpu_us += other.elsewhere_cpu_us;
        self.timeline.merge(&other.timeline);
        self.lives.merge(&other.lives);
    }
}

fn bind(plan: &Plan, number: usize) -> anyhow::Result<()> {
    if plan.cpus.is_empty() {
        return Ok(());
    }
    bind_to(&plan.cpus[number % plan.cpus.len()..][..1])
}

/// Binds the calling thread, and what it starts from now on, to these CPUs.
pub(crate) fn bind_to(cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        anyhow::ensure!(*cpu < CpuSet::MAX_CPU, "there is no CPU {cpu}");
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpus:?}"))
}
