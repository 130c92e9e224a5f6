//! When: both clocks read at one moment, and a timer finer than a poll's milliseconds. Nothing else
//! here reads time.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the driver's place to read time"
)]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// The steady clock.
pub(crate) fn steady() -> Instant {
    Instant::now()
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub steady: Instant,
    unix: Duration,
}

impl Now {
    pub(crate) fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            steady: steady(),
            unix: unix.unwrap_or_default(),
        }
    }

    pub(crate) fn unix_ms(self) -> u64 {
        millis(self.unix)
    }

    /// A little later: the wall clock goes on as the steady one does.
    pub(crate) fn later(self) -> Self {
        let steady = steady();
        Self {
            steady,
            unix: self.unix + steady.saturating_duration_since(self.steady),
        }
    }

    /// What the wall clock said at an earlier moment, if it was not set since.
    pub(crate) fn unix_ms_at(self, then: Instant) -> u64 {
        let ago = self.steady.saturating_duration_since(then);
        millis(self.unix.saturating_sub(ago))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock's time of other moments, as processes tell each other.
impl Now {
    /// What the wall clock said or will say at another moment, in microseconds.
    pub(crate) fn unix_us_of(self, then: Instant) -> u64 {
        let ahead = then.saturating_duration_since(self.steady);
        let ago = self.steady.saturating_duration_since(then);
        let unix = (self.unix + ahead).saturating_sub(ago);
        u64::try_from(unix.as_micros()).unwrap_or(u64::MAX)
    }

    /// The moment at which the wall clock says so; nothing if this machine did not run then.
    pub(crate) fn at_unix_us(self, unix_us: u64) -> Option<Instant> {
        let then = Duration::from_micros(unix_us);
        match then.checked_sub(self.unix) {
            Some(ahead) => self.steady.checked_add(ahead),
            None => self.steady.checked_sub(self.unix.saturating_sub(then)),
        }
    }
}

/// Wakes a poll at a given moment, as exactly as the kernel can: a poll's own timeout is counted
/// in whole milliseconds, in which a thread should send twenty requests.
pub(crate) struct Timer {
    timer: OwnedFd,
    set_for: Option<Instant>,
}

impl Timer {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self {
            timer,
            set_for: None,
        })
    }

    /// Sets it, unless it is set for that moment already. A moment that has passed is not for it.
    pub(crate) fn set(&mut self, at: Instant, now: Instant) -> io::Result<()> {
        if self.set_for == Some(at) {
            return Ok(());
        }
        // Nothing at all would switch it off.
        let wait = at
            .saturating_duration_since(now)
            .max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::empty(), &once)?;
        self.set_for = Some(at);
        Ok(())
    }
}
