//! Calls that are silent while a trouble is known: whoever waits for one is told that trouble. What
//! such a call brings after all is there for whoever asks next.

use super::{Action, Key, Phase, Worker, delayed};
use crate::cache::{KeyId, is_expired, serve_until};
use crate::clock::UnixMs;
use crate::refresh::breaker::{self, Health};
use crate::token::Lifetime;
use crate::upstream::FetchError;

/// So long callers wait for a call of a key that failed before, or of an upstream that did, until they
/// are told that failure: most calls that succeed do so sooner.
pub(super) const DOUBTED_MS: u64 = 100;
/// The same where only the key failed, and the upstream has answered others since.
pub(super) const DOUBTED_ALONE_MS: u64 = 1000;

impl Worker {
    /// When callers may next have waited long enough for a call that began at `since`.
    pub(super) fn doubted_at(&self, now: UnixMs, id: KeyId, since: UnixMs) -> Option<UnixMs> {
        let lifetime = self.keys.get(&id)?.lifetime;
        let over = lifetime.map_or(since, |life| serve_until(&life));
        let looks = [DOUBTED_MS, DOUBTED_ALONE_MS].map(|ms| since.plus(ms).max(over));
        looks.into_iter().find(|at| *at > now)
    }

    /// Tells those who wait for this key's call, if it is silent for too long.
    pub(super) fn refuse_if_doubted(&self, now: UnixMs, id: KeyId, actions: &mut Vec<Action>) {
        let Some((since, key)) = self.keys.get(&id).and_then(flying) else {
            return;
        };
        let servable = |life: Lifetime| !is_expired(now, serve_until(&life));
        if key.lifetime.is_some_and(servable) {
            return;
        }
        let own = key.refused.as_ref().map(|(_, error)| &**error);
        let own = own.filter(|error| breaker::health(error.class) == Health::Trouble);
        let (known, after_ms) = match own {
            Some(own) if self.breaker.in_trouble() => (own, DOUBTED_MS),
            Some(own) => (own, DOUBTED_ALONE_MS),
            None if self.breaker.is_closed() => return,
            None => (&self.trouble, DOUBTED_MS),
        };
        if now.since(since) < after_ms {
            return;
        }
        // This call's status is not known, and a 4xx stands for seconds only.
        let known = FetchError {
            status: None,
            ..known.clone()
        };
        actions.push(Action::Refuse(id, delayed(&known, 0)));
    }

    /// The same for every call: what is known of the upstream has changed.
    pub(super) fn refuse_all_doubted(&self, now: UnixMs, actions: &mut Vec<Action>) {
        let calls = self.keys.iter().filter(|(_, key)| flying(key).is_some());
        let mut calls: Vec<_> = calls.map(|(id, _)| *id).collect();
        // Always in the same order, so that a run can be repeated.
        calls.sort_unstable();
        for id in calls {
            self.refuse_if_doubted(now, id, actions);
        }
    }
}

fn flying(key: &Key) -> Option<(UnixMs, &Key)> {
    match key.phase {
        Phase::Flying(since) => Some((since, key)),
        _ => None,
    }
}
