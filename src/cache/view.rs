//! One worker's view of the cache: request targets it has seen, and the entries they led to.
//!
//! Belongs to one thread. A known target is a hash, a comparison and one atomic load away from its
//! finished bytes; everything else goes through the index.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;

use super::capacity::{MAX_REMEMBERED_BYTES_PER_WORKER, MAX_TARGETS_PER_KEY};
use super::{Cache, Echo, Entry, Full, Joined, KeyId, Leader, Slot, Waiter};
use crate::authz::Permit;
use crate::clock::UnixMs;
use crate::protocol::{Body, Digits, Force, Shape};
use crate::telemetry::metrics::Metrics;

/// What a worker remembers.
pub struct View {
    cache: Arc<Cache>,
    metrics: Metrics,
    targets: HashTable<usize>,
    seen: Vec<Option<Seen>>,
    free: Vec<usize>,
    hasher: foldhash::fast::RandomState,
    /// What is remembered weighs so much.
    bytes: usize,
    /// Targets that were ever remembered.
    remembered: u64,
    purges_seen: Arc<AtomicU64>,
    digits: Digits,
}

/// One request target on one listener, fully parsed and permitted once.
struct Seen {
    /// No other target of this view ever had this number.
    number: u64,
    scope: u64,
    target: Box<[u8]>,
    asked: Asked,
    permit: Permit,
    echo: Echo,
    slot: Arc<Slot>,
    entry: Option<Arc<Entry>>,
    hits: u64,
    /// Asked for since the last tick.
    used: bool,
    last_used: UnixMs,
}

impl Seen {
    fn move_to(&mut self, slot: Arc<Slot>) {
        slot.want(self.asked.shape);
        self.slot = slot;
    }
}

/// What a request asks for beside its key.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The shape of its answer.
    pub shape: Shape,
    /// Whether it wants another token than the one that is held.
    pub force: Option<Force>,
}

/// How often a request has looked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Never.
    First,
    /// It waited for a flight that has landed.
    Again,
    /// It waited in vain: what is there is served, but it does not wait once more.
    Last,
}

/// Where a target is kept, as long as it is: see [`View::keeps`].
#[derive(Clone, Copy, Debug)]
pub struct Place {
    at: usize,
    number: u64,
}

/// What a look-up found.
pub enum Found<'a> {
    /// A finished body.
    Body(Body<'a>),
    /// Nothing that may be served: wait. The leader goes to `refresh`, with its slot.
    Wait(Waiter, Option<(Arc<Slot>, Leader)>),
    /// No room for the key, or for one more waiter.
    Full,
    /// Nothing that may be served, and waiting is over.
    Nothing,
}

impl View {
    /// An empty view, known to the cache until it is dropped.
    #[must_use]
    pub fn new(cache: Arc<Cache>, metrics: Metrics) -> Self {
        let purges_seen = cache.add_worker();
        Self {
            cache,
            metrics,
            targets: HashTable::new(),
            seen: Vec::new(),
            free: Vec::new(),
            hasher: foldhash::fast::RandomState::default(),
            bytes: 0,
            remembered: 0,
            purges_seen,
            digits: Digits::new(0),
        }
    }

    /// The cache that it looks into.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where this raw target on this listener was put, if it was seen before.
    #[must_use]
    pub fn find(&self, scope: u64, target: &[u8]) -> Option<Place> {
        let hash = self.hasher.hash_one((scope, target));
        let matches = |at: &usize| {
            self.seen[*at]
                .as_ref()
                .is_some_and(|s| s.scope == scope && *s.target == *target)
        };
        let at = *self.targets.find(hash, matches)?;
        let number = self.seen[at].as_ref()?.number;
        Some(Place { at, number })
    }

    /// Whether the target that was put there is still there.
    #[must_use]
    pub fn keeps(&self, place: Place) -> bool {
        let seen = self.seen[place.at].as_ref();
        seen.is_some_and(|seen| seen.number == place.number)
    }

