//! A flight: one upstream call for a key, and everybody who waits for it.
//!
//! Uses no runtime's types: a waiter is a plain future, and the leader lands the flight from
//! whatever thread it runs on. A flight lands exactly once; whoever asks later sees how.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::sync::{Mutex, Waker, lock};
use crate::upstream::FetchError;

/// How a flight ended, for each waiter alike.
#[derive(Debug, Clone)]
pub enum Landing {
    /// The slot has a new entry: look again.
    Arrived,
    /// The upstream had no token for us.
    Failed(Arc<FetchError>),
    /// The leader was dropped or panicked without an answer.
    Lost,
    /// The slot was purged or retired meanwhile: ask the index again.
    Gone,
}

/// The shared side of a flight.
#[derive(Default)]
pub(super) struct Flight {
    state: Mutex<State>,
    forced: bool,
}

#[derive(Default)]
struct State {
    landing: Option<Landing>,
    seats: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Flight {
    /// A flight for a caller who has no use for the entry that is there.
    pub(super) fn forced() -> Self {
        Self {
            forced: true,
            ..Self::default()
        }
    }

    pub(super) fn is_forced(&self) -> bool {
        self.forced
    }

    /// A place among those waiting; `None` if there are so many already.
    pub(super) fn wait(self: &Arc<Self>, max_waiters: usize) -> Option<Waiter> {
        let mut state = lock(&self.state);
        let seat = match state.free.pop() {
            Some(seat) => seat,
            None if state.seats.len() >= max_waiters => return None,
            None => {
                state.seats.push(None);
                state.seats.len() - 1
            }
        };
        Some(Waiter {
            flight: Arc::clone(self),
            seat: Some(seat),
        })
    }

    /// Whether anybody has a place.
    pub(super) fn is_awaited(&self) -> bool {
        let state = lock(&self.state);
        state.seats.len() > state.free.len()
    }

    /// Ends the flight and wakes everybody. Only the first landing counts.
    pub(super) fn land(&self, landing: Landing) {
        let seats = {
            let mut state = lock(&self.state);
            if state.landing.is_some() {
                return;
            }
            state.landing = Some(landing);
            std::mem::take(&mut state.seats)
        };
        // Outside the lock: a waker may run code of its own.
        seats.into_iter().flatten().for_each(Waker::wake);
    }
}

/// One caller's wait. Dropping it gives the seat back and disturbs nobody.
pub struct Waiter {
    flight: Arc<Flight>,
    seat: Option<usize>,
}

impl Future for Waiter {
    type Output = Landing;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Landing> {
        let this = self.get_mut();
        let mut state = lock(&this.flight.state);
        if let Some(landing) = &state.landing {
            let landing = landing.clone();
            this.seat = None;
            return Poll::Ready(landing);
        }
        if let Some(seat) = this.seat {
            match &mut state.seats[seat] {
                Some(waker) => waker.clone_from(context.waker()),
                empty => *empty = Some(context.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = lock(&self.flight.state);
        // After the landing the seats are gone.
        if let (Some(seat), None) = (self.seat, &state.landing) {
            state.seats[seat] = None;
            state.free.push(seat);
        }
    }
}
