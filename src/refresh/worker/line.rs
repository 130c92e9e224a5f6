//! Who is next: the line of keys that wait for a call, and the times at which something happens to
//! one by itself.

use super::{Action, Phase, Worker};
use crate::cache::KeyId;
use crate::clock::UnixMs;
use crate::refresh::breaker::KeyName;
use crate::refresh::schedule;
use crate::token::Lifetime;

/// The order in which queued keys are called: smaller first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Little is left; callers notice if it is missed.
    Urgent,
    /// Callers wait now, or little is left and the last try failed; by the time of the queue.
    Demand,
    /// Renewal ahead of time.
    Ahead,
    /// Callers wait for a key that never had a token. Last, so that a flood of keys that nobody
    /// asked for before does not hold up those in use; but see [`NEW_KEYS_SHARE`].
    New,
    /// There is a token, and somebody wants another.
    Forced,
}

/// While anything else is waiting, every so manieth call is for a new key.
const NEW_KEYS_SHARE: u64 = 3;

/// How much longer than a caller an urgent retry has to have waited to go before it: half of what
/// a caller waits at most.
const RETRY_HANDICAP_MS: u64 = 10_000;

/// A place in line; the smallest is called first.
pub(super) type Ticket = (Rank, u64, KeyId);

impl Worker {
    pub(super) fn fire_timers(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        while let Some(&(at, id)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            let Some(key) = self.keys.get_mut(&id) else {
                continue;
            };
            key.timer = None;
            let Some(lifetime) = key.lifetime else {
                // Its refusal is forgotten: the next caller may lead again.
                if let Some((until, _)) = key.refused.take() {
                    self.negatives.remove(&(until, id));
                }
                if key.phase == Phase::Resting {
                    self.keys.remove(&id);
                    actions.push(Action::Retire(id));
                }
                continue;
            };
            let over = now >= lifetime.expires_at();
            let idle = !key.unchecked && schedule::is_idle(now, key.last_used, &lifetime);
            match key.phase {
                Phase::Flying | Phase::Forgotten => {}
                Phase::Resting if idle && over => {
                    self.keys.remove(&id);
                    actions.push(Action::Retire(id));
                }
                Phase::Resting if idle => {
                    key.idle = true;
                    self.set_timer(id, Some(lifetime.expires_at()));
                }
                Phase::Resting => {
                    key.due_since.get_or_insert(at);
                    let (rank, order) = self.renewal(now, id, &lifetime);
                    self.enqueue(now, id, rank, order);
                }
                // It has waited in line until it matters more.
                Phase::Queued(ticket) => {
                    let (rank, order) = self.renewal(now, id, &lifetime);
                    if rank < ticket.0 {
                        self.queue.remove(&ticket);
                        self.enqueue(now, id, rank, order);
                    } else {
                        self.watch(now, id, ticket.0);
                    }
                }
            }
        }
    }

    /// The place in line of a renewal that is due.
    pub(super) fn renewal(&self, now: UnixMs, id: KeyId, lifetime: &Lifetime) -> (Rank, u64) {
        // An urgent retry stands in line with the callers: in an outage all keys come to that, and
        // before the callers they would together keep these waiting.
        let retry = self.keys.get(&id).is_some_and(|key| key.pause_ms > 0);
        match now >= (self.rules.urgent_from)(lifetime) {
            true if retry => (Rank::Demand, now.plus(RETRY_HANDICAP_MS).0),
            true => (Rank::Urgent, lifetime.expires_at().0),
            false => (Rank::Ahead, lifetime.expires_at().0),
        }
    }

    pub(super) fn start_calls(&mut self, now: UnixMs, actions: &mut Vec<Action>) {
        while let Some(ticket) = self.next_in_line() {
            let free = self
                .breaker
                .free_at(now, self.name(ticket.2))
                .is_some_and(|at| at <= now);
            if !free || !self.budget.start(now) {
                break;
            }
            self.queue.remove(&ticket);
            self.calls += 1;
            let id = ticket.2;
            self.breaker.started(id);
            self.set_timer(id, None);
            if let Some(key) = self.keys.get_mut(&id) {
                key.phase = Phase::Flying;
                key.unchecked = false;
            }
            actions.push(Action::Fetch(id));
        }
    }

    pub(super) fn next_in_line(&self) -> Option<Ticket> {
        // A probe by a sick key would say nothing of the others.
        let well = |ticket: &&Ticket| !self.breaker.suspects(self.name(ticket.2));
        if !self.breaker.is_closed()
            && let Some(probe) = self.queue.iter().find(well)
        {
            return Some(*probe);
        }
        let new = self.queue.range((Rank::New, 0, 0)..).next();
        let new = new.filter(|ticket| ticket.0 == Rank::New);
        let new = new.filter(|_| self.calls.is_multiple_of(NEW_KEYS_SHARE));
        new.or_else(|| self.queue.first()).copied()
    }

    pub(super) fn name(&self, id: KeyId) -> KeyName {
        self.keys.get(&id).map_or(KeyName(id), |key| key.name)
    }

    pub(super) fn enqueue(&mut self, now: UnixMs, id: KeyId, rank: Rank, order: u64) {
        let ticket = (rank, order, id);
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        key.phase = Phase::Queued(ticket);
        self.queue.insert(ticket);
        self.watch(now, id, rank);
    }

    /// The line may be long: when the renewal of a key that stands in it is due, or urgent, it goes
    /// further ahead.
    pub(super) fn watch(&mut self, now: UnixMs, id: KeyId, rank: Rank) {
        let urgent_from = self.rules.urgent_from;
        let Some(key) = self.keys.get(&id) else {
            return;
        };
        if let Some(urgent) = key.lifetime.as_ref().map(urgent_from) {
            let urgent = Some(urgent).filter(|at| *at > now);
            let rises = [key.timer, urgent].into_iter().flatten().min();
            self.set_timer(id, rises.filter(|_| rank > Rank::Urgent));
        }
    }

    pub(super) fn set_timer(&mut self, id: KeyId, at: Option<UnixMs>) {
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

    pub(super) fn wake_at(&self, now: UnixMs) -> Option<UnixMs> {
        let timer = self.timers.first().map(|(at, _)| *at);
        // While the probe is under way, its end is what is waited for.
        let next = self.next_in_line();
        let allowed = next.and_then(|ticket| self.breaker.free_at(now, self.name(ticket.2)));
        let call = allowed.and_then(|at| Some(at.max(self.budget.free_at(now)?)));
        [timer, call].into_iter().flatten().min()
    }
}
