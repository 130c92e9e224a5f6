//! How many calls go out, for the whole machine, and the pause when the upstream asks for one.

use std::collections::VecDeque;

use super::backoff::between;
use super::schedule::Jitter;
use crate::clock::UnixMs;

/// At most so many calls at once, and at most so many started in any one second.
///
/// The window slides: the call that would be one too many waits until the oldest of the last
/// second is a second old. A bucket refilled at a rate would let two bursts through in one second,
/// which IMDS answers with 429 for everybody on the machine.
///
/// A 429 that comes all the same, since other programs on the machine ask too, stops all calls for
/// as long as the upstream asks, else for two seconds and twice that each time it comes again; and
/// the rate is halved, then grows back by one every ten seconds.
#[derive(Debug)]
pub struct Budget {
    max_in_flight: usize,
    max_per_second: usize,
    /// See [`scaled`](Self::scaled).
    scale: u64,
    in_flight: usize,
    started: VecDeque<UnixMs>,
    /// No call starts before.
    paused_until: UnixMs,
    /// The pause before, 0 after a call that was not throttled.
    pause_ms: u64,
    /// The rate right after the last 429, and when that was.
    throttled: Option<(usize, UnixMs)>,
}

/// One second and one millisecond: time stamps are rounded down.
const WINDOW_MS: u64 = 1001;
/// The first pause after a 429 without `Retry-After`.
const FIRST_PAUSE_MS: u64 = 2000;
/// The longest of those.
const MAX_PAUSE_MS: u64 = 30_000;
/// The rate grows back by one in this time.
const RECOVERY_STEP_MS: u64 = 10_000;

impl Budget {
    /// A budget of which nothing is used.
    #[must_use]
    pub fn new(max_in_flight: usize, max_per_second: usize) -> Self {
        Self {
            max_in_flight,
            max_per_second,
            scale: 1,
            in_flight: 0,
            started: VecDeque::new(),
            paused_until: UnixMs(0),
            pause_ms: 0,
            throttled: None,
        }
    }

    /// For rehearsals: pauses and the recovery of the rate take so many times less. The second and
    /// its calls do not change.
    #[must_use]
    pub fn scaled(self, scale: u64) -> Self {
        Self { scale, ..self }
    }

    /// A call was answered with 429. `asked_ms` is the upstream's `Retry-After`, 0 without one.
    pub fn throttled(&mut self, now: UnixMs, asked_ms: u64, jitter: Jitter) {
        // Calls that were under way when it began belong to the same 429.
        if now >= self.paused_until {
            let (first, most) = (FIRST_PAUSE_MS / self.scale, MAX_PAUSE_MS / self.scale);
            self.pause_ms = (2 * self.pause_ms).clamp(first, most);
            self.throttled = Some(((self.rate(now) / 2).max(1), now));
        }
        let pause = between(self.pause_ms, self.pause_ms + self.pause_ms / 4, jitter);
        let until = now.plus(pause.max(asked_ms / self.scale));
        self.paused_until = self.paused_until.max(until);
    }

    /// A call was answered otherwise.
    pub fn flows(&mut self, now: UnixMs) {
        if now >= self.paused_until {
            self.pause_ms = 0;
        }
    }

    /// The clock has moved by so many milliseconds, and no time has passed: what was started is as
    /// old as it was, and a pause lasts as long.
    pub fn shift(&mut self, by_ms: i64) {
        let moved = |at: &mut UnixMs| at.0 = at.0.saturating_add_signed(by_ms);
        self.started.iter_mut().for_each(moved);
        moved(&mut self.paused_until);
        if let Some((_, at)) = &mut self.throttled {
            moved(at);
        }
    }

    /// When calls may start again after a 429.
    #[must_use]
    pub fn paused_until(&self) -> UnixMs {
        self.paused_until
    }

    /// Calls that may start in one second now.
    #[must_use]
    pub fn rate(&self, now: UnixMs) -> usize {
        let Some((rate, at)) = self.throttled else {
            return self.max_per_second;
        };
        let grown =
            usize::try_from(now.since(at) / (RECOVERY_STEP_MS / self.scale)).unwrap_or(usize::MAX);
        rate.saturating_add(grown).min(self.max_per_second)
    }

    /// Takes one call out of the budget, if it has one at `now`.
    pub fn start(&mut self, now: UnixMs) -> bool {
        while self
            .started
            .front()
            .is_some_and(|first| now.since(*first) >= WINDOW_MS)
        {
            self.started.pop_front();
        }
        let free = self.in_flight < self.max_in_flight
            && self.started.len() < self.rate(now)
            && now >= self.paused_until;
        if free {
            self.in_flight += 1;
            self.started.push_back(now);
        }
        free
    }

    /// The call taken out last was not made after all.
    pub fn cancel(&mut self) {
        self.in_flight -= 1;
        self.started.pop_back();
    }

    /// A call has ended, however it did.
    pub fn end(&mut self) {
        self.in_flight -= 1;
    }

