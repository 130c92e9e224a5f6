//! The lasting cell of a token key: its current entry and its flight.

use std::sync::Arc;

use super::Entry;
use super::capacity::MIN_FORCE_PAUSE_PER_KEY_MS;
use super::flight::{Flight, Landing, Waiter};
use crate::clock::UnixMs;
use crate::protocol::Shape;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::token::TokenKey;
use crate::upstream::FetchError;

/// Names a slot for the life of the process; never used twice.
pub type KeyId = u64;

/// The generation of a slot that was purged or retired: readers go back to the index.
const TOMBSTONE: u64 = u64::MAX;

/// A cell that keeps its place while entries come and go.
///
/// Readers load the generation and, only when it moved, take the lock to fetch the new entry. The
/// entry is always in place before its generation is announced, so a reader that sees a generation
/// finds that entry or a later one.
pub struct Slot {
    id: KeyId,
    key: Arc<TokenKey>,
    generation: AtomicU64,
    state: Mutex<State>,
    /// Added to by workers once a second, never on a hit.
    hits: AtomicU64,
    /// When a caller last forced a call, in Unix milliseconds.
    forced_at: AtomicU64,
    /// The shapes in which workers answer, a bit each.
    shapes: AtomicU64,
    /// Callers that may wait on one flight.
    max_waiters: usize,
}

#[derive(Default)]
struct State {
    entry: Option<Arc<Entry>>,
    flight: Option<Arc<Flight>>,
    gone: bool,
}

/// The duty to land a slot's flight. It is owned by the task that asks the upstream, never by a
/// caller. Dropping it before the flight has landed ends the flight as lost, so neither a dropped
/// task nor a panic leaves the slot taken.
pub struct Leader {
    slot: Arc<Slot>,
    flight: Arc<Flight>,
}

/// What joining found.
pub enum Joined {
    /// Wait with the others. The leader is there for whoever started the flight.
    Waiting(Waiter, Option<Leader>),
    /// The slot is no more: ask the index again.
    Gone,
    /// Too many wait already.
    Crowded,
}

impl Slot {
    /// An empty slot. So many callers may wait on one of its flights.
    #[must_use]
    pub fn new(id: KeyId, key: Arc<TokenKey>, max_waiters: usize) -> Self {
        Self {
            id,
            key,
            generation: AtomicU64::new(0),
            state: Mutex::new(State::default()),
            hits: AtomicU64::new(0),
            forced_at: AtomicU64::new(0),
            shapes: AtomicU64::new(0),
            max_waiters,
        }
    }

    /// The slot's name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key whose tokens it holds.
    #[must_use]
    pub fn key(&self) -> &TokenKey {
        &self.key
    }

    /// The same, to be held by others.
    pub(super) fn shared_key(&self) -> &Arc<TokenKey> {
        &self.key
    }

    /// Whether `generation` is still the current one. The one shared load of a hit.
    #[must_use]
    pub fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The current entry; `None` while empty and once gone.
    #[must_use]
    pub fn entry(&self) -> Option<Arc<Entry>> {
        lock(&self.state).entry.clone()
    }

    /// Whether it was purged or retired.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// Joins the flight under way, or starts one.
    #[must_use]
    pub fn join(self: &Arc<Self>) -> Joined {
        let mut state = lock(&self.state);
        if state.gone {
            return Joined::Gone;
        }
        if let Some(flight) = &state.flight {
            return flight
                .wait(self.max_waiters)
                .map_or(Joined::Crowded, |waiter| Joined::Waiting(waiter, None));
        }
        let leader = self.start(&mut state);
        let waiter = leader.flight.wait(self.max_waiters);
        let waiter = waiter.expect("a new flight has room");
        Joined::Waiting(waiter, Some(leader))
    }

    /// Joins the flight under way, or starts one that `may_start` allows, for a caller who has no
    /// use for the entry that is there. `None` if it has to do: a call was forced within the last
    /// minute, or `may_start` says no.
    #[must_use]
    pub fn join_forced(
        self: &Arc<Self>,
        now: UnixMs,
        may_start: impl FnOnce() -> bool,
    ) -> Option<(Waiter, Option<Leader>)> {
        let mut state = lock(&self.state);
        if state.gone {
            return None;
        }
        if let Some(flight) = &state.flight {
            return flight.wait(self.max_waiters).map(|waiter| (waiter, None));
        }
        // Under the lock, so that of many callers at once one starts and the rest join.
        let last = self.forced_at.load(Ordering::Relaxed);
        // A time that lies ahead is of a clock that has been put right since.
        let rested = now.0 >= last.saturating_add(MIN_FORCE_PAUSE_PER_KEY_MS) || now.0 < last;
        if !rested || !may_start() {
            return None;
        }
        self.forced_at.store(now.0, Ordering::Relaxed);
        let leader = self.start_as(&mut state, Flight::forced());
        let waiter = leader.flight.wait(self.max_waiters);
        let waiter = waiter.expect("a new flight has room");
        Some((waiter, Some(leader)))
    }

