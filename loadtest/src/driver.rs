//! Carries a plan out: threads that each send, read and check on links of their own.
//!
//! A thread has one poll, one buffer to read into and one to write from. It owns its links, its
//! counts and its memory of right answers, so that threads share nothing that is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::clock::steady;
use crate::heads::Head;
use crate::keys::{Choice, resource};
use crate::latency::Latency;
use crate::outcome::Counts;
use crate::plan::{Length, Plan};
use crate::worker::Worker;

/// From the start of the threads to their first request: time for them to be there.
const HEAD_START: Duration = Duration::from_millis(20);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(50);

/// What a plan came to.
#[derive(Debug, Default)]
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

/// What the threads of a plan read in common.
pub(crate) struct Shared {
    pub plan: Plan,
    pub resources: Vec<String>,
    /// By client, then by key.
    pub heads: Vec<Vec<Head>>,
    pub which_client: Choice,
    pub which_key: Choice,
    pub start: Instant,
}

/// Carries it out. What happens meanwhile is told to `watch`, on this thread.
///
/// # Errors
/// If the plan is out of range, a thread cannot be started or bound to its CPU, or the system
/// refuses a poll. That the server refuses or fails is no error: it is counted.
pub fn drive(plan: &Plan, mut watch: impl FnMut(Moment)) -> anyhow::Result<Driven> {
    plan.check()?;
    let resources: Vec<_> = (0..plan.keys).map(|key| resource(key, plan.keys)).collect();
    let heads = plan.clients.iter().map(|(client, _)| {
        let heads = resources.iter();
        heads
            .map(|resource| Head::new(*client, &plan.target, resource))
            .collect()
    });
    let heads = heads.collect();
    let start = steady() + HEAD_START;
    let shared = Arc::new(Shared {
        heads,
        which_client: Choice::new(plan.clients.iter().map(|(_, weight)| f64::from(*weight))),
        which_key: Choice::of_keys(plan.keys, plan.skew),
        start,
        resources,
        plan: plan.clone(),
    });
    let done: Arc<[AtomicU64]> = (0..plan.threads).map(|_| AtomicU64::new(0)).collect();
    let threads = (0..plan.threads).map(|number| {
        let (shared, done) = (Arc::clone(&shared), Arc::clone(&done));
        let thread = thread::Builder::new().name(format!("load-{number}"));
        thread.spawn(move || {
            bind(&shared.plan, number)?;
            Worker::new(&shared, number)?.run(&done[number])
        })
    });
    let threads = threads
        .collect::<Result<Vec<_>, _>>()
        .context("cannot start a thread")?;

    let measured_from = start + plan.warm_up;
    thread::sleep(measured_from.saturating_duration_since(steady()));
    watch(Moment::Measured);
    while threads.iter().any(|thread| !thread.is_finished()) {
        thread::sleep(TELL);
        watch(Moment::Progress {
            requests: done.iter().map(|done| done.load(Ordering::Relaxed)).sum(),
            elapsed: steady().saturating_duration_since(start),
        });
    }
    let mut driven = Driven::default();
    for thread in threads {
        let (one, ended) = thread.join().expect("a thread that does not panic")?;
        driven.merge(&one);
        driven.took = driven
            .took
            .max(ended.saturating_duration_since(measured_from));
    }
    if let Length::For(length) = plan.length {
        // It went on for so long even if the last answer came before.
        driven.took = driven.took.max(length);
    }
    Ok(driven)
}

impl Driven {
    fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.warm_up.merge(&other.warm_up);
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.links_opened += other.links_opened;
        self.closed_idle += other.closed_idle;
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