    /// Calls under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When the next call may start by the second's count; `None` if only the end of one under way
    /// frees the budget.
    #[must_use]
    pub fn free_at(&self, now: UnixMs) -> Option<UnixMs> {
        if self.in_flight >= self.max_in_flight {
            return None;
        }
        let rate = self.rate(now);
        let by_rate = match self.started.len().checked_sub(rate) {
            None => now,
            // So many have to be a second old; the rate may grow before, which is soon enough then.
            Some(over) => self.started[over].plus(WINDOW_MS),
        };
        Some(by_rate.max(self.paused_until))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_more_than_the_limit_fly_at_once() {
        let mut budget = Budget::new(2, 100);
        assert!(budget.start(UnixMs(0)) && budget.start(UnixMs(0)));
        assert!(!budget.start(UnixMs(0)));
        assert_eq!(budget.free_at(UnixMs(0)), None);
        assert_eq!(budget.in_flight(), 2);
        budget.end();
        assert!(budget.start(UnixMs(0)));
    }

    #[test]
    fn a_429_stops_everything_and_halves_the_rate_for_a_while() {
        let mut budget = Budget::new(100, 16);
        let at = UnixMs(5000);
        assert!(budget.start(at));
        budget.throttled(at, 0, 0.0);
        budget.throttled(at, 0, 0.0);
        assert_eq!((budget.paused_until(), budget.rate(at)), (UnixMs(7000), 8));
        assert!(!budget.start(UnixMs(6999)));
        assert_eq!(budget.free_at(UnixMs(6999)), Some(UnixMs(7000)));
        let again = UnixMs(7000);
        let started = (0..20).filter(|_| budget.start(again)).count();
        assert_eq!(started, 8);
        // It goes on: twice the pause, half of the rate. Then what the upstream itself asks.
        budget.throttled(again, 0, 0.0);
        assert_eq!(
            (budget.paused_until(), budget.rate(again)),
            (UnixMs(11_000), 4)
        );
        let third = UnixMs(11_000);
        budget.throttled(third, 90_000, 0.0);
        assert_eq!(budget.paused_until(), UnixMs(101_000));
        assert_eq!(budget.rate(third), 2);
        assert_eq!(budget.rate(third.plus(140_000)), 16);
        // One good answer, and the next pause is a first one.
        budget.flows(UnixMs(101_000));
        budget.throttled(UnixMs(200_000), 0, 0.0);
        assert_eq!(budget.paused_until(), UnixMs(202_000));
    }

    #[test]
    fn a_step_of_the_clock_neither_ends_nor_stretches_a_second_or_a_pause() {
        for (before, now, by_ms) in [
            (5_000, 86_400_000, 86_395_000),
            (86_400_000, 5_000, -86_395_000),
        ] {
            let (mut budget, before, now) = (Budget::new(100, 15), UnixMs(before), UnixMs(now));
            let started = (0..20).filter(|_| budget.start(before)).count();
            assert_eq!(started, 15);
            budget.shift(by_ms);
            assert!(!budget.start(now.plus(1000)));
            assert!(budget.start(now.plus(1001)));
            budget.throttled(now, 120_000, 0.0);
            budget.shift(-by_ms);
            assert_eq!(budget.paused_until(), before.plus(120_000));
        }
    }

    #[test]
    fn a_pause_is_up_to_a_quarter_longer_by_jitter() {
        let mut budget = Budget::new(1, 15);
        budget.throttled(UnixMs(0), 0, 1.0);
        assert_eq!(budget.paused_until(), UnixMs(2500));
    }

    #[test]
    fn pauses_grow_to_half_a_minute_and_the_rate_falls_to_one() {
        let mut budget = Budget::new(1, 15);
        let mut now = UnixMs(0);
        for _ in 0..10 {
            budget.throttled(now, 0, 0.999);
            let pause = budget.paused_until().since(now);
            assert!((2000..=37_500).contains(&pause), "{pause}");
            now = budget.paused_until();
        }
        assert!(budget.rate(now) >= 1);
        assert!(budget.start(now));
    }

    #[test]
    fn a_rehearsal_divides_pauses_and_the_recovery_and_not_the_second() {
        let mut budget = Budget::new(100, 16).scaled(100);
        budget.throttled(UnixMs(0), 0, 0.0);
        assert_eq!(budget.paused_until(), UnixMs(20));
        let at = UnixMs(20);
        let started = (0..20).filter(|_| budget.start(at)).count();
        assert_eq!((started, budget.rate(UnixMs(800))), (8, 16));
        assert_eq!(budget.free_at(at), Some(at.plus(1001)));
        let mut now = at;
        for _ in 0..10 {
            now = budget.paused_until();
            budget.throttled(now, 0, 0.0);
        }
        assert_eq!(budget.paused_until().since(now), 300);
        let now = budget.paused_until();
        budget.throttled(now, 60_000, 0.0);
        assert_eq!(budget.paused_until().since(now), 600);
    }

    proptest! {
        #[test]
        fn no_second_sees_more_starts_than_allowed(steps in prop::collection::vec(0u64..400, 1..300)) {
            let mut budget = Budget::new(usize::MAX, 5);
            let (mut now, mut starts) = (UnixMs(0), Vec::new());
            for step in steps {
                now = now.plus(step);
                if budget.start(now) {
                    starts.push(now);
                } else {
                    let free = budget.free_at(now).unwrap();
                    prop_assert!(free > now && free.since(now) <= WINDOW_MS);
                }
            }
            for pair in starts.windows(6) {
                prop_assert!(pair[5].since(pair[0]) > 1000);
            }
        }
    }
}
