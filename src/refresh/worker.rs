//! The refresh worker: a state machine that decides which keys to fetch, and when.
//!
//! It holds no timer, thread or socket and never looks at a clock. Whoever drives it says what
//! happened and when; it answers with what to do now and when to wake it next. The same machine
//! runs in production and under virtual time in tests.

mod line;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use self::line::{Rank, Ticket};
use super::backoff::{MAX_NEGATIVE_MS, asked_ms};
use super::breaker::{self, Breaker, Health, KeyName};
use super::budget::Budget;
use super::rules::Rules;
use super::schedule;
use crate::cache::{KeyId, is_expired, serve_until};
use crate::clock::UnixMs;
use crate::token::Lifetime;
use crate::upstream::{Class, FetchError};

/// The machine-wide limits on upstream calls.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Calls under way at once.
    pub max_in_flight: usize,
    /// Calls started in any one second.
    pub max_per_second: usize,
    /// Every key is to have so much left, in milliseconds, whenever the upstream dies; 0 for no wish.
    pub outage_to_survive_ms: u64,
    /// Keys without a token whose refusal is remembered, so that a flood of wrong questions costs
    /// no memory: the oldest is forgotten first.
    pub max_negatives: usize,
    /// By what the breaker's waits, pauses after a 429, what the upstream asks to wait and the time
    /// that refusals stand are divided, for rehearsals; 1 in production.
    pub time_scale: u64,
    /// By which it decides.
    pub rules: Rules,
    /// Where jitter comes from. Printed by tests, drawn at random in production.
    pub seed: u64,
}

/// The defaults of the configuration.
impl Default for Settings {
    fn default() -> Self {
        let Options {
            outage_to_survive_ms,
            max_negatives,
            time_scale,
        } = Options::default();
        Self {
            max_in_flight: 4,
            max_per_second: 15,
            outage_to_survive_ms,
            max_negatives,
            time_scale,
            rules: Rules::default(),
            seed: 1,
        }
    }
}

/// What an operator may set: `[refresh]` of the configuration, and of `[limits]` what is kept here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// See [`Settings::outage_to_survive_ms`].
    pub outage_to_survive_ms: u64,
    /// See [`Settings::max_negatives`].
    pub max_negatives: usize,
    /// See [`Settings::time_scale`].
    pub time_scale: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            outage_to_survive_ms: 0,
            max_negatives: 1000,
            time_scale: 1,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The store brought a token back.
    Restored(KeyId, Lifetime, UnixMs),
    /// Callers wait for a key, of this name: it keeps that when it has been forgotten and comes back
    /// by another id. `true` if a caller has no use for the token that is there.
    Demanded(KeyId, KeyName, bool),
    /// An operator wants it renewed.
    Renew(KeyId),
    /// A key was hit, last at this time.
    Used(KeyId, UnixMs),
    /// A call brought a token; `same` if it is the one already held.
    Fetched(KeyId, Lifetime, bool),
    /// A call brought none.
    Failed(KeyId, FetchError),
    /// Nobody waits any more for the key that was just to be fetched: no call was made.
    Abandoned(KeyId),
    /// The key was purged: forget it, and what its call may still bring.
    Purged(KeyId),
    /// The clocks no longer agree: every token is to be asked for once more.
    ClockStepped,
    /// The upstream has said which clock is right, and the time may have been put back.
    ClockDecided,
    /// Nothing but time has passed.
    Woken,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the upstream for this key; answer with `Fetched` or `Failed`.
    Fetch(KeyId),
    /// Answer those who wait for this key with this error, now: nothing is under way for them.
    Refuse(KeyId, Arc<FetchError>),
    /// Take the key out of the cache and the store: nobody uses it, or it never had a token.
    Retire(KeyId),
}

impl Action {
    /// The key it is about.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        match self {
            Self::Fetch(id) | Self::Refuse(id, _) | Self::Retire(id) => id,
        }
    }
}

/// The machine's answer to an event.
#[derive(Debug, Default)]
pub struct Step {
    /// To be done now, in this order.
    pub actions: Vec<Action>,
    /// When to send `Woken` if nothing happens before.
    pub wake_at: Option<UnixMs>,
    /// A token was renewed that had become due: how long ago, in milliseconds.
    pub lag_ms: Option<u64>,
}

/// How the last call for a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastResult {
    /// No call has ended yet.
    None,
    /// The token is of an earlier start; no call has ended since.
    Restored,
    /// A new token.
    Renewed,
    /// The token already held: the upstream keeps it until late.
    Unchanged,
    /// No token.
    Failed(Class),
}

