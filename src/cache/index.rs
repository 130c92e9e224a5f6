//! From key to slot: the write side of the cache, and the only file that names dashmap.
//!
//! The map's shards are locked for the length of one look-up. No guard leaves this file: what
//! comes out are counted pointers to slots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;

use super::capacity::{Limits, MIN_FORCE_PAUSE_MS};
use super::{Echo, EchoKey, Entry, KeyId, Slot, serve_until};
use crate::authz::Permit;
use crate::clock::UnixMs;
use crate::protocol::Shape;
use crate::token::{AccessToken, Lifetime, TokenKey};

/// All slots, and what workers need to agree on.
pub struct Cache {
    slots: DashMap<Arc<TokenKey>, Arc<Slot>, foldhash::fast::RandomState>,
    echo_key: EchoKey,
    next_id: AtomicU64,
    next_generation: AtomicU64,
    /// When a caller last forced a call, in Unix milliseconds.
    forced_at: AtomicU64,
    /// Counts purges; workers copy it once they hold nothing of what was purged before.
    purges: AtomicU64,
    workers: Mutex<Vec<Arc<AtomicU64>>>,
    freshness: Freshness,
    limits: Limits,
}

/// The rule that says until when a token is served; passed in, so that a test can break it.
pub type Freshness = fn(&Lifetime) -> UnixMs;

/// No room for one more key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A purge under way: over once every worker has let go.
#[derive(Debug, Clone, Copy)]
pub struct PurgeTicket(u64);

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl Cache {
    /// An empty cache with an echo key of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::with_freshness(serve_until)
    }

    /// As [`new`](Self::new), with another rule of freshness.
    #[must_use]
    pub fn with_freshness(freshness: Freshness) -> Self {
        Self {
            freshness,
            limits: Limits::default(),
            slots: DashMap::with_hasher(foldhash::fast::RandomState::default()),
            echo_key: EchoKey::random(),
            next_id: AtomicU64::new(1),
            next_generation: AtomicU64::new(1),
            forced_at: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            workers: Mutex::default(),
        }
    }

    /// The same cache with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// How much it may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The slot of a permitted key, made if there is none.
    ///
    /// # Errors
    /// The cache holds all the keys that it may, and this is not one of them.
    pub fn lookup(&self, permit: &Permit) -> Result<Arc<Slot>, Full> {
        if let Some(slot) = self.find(permit.key()) {
            return Ok(slot);
        }
        self.add(Arc::clone(permit.shared_key()))
    }

    /// The slot of a key, for `refresh` and operators; callers' requests need a permit.
    #[must_use]
    pub fn find(&self, key: &TokenKey) -> Option<Arc<Slot>> {
        self.slots.get(key).map(|slot| Arc::clone(&slot))
    }

    /// The slot of a key, made if there is none. Writers only: a caller's request comes in by
    /// [`lookup`](Self::lookup).
    ///
    /// # Errors
    /// No room.
    pub fn add(&self, key: Arc<TokenKey>) -> Result<Arc<Slot>, Full> {
        // Counted before the shard is locked, since counting locks them all. Racing callers may
        // overshoot by one each, which bounds as well as the exact number.
        let full = self.slots.len() >= self.limits.max_keys;
        match self.slots.entry(key) {
            Place::Occupied(slot) => Ok(Arc::clone(slot.get())),
            Place::Vacant(_) if full => Err(Full),
            Place::Vacant(place) => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                let key = Arc::clone(place.key());
                let slot = Arc::new(Slot::new(id, key, self.limits.max_waiters));
                place.insert(Arc::clone(&slot));
                Ok(slot)
            }
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every slot, for operators and for shutdown; in no order.
    #[must_use]
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.iter().map(|slot| Arc::clone(&slot)).collect()
    }

    /// The echo of a key.
    #[must_use]
    pub fn echo(&self, key: &TokenKey) -> Echo {
        self.echo_key.echo(key)
    }

    /// Makes an entry for `key` with the next generation, rendered in the shapes asked for.
    #[must_use]
    pub fn entry(
        &self,
        key: &TokenKey,
        token: Arc<AccessToken>,
        shapes: impl IntoIterator<Item = Shape>,
    ) -> Arc<Entry> {
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let until = (self.freshness)(&token.lifetime);
        let echo = self.echo(key);
        Arc::new(Entry::new(echo, generation, key, token, until, shapes))
    }

    /// Whether one more call may be forced at `now`, for all keys together: one a second.
    pub(super) fn may_force(&self, now: UnixMs) -> bool {
        let last = self.forced_at.load(Ordering::Relaxed);
        // A time that lies ahead is of a clock that has been put right since.
        let rested = now.0 >= last.saturating_add(MIN_FORCE_PAUSE_MS) || now.0 < last;
        rested
            && self
                .forced_at
                .compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Makes sure that generations to come lie above `generation`, which a restart brought back.
    pub fn resume_after(&self, generation: u64) {
        self.next_generation
            .fetch_max(generation.saturating_add(1), Ordering::Relaxed);
    }

    /// Takes a slot out and ends it. A slot that has meanwhile been replaced stays.
    pub fn retire(&self, slot: &Slot) {
        self.slots
            .remove_if(slot.key(), |_, held| held.id() == slot.id());
        slot.bury();
    }

    /// Ends the slots that `which` picks and returns their names, with a ticket that is
    /// [over](Self::is_over) once no worker holds their entries.
    pub fn purge(&self, which: impl Fn(&Slot) -> bool) -> (Vec<KeyId>, PurgeTicket) {
        let mut picked = self.slots();
        picked.retain(|slot| which(slot));
        // The map has no order of its own; a run that is replayed needs one.
        picked.sort_unstable_by_key(|slot| slot.id());
        picked.iter().for_each(|slot| self.retire(slot));
        let ticket = self.purges.fetch_add(1, Ordering::AcqRel) + 1;
        (
            picked.iter().map(|slot| slot.id()).collect(),
            PurgeTicket(ticket),
        )
    }

    /// Whether every worker has let go of what the purge took.
    #[must_use]
    pub fn is_over(&self, ticket: PurgeTicket) -> bool {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers
            .iter()
            .all(|seen| seen.load(Ordering::Acquire) >= ticket.0)
    }

    /// Purges so far; a worker reads this before it sweeps and acknowledges it after.
    pub(super) fn purges(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// A worker's acknowledgement.
    pub(super) fn add_worker(&self) -> Arc<AtomicU64> {
        let seen = Arc::new(AtomicU64::new(self.purges()));
        self.workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&seen));
        seen
    }

    /// Forgets a worker that has ended, so that purges do not wait for it.
    pub(super) fn remove_worker(&self, seen: &Arc<AtomicU64>) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|known| !Arc::ptr_eq(known, seen));
    }
}

