//! The only place that reads time.
//!
//! Everything here runs on one timeline, [`UnixMs`]: the boot-time clock plus an offset, which is at
//! first the wall clock's. Boot time counts suspend, which the monotonic clock does not, and it does
//! not jump when somebody sets the wall clock. What becomes of the offset when the wall clock steps,
//! or the upstream's clock shows another time, is decided in [`anchor`], a pure state machine: a
//! small forward step is believed at once; after any other the later clock is in force until the
//! upstream's `Date` decides.
//!
//! Rules elsewhere take the time as an argument; tests use clocks that they crank by hand.

pub mod anchor;
#[cfg(all(test, feature = "loom"))]
mod models;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use rustix::time::{ClockId, clock_gettime};

pub use anchor::News;
use anchor::{Anchor, Dated, MAX_IGNORED_MS, Reading, State, at, difference};

use crate::sync::{AtomicI64, Mutex, MutexGuard, Ordering, lock};

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

/// A reading of the boot-time clock: milliseconds since the machine started, suspend included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Boot(pub u64);

/// The present, and what has become known about the clocks since somebody last looked.
#[derive(Debug)]
pub struct Seen {
    /// The present by the timeline: by the later clock while it is doubtful.
    pub now: UnixMs,
    /// The present by the earlier clock; `now` while the timeline is certain.
    pub earliest: UnixMs,
    /// Whether an upstream's `Date` is waited for.
    pub doubtful: bool,
    /// Whether an upstream's `Date` has ever spoken for the timeline, or decided on it.
    pub confirmed: bool,
    /// How far the timeline has moved since somebody last looked, other than by time that passed, in
    /// milliseconds.
    pub moved_ms: i64,
    /// See [`Anchor::skew`].
    pub skew_ms: i64,
    /// In the order of time.
    pub news: Vec<News>,
}

/// The timeline. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    source: Source,
    /// [`Anchor::wall`], for [`Clock::now`]. Written after `offset`, so that whoever sees it sees
    /// what was made of it.
    wall: AtomicI64,
    /// [`Anchor::offset`], for [`Clock::now`].
    offset: AtomicI64,
    anchor: Mutex<Known>,
}

/// What is known of the clocks, and what of it nobody has fetched yet.
struct Known {
    anchor: Anchor,
    news: Vec<News>,
    /// [`Anchor::offset`] when it was last fetched.
    fetched: i64,
}

enum Source {
    System,
    Cranked(Arc<Hands>),
}

