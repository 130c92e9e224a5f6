//! The hot path: one request, from plain values to a finished answer.
//!
//! Names no type of a runtime or an HTTP library, so that any connection loop can call it and a
//! test can count what it allocates. A hit takes no lock, waits for nothing and allocates nothing.

use std::sync::Arc;

use super::arc_keys::ArcKeys;
use super::head::BadHead;
use super::known::Known;
use super::reject::Refusal;
use crate::authz::guard::{Facts, Header, Trespass};
use crate::authz::{Caller, Denial, Policy, Proven};
use crate::cache::{Asked, Cache, Found, Place, Turn, View, Waiter};
use crate::clock::UnixMs;
use crate::protocol::{Body, Dialect, Proof, Shape, parse, recognise};
use crate::refresh::Handle;
use crate::telemetry::metrics::{Metrics, Outcome as Label, WorkerCounters};

/// Longer targets than any client sends; the longest recorded is 330 bytes.
pub const MAX_TARGET_BYTES: usize = 4096;

/// A listener as the handler sees it.
#[derive(Clone)]
pub struct Gate {
    /// Tells listeners apart in what workers remember.
    pub id: u32,
    /// What it speaks.
    pub dialects: Vec<Dialect>,
    /// Write `expires_on` of 2017-09-01 as a date.
    pub dates_2017: bool,
    /// Answer IMDS requests that lack `Metadata: true`.
    pub without_metadata: bool,
    /// The challenges of the dialect `arc`.
    pub arc: Option<Arc<ArcKeys>>,
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
    /// The body of a POST, without its framing.
    pub form: &'a [u8],
    /// All bytes of the head, if the request has no body and the connection goes on after it: it may
    /// be known next time.
    pub head: Option<&'a [u8]>,
    /// How often it has been here; it is counted, and proves itself, only once.
    pub turn: Turn,
}

/// What to do about a request.
pub enum Outcome<'w> {
    /// Send 200 with this body, as it is.
    Answer(Body<'w>),
    /// Wait, then ask again.
    Wait(Waiter),
    /// Write a key file, and send 401 with its path: Arc's challenge. Counted by whoever sends it,
    /// since there may be no room for one more.
    Challenge(Arc<ArcKeys>),
    /// Send a refusal in the shape of this dialect.
    Refuse(Refusal, Dialect),
}

/// Everything one worker thread needs to answer; nothing in it is shared for writing.
pub struct Worker {
    view: View,
    live: Arc<Live>,
    refresh: Handle,
    counters: Arc<WorkerCounters>,
    metrics: Metrics,
    /// A target and its form in one piece, as they are remembered together.
    scratch: Vec<u8>,
    known: Known,
}

/// Answers the request that the bytes start with, if it is one that came in here before: says also
/// how many bytes it has. It has no body, and the connection goes on after it.
pub fn recall<'w>(
    worker: &'w mut Worker,
    gate: &Gate,
    caller: &Caller,
    bytes: &[u8],
    now: UnixMs,
) -> Option<(usize, Outcome<'w>)> {
    if !worker.live.policy.knows(caller) {
        return None;
    }
    let known = worker.known.find(gate.id, bytes)?;
    let (len, dialect, place) = (known.bytes(), known.dialect, known.place);
    worker
        .view
        .keeps(place)
        .then(|| (len, worker.look(place, dialect, now, Turn::First)))
}

/// Answers one request at `now`.
pub fn handle<'w>(worker: &'w mut Worker, request: &Request<'_>, now: UnixMs) -> Outcome<'w> {
    let facts = Facts::read(request.headers.iter().copied());
    let unknown = request.gate.first_dialect();
    if let Err(trespass) = facts.admit_to(worker.live.policy.remote_callers) {
        return worker.refuse(request, Refusal::Trespass(trespass), unknown);
    }
    if !worker.live.policy.knows(request.caller) {
        return worker.refuse(request, Refusal::Denied(Denial::Remote), unknown);
    }
    if request.target.len() > MAX_TARGET_BYTES {
        return worker.refuse(request, Refusal::BadHead(BadHead::TargetTooLong), unknown);
    }
    let (path, query) = split_target(request.target);
    let Some(dialect) = recognise(&request.gate.dialects, path, query) else {
        return worker.refuse(request, Refusal::NoRoute, unknown);
    };
    if !dialect.methods().take(request.method) {
        return worker.refuse(request, Refusal::Method(dialect.methods()), dialect);
    }
    if request.method == b"GET" && facts.has_body() {
        return worker.refuse(request, Refusal::Trespass(Trespass::Body), dialect);
    }
    if request.method == b"POST" && !facts.is_framed() {
        return worker.refuse(request, Refusal::BadHead(BadHead::LengthRequired), dialect);
    }
    let proven = match worker.prove(request, dialect, &facts) {
        Ok(proven) => proven,
        Err(refusal) => return worker.refuse(request, refusal, dialect),
    };
    // Before anything is remembered: who has shown nothing yet leaves nothing behind.
    if let (Turn::First, Some(keys)) = (request.turn, request.gate.challenge(dialect)) {
        if let Err(bad) = parse(dialect, query, request.form) {
            return worker.refuse(request, bad.into(), dialect);
        }
        if !facts
            .basic()
            .is_some_and(|presented| keys.redeem(now, presented))
        {
            return Outcome::Challenge(Arc::clone(keys));
        }
    }
    let place = match worker.place(request, dialect, query, proven) {
        Ok(place) => place,
        Err(refusal) => return worker.refuse(request, refusal, dialect),
    };
    if let (Turn::First, None, Some(head)) = (request.turn, proven, request.head)
        && dialect.proof() == Proof::Metadata
        && !facts.shows_secret()
    {
        let (gate, headers) = (request.gate.id, request.headers);
        worker.known.keep(gate, head, headers, dialect, place);
    }
    worker.look(place, dialect, now, request.turn)
}

