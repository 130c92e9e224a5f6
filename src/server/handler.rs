//! The hot path: one request, from plain values to a finished answer.
//!
//! Names no type of a runtime or an HTTP library, so that any connection loop can call it and a
//! test can count what it allocates. A hit takes no lock, waits for nothing and allocates nothing.

use std::sync::Arc;

use super::reject::Refusal;
use crate::authz::guard::{Facts, Header};
use crate::authz::{Caller, Denial, Policy};
use crate::cache::{Cache, Found, Place, View, Waiter};
use crate::clock::UnixMs;
use crate::protocol::{Dialect, imds};
use crate::refresh::Handle;
use crate::telemetry::metrics::{Metrics, Outcome as Label, WorkerCounters};

/// Longer targets than any client sends; the longest recorded is 330 bytes.
pub const MAX_TARGET_BYTES: usize = 4096;

/// A listener as the handler sees it.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Tells listeners apart in what workers remember.
    pub id: u32,
    /// What it speaks.
    pub dialects: Vec<Dialect>,
}

/// Settings that may change while running: one immutable value, handed to each worker whole.
#[derive(Debug)]
pub struct Live {
    /// Who may have what.
    pub policy: Policy,
    /// The upstream's name in token keys.
    pub upstream: Box<str>,
}

/// One request as it came off the wire.
pub struct Request<'a> {
    /// Where it came in.
    pub gate: &'a Gate,
    /// Who sent it.
    pub caller: &'a Caller,
    /// The method's bytes.
    pub method: &'a [u8],
    /// The raw request target.
    pub target: &'a [u8],
    /// The headers in their order.
    pub headers: &'a [Header<'a>],
    /// Whether it has waited on a flight already; it is counted only once.
    pub waited: bool,
}

/// What to do about a request.
pub enum Outcome<'w> {
    /// Send 200 with this body, as it is.
    Answer([&'w [u8]; 5]),
    /// Wait, then ask again.
    Wait(Waiter),
    /// Send a refusal.
    Refuse(Refusal),
}

/// Everything one worker thread needs to answer; nothing in it is shared for writing.
pub struct Worker {
    view: View,
    live: Arc<Live>,
    refresh: Handle,
    counters: Arc<WorkerCounters>,
    metrics: Metrics,
}

/// Answers one request at `now`.
pub fn handle<'w>(worker: &'w mut Worker, request: &Request<'_>, now: UnixMs) -> Outcome<'w> {
    let facts = Facts::read(request.headers.iter().copied());
    if let Err(trespass) = facts.admit() {
        return worker.refuse(request, Refusal::Trespass(trespass));
    }
    if !worker.live.policy.knows(request.caller) {
        return worker.refuse(request, Refusal::Denied(Denial));
    }
    if request.target.len() > MAX_TARGET_BYTES {
        return worker.refuse(request, Refusal::TargetTooLong);
    }
    let (path, query) = split_target(request.target);
    let Some(dialect) = request.gate.route(path) else {
        return worker.refuse(request, Refusal::NoRoute);
    };
    if request.method != b"GET" {
        return worker.refuse(request, Refusal::Method);
    }
    if !facts.has_metadata() {
        return worker.refuse(request, Refusal::NoMetadata);
    }
    let known = worker.view.find(request.gate.id, request.target);
    let place = match known.map_or_else(|| worker.learn(request, dialect, query), Ok) {
        Ok(place) => place,
        Err(refusal) => return worker.refuse(request, refusal),
    };
    match worker.view.look(place, now, request.waited) {
        Found::Body(body) => {
            worker.counters.count_unless(request.waited, Label::Hit);
            Outcome::Answer(body)
        }
        Found::Wait(waiter, leader) => {
            let label = if leader.is_some() {
                Label::Miss
            } else {
                Label::Coalesced
            };
            worker.counters.count_unless(request.waited, label);
            if let Some((slot, leader)) = leader {
                worker.refresh.demand(slot, leader);
            }
            Outcome::Wait(waiter)
        }
        Found::Full => {
            worker.counters.count_unless(request.waited, Label::Refused);
            worker.metrics.refused(Refusal::Full.reason());
            Outcome::Refuse(Refusal::Full)
        }
    }
}

impl Worker {
    /// A worker with an empty view.
    #[must_use]
    pub fn new(cache: Arc<Cache>, live: Arc<Live>, refresh: Handle, metrics: Metrics) -> Self {
        let counters = metrics.add_worker();
        Self {
            view: View::new(cache, metrics.clone()),
            live,
            refresh,
            counters,
            metrics,
        }
    }

    /// The 1 s tick: adds up hits and lets go of what is no longer current.
    pub fn tick(&mut self) {
        let used = self.view.tick();
        self.refresh.used(used);
    }

    /// Notes that a request which had waited ends with an error after all.
    pub fn give_up(&self, refusal: &Refusal) {
        self.metrics.refused(refusal.reason());
    }

    /// Counts a request that was turned away before it could be handled.
    pub fn turn_away(&self, refusal: &Refusal) {
        self.counters.count(Label::Refused);
        self.metrics.refused(refusal.reason());
    }

    /// The full parse of a target that this worker has not seen on this listener.
    fn learn(
        &mut self,
        request: &Request<'_>,
        dialect: Dialect,
        query: &[u8],
    ) -> Result<Place, Refusal> {
        let asked = match dialect {
            _ => imds::parse(query)?,
        };
        let key = asked.into_key(&self.live.upstream);
        let permit = self.live.policy.permit(request.caller, key)?;
        let place = self
            .view
            .remember(request.gate.id, request.target, dialect, permit);
        place.map_err(|_| Refusal::Full)
    }

    fn refuse<'w>(&self, request: &Request<'_>, refusal: Refusal) -> Outcome<'w> {
        self.counters.count_unless(request.waited, Label::Refused);
        self.metrics.refused(refusal.reason());
        Outcome::Refuse(refusal)
    }
}

impl Gate {
    fn route(&self, path: &[u8]) -> Option<Dialect> {
        self.dialects
            .iter()
            .copied()
            .find(|dialect| dialect.paths().contains(&path))
    }
}

fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}
