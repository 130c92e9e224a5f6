//! The refresh worker: a state machine that decides which keys to fetch, and when.
//!
//! It holds no timer, thread or socket and never looks at a clock. Whoever drives it says what
//! happened and when; it answers with what to do now and when to wake it next. The same machine
//! runs in production and under virtual time in tests.

use std::collections::{BTreeSet, HashMap};

use super::budget::Budget;
use super::{backoff, schedule};
use crate::cache::KeyId;
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
    /// Where jitter comes from. Printed by tests, drawn at random in production.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The store brought a token back.
    Restored(KeyId, Lifetime, UnixMs),
    /// Callers wait for a key.
    Demanded(KeyId),
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
    /// Nothing but time has passed.
    Woken,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the upstream for this key; answer with `Fetched` or `Failed`.
    Fetch(KeyId),
    /// Take the key out of the cache and the store: nobody uses it, or it never had a token.
    Retire(KeyId),
}

impl Action {
    /// The key it is about.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        match self {
            Self::Fetch(id) | Self::Retire(id) => id,
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

/// The order in which queued keys are called: smaller first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Little is left; callers notice if it is missed.
    Urgent,
    /// Callers wait now, or little is left and the last try failed; by the time of the queue.
    Demand,
    /// Renewal ahead of time.
    Ahead,
    /// Callers wait for a key that never had a token. Last, so that a flood of keys that nobody
    /// asked for before does not hold up those in use; but see [`NEW_KEYS_SHARE`].
    New,
}

/// While anything else is waiting, every so manieth call is for a new key.
const NEW_KEYS_SHARE: u64 = 3;

/// How much longer than a caller an urgent retry has to have waited to go before it: half of what
/// a caller waits at most.
const RETRY_HANDICAP_MS: u64 = 10_000;

