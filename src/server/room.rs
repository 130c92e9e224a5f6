//! The connections of one worker: how many there are, and which of them rest.
//!
//! Timers of their own would cost each request two entries in the runtime's wheel; the worker looks
//! around once a second instead.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;

use super::steering::Loads;
use crate::telemetry::metrics::Metrics;

/// An idle connection is kept for so many ticks of a second; clients' pools let go of theirs sooner
/// or notice.
const MAX_REST_TICKS: u32 = 120;

/// The connections of one worker.
pub(super) struct Room {
    /// Its number among the workers, and how many connections each of them has.
    pub worker: usize,
    pub loads: Loads,
    seats: RefCell<Slab<Rest>>,
    ticks: Cell<u32>,
    stage: Cell<Stage>,
    /// Since this was last asked for.
    panicked: Cell<bool>,
    metrics: Metrics,
}

/// How far the worker has come with its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Not there yet.
    Serving,
    /// Every answer ends its connection.
    Draining,
    /// Who rests after a request is sent away.
    LastCall,
    /// Who rests is sent away.
    Closing,
}

/// What is known of a connection.
#[derive(Default)]
struct Rest {
    /// The tick in which it had nothing more to do; `None` while it has.
    since: Option<u32>,
    /// Whether it ever had.
    heard: bool,
    waker: Option<Waker>,
}

/// One open connection, given back also when its task panics.
pub(super) struct Seat {
    room: Rc<Room>,
    number: usize,
}

impl Room {
    pub fn new(worker: usize, loads: Loads, metrics: Metrics) -> Self {
        Self {
            worker,
            loads,
            seats: RefCell::default(),
            ticks: Cell::new(0),
            stage: Cell::new(Stage::Serving),
            panicked: Cell::new(false),
            metrics,
        }
    }

    pub fn open(&self) -> usize {
        self.seats.borrow().len()
    }

    pub fn has_panicked(&self) -> bool {
        self.panicked.take()
    }

    pub fn is_draining(&self) -> bool {
        self.stage.get() >= Stage::Draining
    }

    /// The 1 s tick: sends away who has rested for too long.
    pub fn tick(&self) {
        self.ticks.set(self.ticks.get().wrapping_add(1));
        self.wake_who_is_sent_away();
    }

    /// Goes on to the next stage of the end.
    pub fn go_on(&self, stage: Stage) {
        self.stage.set(stage);
        self.wake_who_is_sent_away();
    }

    fn wake_who_is_sent_away(&self) {
        for (_, rest) in &*self.seats.borrow() {
            if let (true, Some(waker)) = (self.sends_away(rest), &rest.waker) {
                waker.wake_by_ref();
            }
        }
    }

    fn sends_away(&self, rest: &Rest) -> bool {
        let ticks = rest.since.map(|since| self.ticks.get().wrapping_sub(since));
        let ends = match self.stage.get() {
            Stage::Serving | Stage::Draining => false,
            Stage::LastCall => rest.heard,
            Stage::Closing => true,
        };
        ticks.is_some_and(|ticks| ends || ticks > MAX_REST_TICKS)
    }
}

impl Seat {
    pub fn take(room: &Rc<Room>) -> Self {
        room.loads.add(room.worker);
        Self::take_counted(room)
    }

    /// For a connection that another worker has handed over, and counted.
    pub fn take_counted(room: &Rc<Room>) -> Self {
        Self {
            number: room.seats.borrow_mut().insert(Rest::default()),
            room: Rc::clone(room),
        }
    }

    /// Its connection has nothing to do until it is woken. `false` if it is to end.
    pub fn rest(&self, wakeup: &Context<'_>) -> bool {
        let mut seats = self.room.seats.borrow_mut();
        let rest = &mut seats[self.number];
        rest.since.get_or_insert(self.room.ticks.get());
        if self.room.sends_away(rest) {
            return false;
        }
        match &mut rest.waker {
            Some(waker) => waker.clone_from(wakeup.waker()),
            empty => *empty = Some(wakeup.waker().clone()),
        }
        true
    }

    /// Its connection has something to do.
    pub fn work(&self) {
        let rest = &mut self.room.seats.borrow_mut()[self.number];
        (rest.since, rest.heard) = (None, true);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.seats.borrow_mut().remove(self.number);
        self.room.loads.take(self.room.worker);
        if std::thread::panicking() {
            self.room.panicked.set(true);
            self.room.metrics.panicked();
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn room() -> Rc<Room> {
        Rc::new(Room::new(0, Loads::new(1, 10), Metrics::new()))
    }

    fn rests(seat: &Seat) -> bool {
        seat.rest(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_rests_for_two_minutes_is_sent_away_and_who_works_is_not() {
        let room = room();
        let (idle, busy) = (Seat::take(&room), Seat::take(&room));
        assert!(rests(&idle) && rests(&busy));
        for second in 0..MAX_REST_TICKS {
            assert!(rests(&idle), "after {second} s");
            room.tick();
            busy.work();
            assert!(rests(&busy));
        }
        room.tick();
        assert!(!rests(&idle));
        assert!(rests(&busy));
        // Its request came just then: it is answered, and the rest begins anew.
        idle.work();
        assert!(rests(&idle));
        drop(busy);
        assert_eq!(room.open(), 1);
    }

    #[test]
    fn at_the_last_call_those_stay_who_have_not_asked_yet() {
        let room = room();
        let (old, new) = (Seat::take(&room), Seat::take(&room));
        old.work();
        assert!(rests(&old) && rests(&new));
        room.go_on(Stage::Draining);
        assert!(room.is_draining() && rests(&old) && rests(&new));
        room.go_on(Stage::LastCall);
        assert!(!rests(&old) && rests(&new));
        room.go_on(Stage::Closing);
        assert!(!rests(&new));
    }
}
