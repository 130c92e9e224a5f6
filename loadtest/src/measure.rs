//! Loads with what is measured around them: the server's process, idle links, calls upstream.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use foretoken_emulator::{Counts, Emulator, Scenario};

use crate::ask::{emulator_counts, prime};
use crate::beside::Beside;
use crate::clock::{Now, steady};
use crate::driver::{Driven, Moment, drive};
use crate::idle::IdleLinks;
use crate::plan::Plan;
use crate::process::{Usage, allow_many_files};
use crate::refreshes::{Refreshes, Seen, Span};
use crate::report::{ClientUse, Load, Report, ServerUse, Upstream, each, seconds};
use crate::slow::Slow;
use crate::story::{Played, Story};
use crate::timeline::{Timeline, millis};

/// What is measured, and done before, around one or more loads.
#[derive(Default)]
pub struct Around<'a> {
    /// The server's process.
    pub pid: Option<u32>,
    /// The emulator behind it.
    pub upstream: Option<Source<'a>>,
    /// Links that ask once before the load and then stay idle beside it. They go to the first
    /// load's target.
    pub idle: usize,
    /// Time in which each key of each load must have got a token, before the load begins. None
    /// begins at once.
    pub prime: Option<Duration>,
    /// What happens upstream, in an emulator in this process. It begins before the first request, so
    /// that the first tokens too have the life that it gives.
    pub timeline: Option<Scenario>,
    /// Clients that are slow on purpose, at the first load's target.
    pub slow: Vec<Slow>,
    /// Where the server tells its metrics, if it is a Foretoken: for the lag of its renewals.
    pub admin: Option<SocketAddr>,
    /// How long before and after a call upstream requests count as around it.
    pub window: Duration,
    /// The most calls a second that the server is to make, for the results.
    pub budget_per_s: Option<u64>,
}

/// An emulator that tells its counts.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// By its control path.
    At(SocketAddr),
    /// In this process.
    Here(&'a Emulator),
}

impl Source<'_> {
    fn counts(self) -> anyhow::Result<Counts> {
        match self {
            Self::At(address) => emulator_counts(address),
            Self::Here(emulator) => Ok(emulator.counts()),
        }
    }

    /// The most token calls that it serves in a second, if it tells.
    fn limit_per_s(self) -> Option<u64> {
        match self {
            Self::At(_) => None,
            Self::Here(emulator) => Some(emulator.tuning().limits.requests_per_s)
                .filter(|limit| *limit > 0)
                .map(u64::from),
        }
    }
}

/// What the first of several loads to reach its measured part finds, and leaves for the rest.
struct Began {
    server: Option<Usage>,
    client_us: u64,
}