    /// Starts a flight that nobody waits for yet; `None` if one is under way or the slot is gone.
    #[must_use]
    pub fn lead(self: &Arc<Self>) -> Option<Leader> {
        let mut state = lock(&self.state);
        (!state.gone && state.flight.is_none()).then(|| self.start(&mut state))
    }

    fn start(self: &Arc<Self>, state: &mut State) -> Leader {
        self.start_as(state, Flight::default())
    }

    fn start_as(self: &Arc<Self>, state: &mut State, flight: Flight) -> Leader {
        let flight = Arc::new(flight);
        state.flight = Some(Arc::clone(&flight));
        Leader {
            slot: Arc::clone(self),
            flight,
        }
    }

    /// The entry that the flight under way was started to replace, because a caller has no use for
    /// it. A new entry lands the flight, so this is the one that was there when it started.
    #[must_use]
    pub fn rejected(&self) -> Option<Arc<Entry>> {
        let state = lock(&self.state);
        let forced = state.flight.as_ref().is_some_and(|it| it.is_forced());
        state.entry.clone().filter(|_| forced)
    }

    /// Publishes an entry and lands the flight, if there is one. Returns `false`, and keeps
    /// nothing, if the slot is gone: the answer belongs to a generation that was purged.
    pub fn publish(&self, entry: Arc<Entry>) -> bool {
        let flight = {
            let mut state = lock(&self.state);
            if state.gone {
                return false;
            }
            let generation = entry.generation;
            state.entry = Some(entry);
            self.generation.store(generation, Ordering::Release);
            state.flight.take()
        };
        if let Some(flight) = flight {
            flight.land(Landing::Arrived);
        }
        true
    }

    /// Lands the flight, if there is one, with an error. The entry stays as it is.
    pub fn fail(&self, error: &Arc<FetchError>) {
        let flight = lock(&self.state).flight.take();
        if let Some(flight) = flight {
            flight.land(Landing::Failed(Arc::clone(error)));
        }
    }

    /// Ends the slot's life: readers go back to the index, an answer still in flight is dropped.
    pub fn bury(&self) {
        let (flight, entry) = {
            let mut state = lock(&self.state);
            state.gone = true;
            self.generation.store(TOMBSTONE, Ordering::Release);
            (state.flight.take(), state.entry.take())
        };
        drop(entry);
        if let Some(flight) = flight {
            flight.land(Landing::Gone);
        }
    }

    /// Notes that a worker answers in this shape: entries to come are rendered in it.
    pub fn want(&self, shape: Shape) {
        self.shapes.fetch_or(1 << shape as u64, Ordering::Relaxed);
    }

    /// The shapes in which workers answer.
    pub fn wanted(&self) -> impl Iterator<Item = Shape> + use<> {
        let shapes = self.shapes.load(Ordering::Relaxed);
        Shape::ALL
            .into_iter()
            .filter(move |shape| shapes & 1 << *shape as u64 != 0)
    }

    /// Adds what a worker has counted since its last tick.
    pub fn add_hits(&self, hits: u64) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
    }

    /// Hits as of the workers' last ticks.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Whether a call for it would be for nobody: no entry to renew, and all callers have left.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let state = lock(&self.state);
        state.entry.is_none()
            && state
                .flight
                .as_ref()
                .is_some_and(|flight| !flight.is_awaited())
    }
}

#[cfg(all(test, not(feature = "loom")))]
impl Slot {
    /// Holds the slot's lock, to show what does not take it.
    pub(super) fn hold(&self) -> impl Sized + '_ {
        lock(&self.state)
    }
}