    /// Remembers a target after its full parse.
    ///
    /// # Errors
    /// The cache has no room for the key.
    pub fn remember(
        &mut self,
        scope: u64,
        target: &[u8],
        asked: Asked,
        permit: Permit,
    ) -> Result<Place, Full> {
        if self.is_full(target) {
            self.forget(|seen| seen.hits == 0);
        }
        if self.is_full(target) {
            self.forget(|_| true);
        }
        let slot = self.cache.lookup(&permit)?;
        slot.want(asked.shape);
        let echo = self.cache.echo(permit.key());
        self.remembered += 1;
        let number = self.remembered;
        let seen = Seen {
            number,
            scope,
            target: target.into(),
            asked,
            permit: permit.sharing(slot.shared_key()),
            echo,
            entry: slot.entry(),
            slot,
            hits: 0,
            used: false,
            last_used: UnixMs(0),
        };
        self.bytes += weight(target);
        let at = if let Some(at) = self.free.pop() {
            self.seen[at] = Some(seen);
            at
        } else {
            self.seen.push(Some(seen));
            self.seen.len() - 1
        };
        let hash = self.hasher.hash_one((scope, target));
        let (hasher, all) = (&self.hasher, &self.seen);
        self.targets
            .insert_unique(hash, at, |at| hash_of(hasher, all, *at));
        Ok(Place { at, number })
    }

    /// Looks up what may be served at `now` for a remembered target.
    ///
    /// # Panics
    /// If it was forgotten since: places are good until the next tick or the next target.
    #[must_use]
    pub fn look(&mut self, place: Place, now: UnixMs, turn: Turn) -> Found<'_> {
        let seen = self.seen[place.at].as_mut();
        let seen = seen
            .filter(|seen| seen.number == place.number)
            .expect("a place is used while it is kept");
        let held = seen.entry.as_ref();
        if !held.is_some_and(|entry| seen.slot.is_current(entry.generation)) {
            // The slow path: the entry moved, or there never was one.
            if seen.slot.is_gone() {
                match self.cache.lookup(&seen.permit) {
                    Ok(slot) => seen.move_to(slot),
                    Err(Full) => return Found::Full,
                }
            }
            seen.entry = seen.slot.entry();
        }
        let servable = match &seen.entry {
            Some(entry) if super::is_expired(now, entry.serve_until) => false,
            Some(entry) if entry.echo == seen.echo => true,
            Some(entry) => {
                // Somebody else's token. It stays here, and the slot that held it ends: the one
                // thing that a reader repairs, because it cannot wait.
                self.metrics.echo_mismatch();
                tracing::error!(generation = entry.generation, "entry withheld: wrong key");
                self.cache.retire(&seen.slot);
                false
            }
            None => false,
        };
        if !servable {
            return match turn {
                Turn::First | Turn::Again => join(&self.cache, seen, now),
                Turn::Last => Found::Nothing,
            };
        }
        let entry = seen.entry.as_ref().expect("a servable entry is there");
        let unwanted = turn == Turn::First
            && match &seen.asked.force {
                None => false,
                Some(Force::Always) => true,
                Some(Force::IfHash(hash)) => entry.has_hash(hash),
            };
        if unwanted
            && let Some((waiter, leader)) = seen.slot.join_forced(now, || self.cache.may_force(now))
        {
            let leader = leader.map(|leader| (Arc::clone(&seen.slot), leader));
            return Found::Wait(waiter, leader);
        }
        seen.hits += u64::from(turn == Turn::First);
        seen.used = true;
        seen.last_used = now;
        let left_s = entry.token.lifetime.expires_at().since(now) / 1000;
        self.digits = Digits::new(left_s);
        Found::Body(entry.body(seen.asked.shape, seen.permit.key(), &self.digits))
    }

    /// The 1 s tick: adds hits up, reports which keys were used and when, and lets go of entries
    /// that are no longer current.
    pub fn tick(&mut self) -> Vec<(KeyId, UnixMs)> {
        let purges = self.cache.purges();
        let mut used = Vec::new();
        for seen in self.seen.iter_mut().flatten() {
            if std::mem::take(&mut seen.used) {
                seen.slot.add_hits(std::mem::take(&mut seen.hits));
                used.push((seen.slot.id(), seen.last_used));
            }
            if seen
                .entry
                .as_ref()
                .is_some_and(|entry| !seen.slot.is_current(entry.generation))
            {
                seen.entry = None;
            }
        }
        // A slot that is gone and was not asked for again takes its targets along.
        self.forget(|seen| seen.entry.is_none() && seen.slot.is_gone());
        self.purges_seen.store(purges, Ordering::Release);
        used
    }

    fn max_targets(&self) -> usize {
        MAX_TARGETS_PER_KEY * self.cache.limits().max_keys
    }

    fn is_full(&self, target: &[u8]) -> bool {
        self.targets.len() >= self.max_targets()
            || self.bytes + weight(target) > MAX_REMEMBERED_BYTES_PER_WORKER
    }

    fn forget(&mut self, which: impl Fn(&Seen) -> bool) {
        let Self {
            targets,
            seen,
            free,
            bytes,
            ..
        } = self;
        targets.retain(|at| {
            let gone = seen[*at].as_ref().is_none_or(&which);
            if gone {
                if let Some(old) = seen[*at].take() {
                    *bytes -= weight(&old.target);
                }
                free.push(*at);
            }
            !gone
        });
    }
}