impl LastResult {
    /// In a word, for operators.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none yet",
            Self::Restored => "restored",
            Self::Renewed => "renewed",
            Self::Unchanged => "unchanged",
            Self::Failed(class) => class.as_str(),
        }
    }
}

/// As long as a caller waits at most. A pause of the upstream's that is longer is told at once.
const MAX_WAIT_MS: u64 = 20_000;

/// After a step of the clock the keys that neither clock ends are asked for over so much time for
/// each of them: ten a second, which leaves room for those that callers wait for.
const RECHECK_MS_PER_KEY: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Resting,
    Queued(Ticket),
    Flying,
    /// Purged while its call is under way.
    Forgotten,
}

#[derive(Debug)]
struct Key {
    /// By which the breaker knows it.
    name: KeyName,
    phase: Phase,
    lifetime: Option<Lifetime>,
    timer: Option<UnixMs>,
    /// When its renewal became due that has not succeeded yet; failures do not change it.
    due_since: Option<UnixMs>,
    last_used: UnixMs,
    pause_ms: u64,
    /// Until then callers without a token are told this, and no call is made for them.
    refused: Option<(UnixMs, Arc<FetchError>)>,
    /// Nobody asked for a life; renewed no more until somebody does.
    idle: bool,
    /// The clock has stepped since the last call for it began: it is asked for once more, whether
    /// it is used or not, and until then it does not drop out.
    unchecked: bool,
    last: LastResult,
}

/// The state machine.
pub struct Worker {
    keys: HashMap<KeyId, Key>,
    timers: BTreeSet<(UnixMs, KeyId)>,
    queue: BTreeSet<Ticket>,
    /// Calls started so far.
    calls: u64,
    budget: Budget,
    breaker: Breaker,
    /// The last trouble of the upstream as a whole.
    trouble: FetchError,
    /// Keys without a token that were refused, by when that is forgotten.
    negatives: BTreeSet<(UnixMs, KeyId)>,
    max_negatives: usize,
    time_scale: u64,
    outage_to_survive_ms: u64,
    rules: Rules,
    random: fastrand::Rng,
}