impl Leader {
    /// Whether a caller started it who has no use for the token that is there.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.flight.is_forced()
    }

    /// Whether its flight has landed without it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let state = lock(&self.slot.state);
        !state
            .flight
            .as_ref()
            .is_some_and(|flight| Arc::ptr_eq(flight, &self.flight))
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let ours = {
            let mut state = lock(&self.slot.state);
            let ours = state
                .flight
                .as_ref()
                .is_some_and(|flight| Arc::ptr_eq(flight, &self.flight));
            if ours { state.flight.take() } else { None }
        };
        if let Some(flight) = ours {
            flight.land(Landing::Lost);
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll};

    use super::super::fixtures::{entry, slot};
    use super::*;
    use crate::upstream::Class;

    fn waiting(slot: &Arc<Slot>) -> (Waiter, Option<Leader>) {
        match slot.join() {
            Joined::Waiting(waiter, leader) => (waiter, leader),
            _ => panic!("the slot takes callers"),
        }
    }

    fn poll(waiter: &mut Waiter) -> Option<Landing> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match pin!(waiter).poll(&mut context) {
            Poll::Ready(landing) => Some(landing),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_first_caller_leads_and_the_rest_follow() {
        let slot = slot();
        let (mut first, leader) = waiting(&slot);
        let (mut second, follower) = waiting(&slot);
        assert!(leader.is_some() && follower.is_none());
        assert!(slot.lead().is_none());
        assert!(poll(&mut first).is_none());
        assert!(slot.publish(entry(&slot, 7)));
        assert!(matches!(poll(&mut first), Some(Landing::Arrived)));
        assert!(matches!(poll(&mut second), Some(Landing::Arrived)));
        assert!(slot.is_current(7));
    }

    #[test]
    fn a_dropped_leader_frees_the_slot_and_the_next_caller_leads() {
        let slot = slot();
        let (mut waiter, leader) = waiting(&slot);
        drop(leader);
        assert!(matches!(poll(&mut waiter), Some(Landing::Lost)));
        assert!(waiting(&slot).1.is_some());
    }

    #[test]
    fn a_failure_is_shared_once_and_keeps_the_entry() {
        let slot = slot();
        slot.publish(entry(&slot, 3));
        let (mut a, _leader) = waiting(&slot);
        let (mut b, _) = waiting(&slot);
        slot.fail(&Arc::new(FetchError::of(Class::Timeout)));
        assert!(matches!(poll(&mut a), Some(Landing::Failed(_))));
        assert!(matches!(poll(&mut b), Some(Landing::Failed(_))));
        assert!(slot.is_current(3) && slot.entry().is_some());
        assert!(waiting(&slot).1.is_some());
    }

    #[test]
    fn an_answer_that_lands_after_a_purge_is_thrown_away() {
        let slot = slot();
        slot.publish(entry(&slot, 3));
        let (mut waiter, leader) = waiting(&slot);
        slot.bury();
        assert!(matches!(poll(&mut waiter), Some(Landing::Gone)));
        assert!(!slot.publish(entry(&slot, 4)));
        assert!(slot.entry().is_none() && !slot.is_current(3) && !slot.is_current(4));
        drop(leader);
        assert!(matches!(slot.join(), Joined::Gone));
    }

    #[test]
    fn a_leader_of_an_older_flight_does_not_end_the_newer_one() {
        let slot = slot();
        let (_, old) = waiting(&slot);
        slot.publish(entry(&slot, 1));
        let (mut waiter, _new) = waiting(&slot);
        drop(old);
        assert!(poll(&mut waiter).is_none());
    }

    #[test]
    fn a_key_s_next_call_is_forced_a_minute_after_its_last_and_not_sooner() {
        let slot = slot();
        slot.publish(entry(&slot, 1));
        let first = UnixMs(1_767_225_600_000);
        let force = |now| slot.join_forced(now, || true);
        let (_, leader) = force(first).expect("the first");
        assert!(leader.is_some_and(|it| it.is_forced()));
        for early_ms in [0, 1000, 59_999] {
            let taken = || panic!("the pause that all keys share is not touched");
            let found = slot.join_forced(first.plus(early_ms), taken);
            assert!(found.is_none(), "{early_ms}");
        }
        let (_waiter, leader) = force(first.plus(60_000)).expect("a minute has passed");
        // It counts from the last that began; who comes meanwhile joins it.
        let (_, follower) = force(first.plus(60_001)).expect("a flight to join");
        assert!(leader.is_some() && follower.is_none());
        drop(leader);
        assert!(force(first.plus(119_999)).is_none());
        assert!(force(first.plus(120_000)).is_some());
    }

    #[test]
    fn seats_are_given_back() {
        let slot = slot();
        let (_waiter, _leader) = waiting(&slot);
        for _ in 0..2 * slot.max_waiters {
            drop(waiting(&slot));
        }
    }
}