#[cfg(all(test, not(feature = "loom")))]
impl Cache {
    /// Holds the only key's shard, to show what does not take it, and what is made of a thread
    /// that does.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.slots.iter_mut().next()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::super::fixtures::{key, token};
    use super::*;

    #[test]
    fn a_full_cache_takes_no_new_key_and_keeps_the_old_ones() {
        let max_keys = 300;
        let cache = Cache::new().with_limits(Limits {
            max_keys,
            ..Limits::default()
        });
        for i in 0..max_keys {
            cache.add(Arc::new(key(&i.to_string()))).unwrap();
        }
        assert_eq!(cache.add(Arc::new(key("one more"))).err(), Some(Full));
        assert!(cache.add(Arc::new(key("0"))).is_ok());
        cache.retire(&cache.find(&key("0")).unwrap());
        assert!(cache.add(Arc::new(key("one more"))).is_ok());
    }

    #[test]
    fn retiring_a_slot_leaves_its_successor_alone() {
        let cache = Cache::new();
        let old = cache.add(Arc::new(key("r"))).unwrap();
        cache.retire(&old);
        let new = cache.add(Arc::new(key("r"))).unwrap();
        assert_ne!(old.id(), new.id());
        cache.retire(&old);
        assert!(
            cache
                .find(&key("r"))
                .is_some_and(|slot| slot.id() == new.id())
        );
    }

    #[test]
    fn generations_go_on_above_those_of_an_earlier_start() {
        let cache = Cache::new();
        cache.resume_after(41);
        cache.resume_after(7);
        assert_eq!(cache.entry(&key("r"), token("t", 1), []).generation, 42);
    }
}