impl Worker {
    /// A worker without keys.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            keys: HashMap::new(),
            timers: BTreeSet::new(),
            queue: BTreeSet::new(),
            calls: 0,
            budget: Budget::new(settings.max_in_flight, settings.max_per_second)
                .scaled(settings.time_scale),
            breaker: Breaker::new(settings.rules.trips).scaled(settings.time_scale),
            trouble: FetchError::of(Class::Unreachable),
            negatives: BTreeSet::new(),
            max_negatives: settings.max_negatives,
            time_scale: settings.time_scale,
            outage_to_survive_ms: settings.outage_to_survive_ms,
            rules: settings.rules,
            random: fastrand::Rng::with_seed(settings.seed),
        }
    }

    /// Takes one event in and says what follows from it at `now`.
    pub fn step(&mut self, now: UnixMs, event: Event) -> Step {
        let (mut actions, mut lag_ms) = (Vec::new(), None);
        let demanded = match &event {
            Event::Demanded(id, ..) => Some(*id),
            _ => None,
        };
        match event {
            Event::Restored(id, lifetime, last_used) => self.restored(id, lifetime, last_used),
            Event::Demanded(id, name, forced) => {
                let key = self.keys.entry(id).or_insert_with(|| Key::new(name, now));
                key.name = name;
                self.demanded(now, id, forced, &mut actions);
            }
            Event::Renew(id) => self.renew(now, id),
            Event::Used(id, at) => self.used(now, id, at),
            Event::Fetched(id, lifetime, same) => {
                self.breaker.alive();
                self.budget.flows(now);
                lag_ms = self.fetched(now, id, lifetime, same);
            }
            Event::Failed(id, error) => {
                self.learn(now, id, &error, &mut actions);
                self.failed(now, id, error);
            }
            Event::Abandoned(id) => self.abandoned(now, id),
            Event::Purged(id) => self.purged(id),
            Event::ClockStepped => self.recheck(now),
            Event::ClockDecided => self.rebase(now),
            Event::Woken => {}
        }
        self.fire_timers(now, &mut actions);
        self.start_calls(now, &mut actions);
        if let Some(id) = demanded {
            self.refuse_if_stuck(now, id, &mut actions);
        }
        Step {
            actions,
            wake_at: self.wake_at(now),
            lag_ms,
        }
    }

    /// The clock has moved by so many milliseconds, by a step or a decision. To be told before the
    /// next event.
    pub fn clock_moved(&mut self, by_ms: i64) {
        self.budget.shift(by_ms);
    }

    /// The breaker's state.
    #[must_use]
    pub fn breaker(&self) -> &'static str {
        self.breaker.as_str()
    }

    /// Calls under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.budget.in_flight()
    }

    /// When the key is called next, as far as is planned, and how its last call ended.
    #[must_use]
    pub fn plan(&self, id: KeyId) -> Option<(Option<UnixMs>, LastResult)> {
        let key = self.keys.get(&id)?;
        let rests = key.phase == Phase::Resting && !key.idle;
        Some((key.timer.filter(|_| rests), key.last))
    }

    fn restored(&mut self, id: KeyId, lifetime: Lifetime, last_used: UnixMs) {
        let due = self.due_at(&lifetime);
        let mut key = Key::new(KeyName(id), last_used);
        key.lifetime = Some(lifetime);
        key.last = LastResult::Restored;
        self.keys.insert(id, key);
        self.set_timer(id, Some(due));
    }

    fn due_at(&mut self, lifetime: &Lifetime) -> UnixMs {
        let jitter = self.random.f64();
        (self.rules.due_at)(lifetime, self.outage_to_survive_ms, jitter)
    }

    fn demanded(&mut self, now: UnixMs, id: KeyId, forced: bool, actions: &mut Vec<Action>) {
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        key.last_used = now;
        key.idle = false;
        if let (Phase::Resting, Some((until, error))) = (key.phase, &key.refused)
            && now < *until
        {
            actions.push(Action::Refuse(id, delayed(error, until.since(now))));
            return;
        }
        let rank = match key.lifetime {
            Some(_) if forced => Rank::Forced,
            Some(_) => Rank::Demand,
            None => Rank::New,
        };
        match key.phase {
            Phase::Resting => self.enqueue(now, id, rank, now.0),
            Phase::Queued(ticket) if ticket.0 > rank => {
                self.queue.remove(&ticket);
                self.enqueue(now, id, rank, now.0);
            }
            _ => {}
        }
    }

    fn used(&mut self, now: UnixMs, id: KeyId, at: UnixMs) {
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        // It may have been seen by a clock that has been put back since.
        key.last_used = key.last_used.max(at.min(now));
        // Back in use: its renewal was due long ago.
        if std::mem::take(&mut key.idle) {
            self.set_timer(id, Some(now));
        }
    }

    fn renew(&mut self, now: UnixMs, id: KeyId) {
        let resting = |key: &Key| key.phase == Phase::Resting && key.lifetime.is_some();
        if self.keys.get(&id).is_some_and(resting) {
            self.enqueue(now, id, Rank::Forced, now.0);
        }
    }

    /// For how long its renewal was due, if it was, and if it brought another token.
    fn fetched(&mut self, now: UnixMs, id: KeyId, lifetime: Lifetime, same: bool) -> Option<u64> {
        if !self.land(id) {
            return None;
        }
        let (jitter, floor_ms) = (self.random.f64(), self.outage_to_survive_ms);
        let rules = self.rules;
        let key = self.keys.get_mut(&id)?;
        let lag_ms = key.due_since.take().map(|due| now.since(due));
        let lag_ms = lag_ms.filter(|_| !same);
        key.pause_ms = 0;
        key.refused = None;
        key.idle = false;
        key.last = if same {
            LastResult::Unchanged
        } else {
            LastResult::Renewed
        };
        // The same token keeps its first receipt, so that its life is not measured anew.
        // Unless that was by a clock that has been put back.
        let first = key.lifetime.filter(|first| first.received_at <= now);
        let lifetime = if same {
            first.unwrap_or(lifetime)
        } else {
            lifetime
        };
        key.lifetime = Some(lifetime);
        if key.unchecked {
            self.set_timer(id, Some(now));
            return lag_ms;
        }
        let due = if same {
            (rules.due_after_same)(now, &lifetime, floor_ms, jitter)
        } else {
            (rules.due_at)(&lifetime, floor_ms, jitter)
        };
        self.set_timer(id, Some(due));
        lag_ms
    }

    /// Every key is asked for once more, what is over by either clock first. `now` is the later one:
    /// what the earlier one ends it ends too.
    fn recheck(&mut self, now: UnixMs) {
        // A call that began before the step says nothing of what time it is: once it has ended, the
        // key is asked for again. For a key that has no token yet, if it brings one.
        for key in self.keys.values_mut() {
            key.unchecked = key.phase == Phase::Flying;
            // By another clock than the one that now decides.
            key.due_since = None;
        }
        let keys = self.keys.iter();
        let held = keys.filter_map(|(id, key)| Some((key.lifetime?, *id)));
        let mut held: Vec<_> = held.map(|(life, id)| (serve_until(&life), id)).collect();
        held.sort_unstable();
        let spread = RECHECK_MS_PER_KEY * held.len() as u64;
        for (i, (until, id)) in held.into_iter().enumerate() {
            let wait = self.random.u64(0..=spread);
            let Some(key) = self.keys.get_mut(&id) else {
                continue;
            };
            key.unchecked = true;
            key.idle = false;
            match key.phase {
                // Callers wait for it, or soon will: they are told if nothing is asked at all.
                Phase::Resting if is_expired(now, until) => {
                    self.set_timer(id, None);
                    self.enqueue(now, id, Rank::Demand, until.0);
                }
                // One goes at once in any case: its answer says what time it is.
                Phase::Resting if i == 0 => {
                    self.set_timer(id, None);
                    self.enqueue(now, id, Rank::Urgent, until.0);
                }
                // What ends soon is not put off past its end.
                Phase::Resting => {
                    let wait = wait.min(until.since(now) / 2);
                    self.set_timer(id, Some(now.plus(wait)));
                }
                // Its call is still to begin, or to end.
                Phase::Queued(_) | Phase::Flying | Phase::Forgotten => {}
            }
        }
    }

    /// Nothing that was planned from a time that was put back lies further ahead than it was meant.
    fn rebase(&mut self, now: UnixMs) {
        self.breaker.alive();
        let soon = now.plus(MAX_NEGATIVE_MS);
        let spread = RECHECK_MS_PER_KEY * self.keys.len() as u64;
        self.negatives.clear();
        let mut ids: Vec<_> = self.keys.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let wait = self.random.u64(0..=spread);
            let Some(key) = self.keys.get_mut(&id) else {
                continue;
            };
            key.last_used = key.last_used.min(now);
            key.due_since = key.due_since.map(|due| due.min(now));
            if let Some((until, _)) = &mut key.refused {
                *until = soon.min(*until);
                if key.lifetime.is_none() {
                    self.negatives.insert((*until, id));
                }
            }
            // Only by the later clock had nobody asked for it for so long.
            let in_use = |life: &Lifetime| !schedule::is_idle(now, key.last_used, life);
            let back = key.idle && key.lifetime.as_ref().is_some_and(in_use);
            key.idle &= !back;
            let latest = match key.lifetime {
                None => soon,
                Some(_) if key.unchecked || back => now.plus(wait),
                Some(_) if key.pause_ms > 0 => now.plus(key.pause_ms),
                Some(_) => continue,
            };
            if let Some(at) = key.timer {
                self.set_timer(id, Some(latest.min(at)));
            }
        }
    }

    /// What the end of a call says of the upstream as a whole.
    fn learn(&mut self, now: UnixMs, id: KeyId, error: &FetchError, actions: &mut Vec<Action>) {
        let jitter = self.random.f64();
        match breaker::health(error.class) {
            Health::Alive => {
                self.breaker.alive();
                self.budget.flows(now);
            }
            Health::Trouble => {
                self.trouble = error.clone();
                if error.class == Class::Updating {
                    // Told to callers of other keys, whose 410 it was not.
                    self.trouble.status = None;
                }
                if self.breaker.trouble(now, id, self.name(id), error, jitter) {
                    self.refuse_all(now, actions);
                }
            }
            Health::Unknown => self.breaker.withdrawn(now, id),
        }
        if error.class == Class::Throttled {
            self.budget.throttled(now, asked_ms(error), jitter);
            if self.blocked_until(now, self.name(id)).is_some() {
                self.trouble = error.clone();
                self.refuse_all(now, actions);
            }
        }
    }

    fn failed(&mut self, now: UnixMs, id: KeyId, mut error: FetchError) {
        if !self.land(id) {
            return;
        }
        let (jitter, rules, scale) = (self.random.f64(), self.rules, self.time_scale);
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        key.last = LastResult::Failed(error.class);
        let stands = (rules.negative_ms)(&error, jitter).min(MAX_NEGATIVE_MS) / scale;
        // Callers are told the wait that is kept.
        let asked = error.retry_after.map(|_| asked_ms(&error) / scale);
        error.retry_after = asked.map(Duration::from_millis);
        let Some(lifetime) = key.lifetime else {
            // It has no token to lose. Whoever asks within the next seconds is told the same.
            let until = now.plus(stands);
            key.refused = Some((until, Arc::new(error)));
            self.set_timer(id, Some(until));
            self.negatives.insert((until, id));
            if self.negatives.len() > self.max_negatives
                && let Some((_, oldest)) = self.negatives.first().copied()
            {
                self.set_timer(oldest, Some(now));
            }
            return;
        };
        let left = lifetime.expires_at().since(now);
        key.pause_ms = (rules.pause_ms)(&error, key.pause_ms, lifetime.life_ms(), left, jitter);
        let due = now.plus(key.pause_ms);
        key.refused = Some((due.min(now.plus(stands)), Arc::new(error)));
        self.set_timer(id, Some(due));
    }

    fn abandoned(&mut self, now: UnixMs, id: KeyId) {
        self.budget.cancel();
        self.breaker.withdrawn(now, id);
        self.set_timer(id, None);
        self.keys.remove(&id);
    }

    /// Until when no call for anybody starts, if that is longer than a caller would wait, or not
    /// known.
    fn blocked_until(&self, now: UnixMs, name: KeyName) -> Option<UnixMs> {
        let paused_until = self.budget.paused_until();
        if !self.breaker.is_closed() {
            let free_at = self.breaker.free_at(now, name).unwrap_or(now);
            return Some(free_at.max(paused_until));
        }
        (paused_until.since(now) > MAX_WAIT_MS).then_some(paused_until)
    }

    /// Tells those who wait for a key that stands in a line that does not move.
    fn refuse_if_stuck(&mut self, now: UnixMs, id: KeyId, actions: &mut Vec<Action>) {
        let Some(until) = self.blocked_until(now, self.name(id)) else {
            return;
        };
        let Some(Key {
            phase: Phase::Queued(ticket),
            lifetime,
            ..
        }) = self.keys.get(&id)
        else {
            return;
        };
        let (ticket, cold) = (*ticket, lifetime.is_none());
        actions.push(Action::Refuse(id, delayed(&self.trouble, until.since(now))));
        // A key that has or had a token keeps its place for when the line moves again.
        if cold {
            self.queue.remove(&ticket);
            self.keys.remove(&id);
            actions.push(Action::Retire(id));
        }
    }

    fn refuse_all(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        // Whatever its rank: callers may have joined a renewal that was queued before.
        let queued: Vec<_> = self.queue.iter().map(|ticket| ticket.2).collect();
        for id in queued {
            self.refuse_if_stuck(now, id, actions);
        }
    }

    fn purged(&mut self, id: KeyId) {
        self.set_timer(id, None);
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        match key.phase {
            Phase::Flying | Phase::Forgotten => key.phase = Phase::Forgotten,
            Phase::Queued(ticket) => {
                self.queue.remove(&ticket);
                self.keys.remove(&id);
            }
            Phase::Resting => {
                if let Some((until, _)) = &key.refused {
                    self.negatives.remove(&(*until, id));
                }
                self.keys.remove(&id);
            }
        }
    }

    /// Ends a call; `false` if its key was purged meanwhile.
    fn land(&mut self, id: KeyId) -> bool {
        self.budget.end();
        let Some(key) = self.keys.get_mut(&id) else {
            return false;
        };
        if key.phase == Phase::Forgotten {
            self.keys.remove(&id);
            return false;
        }
        key.phase = Phase::Resting;
        true
    }
}

/// An error that says when to come back, in whole seconds as callers are told.
fn delayed(error: &FetchError, wait_ms: u64) -> Arc<FetchError> {
    Arc::new(FetchError {
        retry_after: Some(Duration::from_secs(wait_ms.div_ceil(1000).max(1))),
        ..error.clone()
    })
}

impl Key {
    fn new(name: KeyName, last_used: UnixMs) -> Self {
        Self {
            name,
            phase: Phase::Resting,
            lifetime: None,
            timer: None,
            due_since: None,
            last_used,
            pause_ms: 0,
            refused: None,
            idle: false,
            unchecked: false,
            last: LastResult::None,
        }
    }
}

#[cfg(test)]
mod tests;