/// Both clocks of a [`Crank`].
struct Hands {
    wall: AtomicU64,
    boot: AtomicU64,
    watch: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// A reading of the wall clock is good if no more passed between those of boot time before and
/// after it: a process that is stopped in between would find the wall clock far behind.
const MAX_READING_MS: u64 = 50;
/// Before it is left for the next time.
const READING_TRIES: u32 = 3;
/// News that nobody fetched; the oldest are dropped. Somebody looks every second.
const MAX_NEWS: usize = 64;

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self::of(Source::System)
    }

    /// A clock that stands at `start` until the returned hand moves it.
    #[must_use]
    pub fn cranked(start: UnixMs) -> (Self, Crank) {
        let hands = Arc::new(Hands {
            wall: AtomicU64::new(start.0),
            boot: AtomicU64::new(0),
            watch: OnceLock::new(),
        });
        (Self::of(Source::Cranked(Arc::clone(&hands))), Crank(hands))
    }

    fn of(source: Source) -> Self {
        let (wall, boot) = (source.wall(), source.boot());
        let anchor = Anchor::new(Reading { wall, boot });
        Self(Arc::new(Inner {
            source,
            wall: AtomicI64::new(anchor.wall()),
            offset: AtomicI64::new(anchor.offset()),
            anchor: Mutex::new(Known {
                fetched: anchor.offset(),
                anchor,
                news: Vec::new(),
            }),
        }))
    }

    /// The present. Goes back only when the upstream's `Date` has decided for an earlier clock.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        let inner = &*self.0;
        // The wall clock first: time that passes between the two reads then makes its offset too
        // small, which is looked into, instead of too large, which would be believed.
        let (wall, boot) = (inner.source.wall(), inner.source.boot());
        // Two loads are the usual case; they are written only after a step, so workers share the
        // cache line without passing it around.
        let accounted = inner.wall.load(Ordering::Acquire);
        let offset = inner.offset.load(Ordering::Relaxed);
        let step = difference(wall.0, boot.0).saturating_sub(accounted);
        if (-MAX_IGNORED_MS..=0).contains(&step) {
            return at(boot, offset);
        }
        self.after_step(boot, offset, step)
    }

    #[cold]
    fn after_step(&self, boot: Boot, offset: i64, step: i64) -> UnixMs {
        let Ok(mut known) = self.0.anchor.try_lock() else {
            // Somebody is at it. Meanwhile what is later by either clock.
            return at(boot, offset.max(offset.saturating_add(step)));
        };
        self.look(&mut known);
        known.anchor.now(self.0.source.boot())
    }

    /// Reads both clocks, and hands out what has become known about them since the last time.
    #[must_use]
    pub fn observe(&self) -> Seen {
        let mut known = self.lock();
        self.look(&mut known);
        let boot = self.0.source.boot();
        let Known {
            anchor,
            news,
            fetched,
        } = &mut *known;
        let before = std::mem::replace(fetched, anchor.offset());
        Seen {
            now: anchor.now(boot),
            earliest: anchor.earliest(boot),
            doubtful: anchor.state() != State::Settled,
            confirmed: anchor.is_confirmed(),
            moved_ms: anchor.offset().saturating_sub(before),
            skew_ms: anchor.skew(),
            news: std::mem::take(news),
        }
    }

    /// The present by the earlier clock; as [`now`](Self::now) while the timeline is certain.
    #[must_use]
    pub fn earliest(&self) -> UnixMs {
        let mut known = self.lock();
        self.look(&mut known);
        known.anchor.earliest(self.0.source.boot())
    }

    /// The boot-time clock, for [`learn`](Self::learn).
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.0.source.boot()
    }

    /// Takes the `Date` of an answer that has just come in, to a question that went out at `sent`.
    pub fn learn(&self, date: UnixMs, sent: Boot) {
        let mut known = self.lock();
        // A step that nobody has noticed yet came before.
        self.look(&mut known);
        let received = self.0.source.boot();
        let dated = Dated {
            date,
            sent,
            received,
        };
        let news = known.anchor.learn(dated);
        self.publish(&mut known, news);
    }

    /// Takes the receipt of the newest stored token, at start: it is at least so late.
    pub fn remember(&self, newest: UnixMs) {
        let mut known = self.lock();
        let boot = self.0.source.boot();
        let news = known.anchor.remember(newest, boot);
        self.publish(&mut known, news);
    }

    fn look(&self, known: &mut Known) {
        let source = &self.0.source;
        for _ in 0..READING_TRIES {
            let before = source.boot();
            let (wall, boot) = (source.wall(), source.boot());
            if boot.0.saturating_sub(before.0) <= MAX_READING_MS {
                let news = known.anchor.read(Reading { wall, boot });
                self.publish(known, news);
                return;
            }
        }
    }

    fn publish(&self, known: &mut Known, news: Option<News>) {
        if let Some(news) = news {
            if known.news.len() >= MAX_NEWS {
                known.news.remove(0);
            }
            known.news.push(news);
        }
        let anchor = &known.anchor;
        self.0.offset.store(anchor.offset(), Ordering::Relaxed);
        self.0.wall.store(anchor.wall(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        lock(&self.0.anchor)
    }
}

impl Source {
    fn wall(&self) -> UnixMs {
        UnixMs(match self {
            Self::System => read(ClockId::Realtime),
            Self::Cranked(hands) => {
                hands.watch.get().inspect(|watch| watch());
                hands.wall.load(Ordering::Acquire)
            }
        })
    }

    fn boot(&self) -> Boot {
        Boot(match self {
            Self::System => read(ClockId::Boottime),
            Self::Cranked(hands) => hands.boot.load(Ordering::Acquire),
        })
    }
}

/// Moves a cranked [`Clock`].
pub struct Crank(Arc<Hands>);

impl Crank {
    /// Lets `ms` pass.
    pub fn advance(&self, ms: u64) {
        let Hands { wall, boot, .. } = &*self.0;
        // In this order, whoever reads in between finds a wall clock that is behind for a moment.
        boot.fetch_add(ms, Ordering::AcqRel);
        wall.fetch_add(ms, Ordering::AcqRel);
    }

    /// Lets time pass until a point in time.
    pub fn set(&self, to: UnixMs) {
        self.advance(to.since(UnixMs(self.0.wall.load(Ordering::Acquire))));
    }

    /// Calls this at every reading of the wall clock from now on, on the thread that reads: so a test
    /// gets into code that asks nobody else for anything, and may panic there. Only the first counts.
    pub fn watch(&self, reading: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.watch.set(Box::new(reading));
    }

    /// Steps the wall clock alone, as somebody who sets it does.
    pub fn step(&self, by_ms: i64) {
        let wall = self.0.wall.load(Ordering::Acquire);
        let to = wall.saturating_add_signed(by_ms);
        self.0.wall.store(to, Ordering::Release);
    }
}

fn read(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    const NOON: UnixMs = UnixMs(1_767_225_600_000);
    const HOUR_MS: i64 = 3_600_000;

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
    fn the_system_s_clocks_make_no_news_by_themselves() {
        let clock = Clock::system();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let clock = clock.clone();
                std::thread::spawn(move || {
                    for _ in 0..50_000 {
                        let _ = clock.now();
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(clock.observe().news, []);
    }

    #[test]
    fn a_cranked_clock_moves_only_by_hand() {
        let (clock, crank) = Clock::cranked(UnixMs(5));
        assert_eq!(clock.now(), UnixMs(5));
        crank.advance(7);
        assert_eq!(clock.now(), UnixMs(12));
    }

    #[test]
    fn a_hit_notices_a_step_at_once_and_the_later_clock_is_in_force() {
        for by_ms in [24 * HOUR_MS, -24 * HOUR_MS] {
            let (clock, crank) = Clock::cranked(NOON);
            crank.step(by_ms);
            let later = NOON.plus(u64::try_from(by_ms).unwrap_or(0));
            assert_eq!(clock.now(), later);
            let seen = clock.observe();
            assert_eq!(seen.news, [News::Stepped { by_ms }]);
            assert!(seen.doubtful && clock.observe().news.is_empty());
            assert_eq!(seen.earliest, later.minus(24 * HOUR_MS.unsigned_abs()));
        }
    }

    #[test]
    fn the_upstream_s_date_decides_and_clones_see_it() {
        let (clock, crank) = Clock::cranked(NOON);
        let clone = clock.clone();
        crank.step(24 * HOUR_MS);
        assert_eq!(clone.now(), NOON.plus(24 * 3_600_000));
        let sent = clock.boot();
        crank.advance(100);
        clock.learn(NOON, sent);
        assert_eq!(clone.now(), NOON.plus(100));
        // The wall clock is still a day ahead; that is known by now.
        crank.advance(60_000);
        assert_eq!(clone.now(), NOON.plus(60_100));
        assert!(!clone.observe().doubtful);
    }

    #[test]
    fn while_somebody_looks_into_a_step_a_hit_takes_the_later_clock_and_does_not_wait() {
        let (clock, crank) = Clock::cranked(NOON);
        let held = clock.lock();
        crank.step(HOUR_MS);
        assert_eq!(clock.now(), NOON.plus(3_600_000));
        crank.step(-3 * HOUR_MS);
        assert_eq!(clock.now(), NOON);
        drop(held);
    }

    #[test]
    fn arithmetic_is_held_at_both_ends_of_time() {
        assert_eq!(UnixMs(u64::MAX).plus(1), UnixMs(u64::MAX));
        assert_eq!(UnixMs(1).minus(2), UnixMs(0));
        assert_eq!(UnixMs(1).since(UnixMs(2)), 0);
    }
}