impl Worker {
    /// A worker with an empty view.
    #[must_use]
    pub fn new(cache: Arc<Cache>, live: Arc<Live>, refresh: Handle, metrics: Metrics) -> Self {
        let counters = metrics.add_worker();
        let view = View::new(cache, metrics.clone());
        Self {
            view,
            live,
            refresh,
            counters,
            metrics,
            scratch: Vec::new(),
            known: Known::default(),
        }
    }

    /// The cache behind it.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        self.view.cache()
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

    /// What the dialect asks a caller to show.
    fn prove(
        &self,
        request: &Request<'_>,
        dialect: Dialect,
        facts: &Facts<'_>,
    ) -> Result<Option<Proven>, Refusal> {
        match dialect.proof() {
            Proof::Metadata | Proof::Challenge => {
                let excused = dialect == Dialect::Imds && request.gate.without_metadata;
                if facts.has_metadata() || excused {
                    Ok(None)
                } else {
                    Err(Refusal::NoMetadata)
                }
            }
            Proof::Secret(header) => {
                let presented = facts.secret(header).ok_or(Refusal::Unproven)?;
                let proven = self.live.policy.clients.prove(presented);
                proven.ok_or(Refusal::Unproven).map(Some)
            }
        }
    }

    /// Where this request's target and form are remembered; read and permitted the first time that
    /// this worker sees them, on this listener, from a caller who proved the same.
    fn place(
        &mut self,
        request: &Request<'_>,
        dialect: Dialect,
        query: &[u8],
        proven: Option<Proven>,
    ) -> Result<Place, Refusal> {
        let scope = u64::from(request.gate.id) << 32 | u64::from(proven.map_or(0, Proven::scope));
        let mut whole = std::mem::take(&mut self.scratch);
        whole.clear();
        whole.extend_from_slice(request.target);
        if !request.form.is_empty() {
            // A target holds no zero byte, so the two cannot run into each other.
            whole.push(0);
            whole.extend_from_slice(request.form);
        }
        let place = match self.view.find(scope, &whole) {
            Some(place) => Ok(place),
            None => self.learn(request, dialect, query, proven, scope, &whole),
        };
        self.scratch = whole;
        place
    }

    fn learn(
        &mut self,
        request: &Request<'_>,
        dialect: Dialect,
        query: &[u8],
        proven: Option<Proven>,
        scope: u64,
        whole: &[u8],
    ) -> Result<Place, Refusal> {
        let wish = parse(dialect, query, request.form)?;
        let shape = Shape::of(dialect, request.gate.dates_2017);
        let asked = Asked {
            shape,
            force: wish.force,
        };
        let key = wish.into_key(&self.live.upstream);
        let permit = self.live.policy.permit(request.caller, proven, key)?;
        self.view
            .remember(scope, whole, asked, permit)
            .map_err(|_| Refusal::Full)
    }

    /// What the cache has for a request that may have it.
    fn look(&mut self, place: Place, dialect: Dialect, now: UnixMs, turn: Turn) -> Outcome<'_> {
        let counted = turn != Turn::First;
        match self.view.look(place, now, turn) {
            Found::Body(body) => {
                self.counters.count_unless(counted, Label::Hit);
                Outcome::Answer(body)
            }
            Found::Wait(waiter, leader) => {
                let label = if leader.is_some() {
                    Label::Miss
                } else {
                    Label::Coalesced
                };
                self.counters.count_unless(counted, label);
                if let Some((slot, leader)) = leader {
                    self.refresh.demand(slot, leader);
                }
                Outcome::Wait(waiter)
            }
            Found::Full => {
                self.counters.count_unless(counted, Label::Refused);
                self.metrics.refused(Refusal::Full.reason());
                Outcome::Refuse(Refusal::Full, dialect)
            }
            Found::Nothing => Outcome::Refuse(Refusal::Lost, dialect),
        }
    }

    fn refuse<'w>(&self, request: &Request<'_>, refusal: Refusal, dialect: Dialect) -> Outcome<'w> {
        self.counters
            .count_unless(request.turn != Turn::First, Label::Refused);
        self.metrics.refused(refusal.reason());
        Outcome::Refuse(refusal, dialect)
    }
}

impl Gate {
    /// In whose shape to refuse what belongs to no dialect.
    #[must_use]
    pub fn first_dialect(&self) -> Dialect {
        self.dialects.first().copied().unwrap_or(Dialect::Imds)
    }

    fn challenge(&self, dialect: Dialect) -> Option<&Arc<ArcKeys>> {
        self.arc
            .as_ref()
            .filter(|_| dialect.proof() == Proof::Challenge)
    }
}

fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}
