//! The only place that reads time.
//!
//! Everything here runs on one timeline, [`UnixMs`]: the wall clock at start plus the boot-time
//! clock since. Boot time counts suspend, which the monotonic clock does not, and it does not jump
//! when somebody sets the wall clock. A wall clock that is ahead of the timeline is believed at
//! once, since a token must never be served past its end; one that is behind is not followed.
//! Rules elsewhere take the time as an argument; tests use a clock that they crank by hand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// A point in time: milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Milliseconds since `earlier`; 0 if `earlier` lies ahead.
    #[must_use]
    pub fn since(self, earlier: UnixMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This time plus `ms`, held at the end of time instead of wrapping.
    #[must_use]
    pub fn plus(self, ms: u64) -> UnixMs {
        UnixMs(self.0.saturating_add(ms))
    }

    /// This time less `ms`, held at the epoch.
    #[must_use]
    pub fn minus(self, ms: u64) -> UnixMs {
        UnixMs(self.0.saturating_sub(ms))
    }
}

impl fmt::Debug for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A source of [`UnixMs`]: the machine's clocks, or a hand that a test cranks. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    /// Wall time minus boot time, in milliseconds; only ever grows.
    System(Arc<AtomicU64>),
    Cranked(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Self {
        let anchor = read(ClockId::Realtime).saturating_sub(read(ClockId::Boottime));
        Self(Source::System(Arc::new(AtomicU64::new(anchor))))
    }

    /// A clock that stands at `start` until the returned hand moves it.
    #[must_use]
    pub fn cranked(start: UnixMs) -> (Self, Crank) {
        let cell = Arc::new(AtomicU64::new(start.0));
        (Self(Source::Cranked(Arc::clone(&cell))), Crank(cell))
    }

    /// The present. Never goes back.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        match &self.0 {
            Source::Cranked(cell) => UnixMs(cell.load(Ordering::Acquire)),
            Source::System(anchor) => {
                // The wall clock first: time that passes between the two reads then makes the
                // offset too small, which is not believed, instead of too large for good.
                let wall = read(ClockId::Realtime);
                let boot = read(ClockId::Boottime);
                let offset = wall.saturating_sub(boot);
                // Reading the anchor is the usual case; it is written only after a forward step,
                // so workers share the cache line without passing it around.
                let held = anchor.load(Ordering::Relaxed);
                if offset > held {
                    anchor.fetch_max(offset, Ordering::Relaxed);
                }
                UnixMs(boot.saturating_add(held.max(offset)))
            }
        }
    }
}

/// Moves a cranked [`Clock`].
pub struct Crank(Arc<AtomicU64>);

impl Crank {
    /// Lets `ms` pass.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::AcqRel);
    }

    /// Jumps to a point in time.
    pub fn set(&self, at: UnixMs) {
        self.0.store(at.0, Ordering::Release);
    }
}

fn read(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_time_never_goes_back() {
        let clock = Clock::system();
        let mut last = clock.now();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_cranked_clock_moves_only_by_hand() {
        let (clock, crank) = Clock::cranked(UnixMs(5));
        assert_eq!(clock.now(), UnixMs(5));
        crank.advance(7);
        assert_eq!(clock.now(), UnixMs(12));
    }

    #[test]
    fn arithmetic_is_held_at_both_ends_of_time() {
        assert_eq!(UnixMs(u64::MAX).plus(1), UnixMs(u64::MAX));
        assert_eq!(UnixMs(1).minus(2), UnixMs(0));
        assert_eq!(UnixMs(1).since(UnixMs(2)), 0);
    }
}