type Ticket = (Rank, u64, KeyId);

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
    phase: Phase,
    lifetime: Option<Lifetime>,
    timer: Option<UnixMs>,
    last_used: UnixMs,
    pause_ms: u64,
    /// Nobody asked for a life; renewed no more until somebody does.
    idle: bool,
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
            budget: Budget::new(settings.max_in_flight, settings.max_per_second),
            random: fastrand::Rng::with_seed(settings.seed),
        }
    }

    /// Takes one event in and says what follows from it at `now`.
    pub fn step(&mut self, now: UnixMs, event: Event) -> Step {
        let mut actions = Vec::new();
        match event {
            Event::Restored(id, lifetime, last_used) => self.restored(id, lifetime, last_used),
            Event::Demanded(id) => self.demanded(now, id),
            Event::Used(id, at) => self.used(now, id, at),
            Event::Fetched(id, lifetime, same) => self.fetched(now, id, lifetime, same),
            Event::Failed(id, error) => self.failed(now, id, &error, &mut actions),
            Event::Abandoned(id) => self.abandoned(id),
            Event::Purged(id) => self.purged(id),
            Event::Woken => {}
        }
        self.fire_timers(now, &mut actions);
        self.start_calls(now, &mut actions);
        Step {
            actions,
            wake_at: self.wake_at(now),
        }
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
        Some((key.timer.filter(|_| !key.idle), key.last))
    }

    fn restored(&mut self, id: KeyId, lifetime: Lifetime, last_used: UnixMs) {
        let due = schedule::due_at(&lifetime, self.random.f64());
        let mut key = Key::new(last_used);
        key.lifetime = Some(lifetime);
        key.last = LastResult::Restored;
        self.keys.insert(id, key);
        self.set_timer(id, Some(due));
    }

    fn demanded(&mut self, now: UnixMs, id: KeyId) {
        let key = self.keys.entry(id).or_insert_with(|| Key::new(now));
        key.last_used = now;
        key.idle = false;
        let rank = if key.lifetime.is_some() {
            Rank::Demand
        } else {
            Rank::New
        };
        match key.phase {
            Phase::Resting => self.enqueue(id, rank, now.0),
            Phase::Queued(ticket) if ticket.0 > rank => {
                self.queue.remove(&ticket);
                self.enqueue(id, rank, now.0);
            }
            _ => {}
        }
    }

    fn used(&mut self, now: UnixMs, id: KeyId, at: UnixMs) {
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        key.last_used = key.last_used.max(at);
        // Back in use: its renewal was due long ago.
        if std::mem::take(&mut key.idle) {
            self.set_timer(id, Some(now));
        }
    }

    fn fetched(&mut self, now: UnixMs, id: KeyId, lifetime: Lifetime, same: bool) {
        if !self.land(id) {
            return;
        }
        let jitter = self.random.f64();
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        key.pause_ms = 0;
        key.last = if same {
            LastResult::Unchanged
        } else {
            LastResult::Renewed
        };
        // The same token keeps its first receipt, so that its life is not measured anew.
        let lifetime = if same {
            *key.lifetime.get_or_insert(lifetime)
        } else {
            lifetime
        };
        key.lifetime = Some(lifetime);
        let due = if same {
            schedule::due_after_same(now, &lifetime, jitter)
        } else {
            schedule::due_at(&lifetime, jitter)
        };
        self.set_timer(id, Some(due));
    }

    fn failed(&mut self, now: UnixMs, id: KeyId, error: &FetchError, actions: &mut Vec<Action>) {
        if !self.land(id) {
            return;
        }
        let jitter = self.random.f64();
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        key.last = LastResult::Failed(error.class);
        let Some(lifetime) = key.lifetime else {
            // Never had a token: nothing is remembered, and the next caller may lead again.
            self.keys.remove(&id);
            actions.push(Action::Retire(id));
            return;
        };
        let left = lifetime.expires_at().since(now);
        key.pause_ms = backoff::pause_ms(error, key.pause_ms, lifetime.life_ms(), left, jitter);
        let due = now.plus(key.pause_ms);
        self.set_timer(id, Some(due));
    }

    fn abandoned(&mut self, id: KeyId) {
        self.budget.cancel();
        self.set_timer(id, None);
        self.keys.remove(&id);
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

    fn fire_timers(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        while let Some(&(at, id)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            let Some(key) = self.keys.get_mut(&id) else {
                continue;
            };
            key.timer = None;
            let Some(lifetime) = key.lifetime else {
                continue;
            };
            let over = now >= lifetime.expires_at();
            if key.phase != Phase::Resting {
                continue;
            }
            if schedule::is_idle(now, key.last_used, &lifetime) {
                if over {
                    self.keys.remove(&id);
                    actions.push(Action::Retire(id));
                } else {
                    key.idle = true;
                    self.set_timer(id, Some(lifetime.expires_at()));
                }
            } else {
                // An urgent retry stands in line with the callers: in an outage all keys come to
                // that, and before the callers they would together keep these waiting.
                let retry = key.pause_ms > 0;
                let (rank, order) = match schedule::is_urgent(now, &lifetime) {
                    true if retry => (Rank::Demand, now.plus(RETRY_HANDICAP_MS).0),
                    true => (Rank::Urgent, lifetime.expires_at().0),
                    false => (Rank::Ahead, lifetime.expires_at().0),
                };
                self.enqueue(id, rank, order);
            }
        }
    }

    fn start_calls(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        while let Some(ticket) = self.next_in_line() {
            if !self.budget.start(now) {
                break;
            }
            self.queue.remove(&ticket);
            self.calls += 1;
            let id = ticket.2;
            self.set_timer(id, None);
            if let Some(key) = self.keys.get_mut(&id) {
                key.phase = Phase::Flying;
            }
            actions.push(Action::Fetch(id));
        }
    }

    fn next_in_line(&self) -> Option<Ticket> {
        let new = self.queue.range((Rank::New, 0, 0)..).next();
        let new = new.filter(|_| self.calls.is_multiple_of(NEW_KEYS_SHARE));
        new.or_else(|| self.queue.first()).copied()
    }

    fn enqueue(&mut self, id: KeyId, rank: Rank, order: u64) {
        let ticket = (rank, order, id);
        if let Some(key) = self.keys.get_mut(&id) {
            key.phase = Phase::Queued(ticket);
            self.queue.insert(ticket);
        }
    }

    fn set_timer(&mut self, id: KeyId, at: Option<UnixMs>) {
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut key.timer, at) {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = at {
            self.timers.insert((at, id));
        }
    }

    fn wake_at(&self, now: UnixMs) -> Option<UnixMs> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let budget = if self.queue.is_empty() {
            None
        } else {
            self.budget.free_at(now)
        };
        [timer, budget].into_iter().flatten().min()
    }
}

impl Key {
    fn new(last_used: UnixMs) -> Self {
        Self {
            phase: Phase::Resting,
            lifetime: None,
            timer: None,
            last_used,
            pause_ms: 0,
            idle: false,
            last: LastResult::None,
        }
    }
}