/// The bytes that one remembered target takes, about.
fn weight(target: &[u8]) -> usize {
    target.len() + 512
}

fn hash_of(hasher: &foldhash::fast::RandomState, all: &[Option<Seen>], at: usize) -> u64 {
    let seen = all[at].as_ref().expect("an indexed target is kept");
    hasher.hash_one((seen.scope, &*seen.target))
}

fn join<'a>(cache: &Cache, seen: &mut Seen, now: UnixMs) -> Found<'a> {
    // Who waits uses the key as much as who is served, also behind a flight that a renewal leads.
    seen.used = true;
    seen.last_used = now;
    loop {
        match seen.slot.join() {
            Joined::Waiting(waiter, leader) => {
                // Not the one who asked first: a key that several callers wait for is in use.
                seen.hits += u64::from(leader.is_none());
                let leader = leader.map(|leader| (Arc::clone(&seen.slot), leader));
                return Found::Wait(waiter, leader);
            }
            Joined::Crowded => return Found::Full,
            // Retired between the look and the join: the index has, or makes, the next slot.
            Joined::Gone => match cache.lookup(&seen.permit) {
                Ok(slot) => seen.move_to(slot),
                Err(Full) => return Found::Full,
            },
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.cache.remove_worker(&self.purges_seen);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::super::fixtures::{key, token};
    use super::*;
    use crate::authz::{Caller, Policy};

    const PLAIN: Asked = Asked {
        shape: Shape::Metadata,
        force: None,
    };

    fn permit(resource: &str) -> Permit {
        Policy::default()
            .permit(&Caller::Unix { uid: 0, gid: 0 }, None, key(resource))
            .unwrap()
    }

    fn publish(cache: &Cache, resource: &str, expires_on_s: u64) -> Arc<Slot> {
        let slot = cache.lookup(&permit(resource)).unwrap();
        assert!(slot.publish(cache.entry(slot.key(), token(resource, expires_on_s), [])));
        slot
    }

    fn view(cache: &Arc<Cache>) -> View {
        View::new(Arc::clone(cache), Metrics::new())
    }

    fn body(view: &mut View, place: Place, now: UnixMs) -> Option<String> {
        match view.look(place, now, Turn::First) {
            Found::Body(parts) => Some(String::from_utf8(parts.concat()).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn a_hit_takes_neither_the_slots_lock_nor_a_shards() {
        let cache = Arc::new(Cache::new());
        let slot = publish(&cache, "r", 1000);
        let mut view = view(&cache);
        let place = view.remember(0, b"t", PLAIN, permit("r")).unwrap();
        assert!(body(&mut view, place, UnixMs(0)).is_some());
        // Taking either again on this thread would stand for ever.
        let _slot = slot.hold();
        let _shards = cache.hold();
        let place = view.find(0, b"t").unwrap();
        assert!(body(&mut view, place, UnixMs(1000)).is_some());
    }

    #[test]
    fn who_waits_behind_another_counts_as_a_hit_and_who_asked_first_does_not() {
        let cache = Arc::new(Cache::new());
        let slot = cache.lookup(&permit("r")).unwrap();
        let mut view = view(&cache);
        let place = view.remember(0, b"t", PLAIN, permit("r")).unwrap();
        let _first = view.look(place, UnixMs(0), Turn::First);
        view.tick();
        assert_eq!(slot.hits(), 0);
        let _second = view.look(place, UnixMs(0), Turn::First);
        view.tick();
        assert_eq!(slot.hits(), 1);
    }

    #[test]
    fn the_next_look_after_a_renewal_serves_the_new_entry() {
        let cache = Arc::new(Cache::new());
        publish(&cache, "r", 1000);
        let mut view = view(&cache);
        let place = view.remember(0, b"t", PLAIN, permit("r")).unwrap();
        assert!(
            body(&mut view, place, UnixMs(0))
                .unwrap()
                .contains("\"1000\"")
        );
        publish(&cache, "r", 2000);
        assert!(
            body(&mut view, place, UnixMs(0))
                .unwrap()
                .contains("\"2000\"")
        );
    }

    #[test]
    fn an_expired_entry_is_not_served() {
        let cache = Arc::new(Cache::new());
        publish(&cache, "r", 1000);
        let mut view = view(&cache);
        let place = view.remember(0, b"t", PLAIN, permit("r")).unwrap();
        // 1000 s less the margin of 15 s.
        assert!(body(&mut view, place, UnixMs(984_999)).is_some());
        assert!(body(&mut view, place, UnixMs(985_000)).is_none());
    }

    #[test]
    fn one_target_on_two_listeners_is_remembered_twice() {
        let cache = Arc::new(Cache::new());
        let mut view = view(&cache);
        let first = view.remember(0, b"t", PLAIN, permit("a")).unwrap();
        assert!(view.find(1, b"t").is_none());
        let second = view.remember(1, b"t", PLAIN, permit("b")).unwrap();
        assert_ne!(first.at, second.at);
        assert_eq!(view.find(0, b"t").unwrap().at, first.at);
    }

    #[test]
    fn a_tick_adds_hits_up_and_reports_use() {
        let cache = Arc::new(Cache::new());
        let slot = publish(&cache, "r", 1000);
        let mut view = view(&cache);
        let place = view.remember(0, b"t", PLAIN, permit("r")).unwrap();
        body(&mut view, place, UnixMs(5));
        body(&mut view, place, UnixMs(7));
        assert_eq!(slot.hits(), 0);
        assert_eq!(view.tick(), [(slot.id(), UnixMs(7))]);
        assert_eq!(slot.hits(), 2);
        assert!(view.tick().is_empty());
    }

    #[test]
    fn targets_of_retired_slots_are_forgotten_at_the_tick() {
        let cache = Arc::new(Cache::new());
        let slot = publish(&cache, "r", 1000);
        let mut view = view(&cache);
        view.remember(0, b"t", PLAIN, permit("r")).unwrap();
        cache.retire(&slot);
        view.tick();
        assert!(view.find(0, b"t").is_none());
        assert_eq!(Arc::strong_count(&slot), 1);
    }

    #[test]
    fn remembered_targets_are_bounded() {
        let cache = Arc::new(Cache::new());
        let mut view = view(&cache);
        for i in 0..view.max_targets() + 10 {
            view.remember(0, i.to_string().as_bytes(), PLAIN, permit("r"))
                .unwrap();
        }
        assert!(view.targets.len() <= view.max_targets());
        view.forget(|_| true);
        assert_eq!(view.bytes, 0);
        for i in 0..3000 {
            let target = format!("{i}{}", "&".repeat(12_000));
            view.remember(0, target.as_bytes(), PLAIN, permit("r"))
                .unwrap();
            assert!(view.bytes <= MAX_REMEMBERED_BYTES_PER_WORKER);
        }
    }
}