/// Carries out all loads at the same time. What happens in each is told to `watch` with its number.
///
/// # Errors
/// As [`drive`]; and if the process or the emulator is not there, an idle link cannot be opened, or
/// keys have no tokens in time.
pub fn measure(
    loads: &[(String, Plan)],
    around: &Around,
    watch: impl Fn(usize, Moment) + Sync,
) -> anyhow::Result<Report> {
    for (name, plan) in loads {
        plan.check().with_context(|| format!("load {name}"))?;
    }
    allow_many_files();
    let use_of_server = || around.pid.map(Usage::read).transpose();
    let upstream_before = around.upstream.map(Source::counts).transpose()?;
    if let (Some(Source::Here(emulator)), Some(timeline)) = (around.upstream, &around.timeline) {
        emulator.play(timeline.clone());
    }
    let played = around.timeline.as_ref().map(|scenario| Played {
        scenario,
        began_ms: Now::read().unix_ms(),
    });
    if let Some(within) = around.prime {
        let until = steady() + within;
        // Who comes later comes as a newcomer.
        for (_, plan) in loads.iter().filter(|(_, plan)| plan.after.is_zero()) {
            prime(plan, || steady() > until)?;
        }
    }
    let idle = IdleLinks::open(loads, around)?;

    let began: Mutex<Option<anyhow::Result<Began>>> = Mutex::new(None);
    let begins = || {
        let mut began = began.lock().expect("nobody panics with it");
        began.get_or_insert_with(|| {
            Ok(Began {
                server: use_of_server()?,
                client_us: Usage::own_cpu_us()?,
            })
        });
    };
    let over = AtomicBool::new(false);
    let (driven, beside) = thread::scope(|scope| {
        let (begins, watch) = (&begins, &watch);
        let target = &loads.first().context("there is no load")?.1.target;
        let beside = Beside::start(scope, &around.slow, target, around.admin, &over);
        let all = loads.iter().enumerate().map(|(number, (_, plan))| {
            scope.spawn(move || {
                drive(plan, |moment| {
                    if moment == Moment::Measured {
                        begins();
                    }
                    watch(number, moment);
                })
            })
        });
        let all: Vec<_> = all.collect();
        let all = all.into_iter();
        let all = all.map(|one| one.join().expect("a load that does not panic"));
        let driven = all.collect::<anyhow::Result<Vec<Driven>>>();
        over.store(true, Ordering::Relaxed);
        let beside = beside?.end()?;
        anyhow::Ok((driven?, beside))
    })?;
    let (slow, seen) = beside;
    let began = began.into_inner().expect("nobody panicked with it");
    let began = began.context("no load began")??;
    let (server, client_us) = (use_of_server()?, Usage::own_cpu_us()?);

    let elsewhere_cpu_us: u64 = driven.iter().map(|one| one.elsewhere_cpu_us).sum();
    let mut timeline = Timeline::default();
    driven.iter().for_each(|one| timeline.merge(&one.timeline));
    let from_ms = timeline.cells().next().map_or(0, |(at_ms, _)| at_ms);
    let loads = loads.iter().zip(driven);
    let loads: Vec<_> = loads
        .map(|((name, plan), driven)| Load::new(name, plan, driven, from_ms))
        .collect();
    let requests = loads.iter().map(|load| load.requests).sum();
    let cpu_us = client_us.saturating_sub(began.client_us) + elsewhere_cpu_us;
    let mut report = Report::new(
        loads,
        ClientUse {
            cpu_s: seconds(cpu_us),
            cpu_us_per_request: each(cpu_us, requests),
        },
    );
    if let (Some(pid), Some(before), Some(after)) = (around.pid, began.server, server) {
        report.server = Some(ServerUse::between(pid, &before, &after, requests));
    }
    report.idle = idle.map(|idle| idle.close(around)).transpose()?;
    let counts = around.upstream.map(Source::counts).transpose()?;
    report.story = Story::new(from_ms, counts.as_ref(), played.as_ref());
    report.story.limit_per_s = around.upstream.and_then(Source::limit_per_s);
    report.story.budget_per_s = around.budget_per_s;
    if let (Some(before), Some(counts)) = (upstream_before, counts) {
        report.upstream = Some(Upstream::between(&before, &counts));
        let seen = seen.as_deref();
        report.refreshes = Some(refreshes(&timeline, &counts, seen, around, played.as_ref()));
    }
    report.slow = slow;
    Ok(report)
}

/// In the whole of the loads, and in each phase.
fn refreshes(
    timeline: &Timeline,
    counts: &Counts,
    seen: Option<&[Seen]>,
    around: &Around,
    played: Option<&Played>,
) -> Refreshes {
    let from_ms = timeline.cells().next().map_or(0, |(at_ms, _)| at_ms);
    let to_ms = Now::read().unix_ms();
    let mut spans = vec![Span {
        name: "all",
        time_ms: from_ms..to_ms,
    }];
    for (name, began_ms, ended_ms) in played.map(Played::phases).into_iter().flatten() {
        spans.push(Span {
            name,
            time_ms: began_ms.max(from_ms)..ended_ms.unwrap_or(to_ms).min(to_ms),
        });
    }
    Refreshes::new(millis(around.window), timeline, counts, seen, &spans)
}

impl ServerUse {
    fn between(pid: u32, before: &Usage, after: &Usage, requests: u64) -> Self {
        let cpu_us = after.cpu_us.saturating_sub(before.cpu_us);
        Self {
            pid,
            cpu_s: seconds(cpu_us),
            cpu_us_per_request: each(cpu_us, requests),
            rss_before_kib: before.rss_kib,
            rss_after_kib: after.rss_kib,
            rss_peak_kib: after.rss_peak_kib,
            pss_after_kib: after.pss_kib,
        }
    }
}

impl Upstream {
    fn between(before: &Counts, after: &Counts) -> Self {
        let since = |count: fn(&Counts) -> u64| count(after).saturating_sub(count(before));
        Self {
            calls: since(|counts| counts.token_calls),
            throttled: since(|counts| counts.throttled),
            faulted: since(|counts| counts.faulted),
            refused: since(|counts| counts.refused),
            peak_per_s: after.peak_rate_per_s,
            peak_at_once: after.peak_concurrency,
        }
    }
}
