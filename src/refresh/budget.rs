//! How many calls go out, for the whole machine.

use std::collections::VecDeque;

use crate::clock::UnixMs;

/// At most so many calls at once, and at most so many started in any one second.
///
/// The window slides: the call that would be one too many waits until the oldest of the last
/// second is a second old. A bucket refilled at a rate would let two bursts through in one second,
/// which IMDS answers with 429 for everybody on the machine.
#[derive(Debug)]
pub struct Budget {
    max_in_flight: usize,
    max_per_second: usize,
    in_flight: usize,
    started: VecDeque<UnixMs>,
}

/// One second and one millisecond: time stamps are rounded down.
const WINDOW_MS: u64 = 1001;

impl Budget {
    /// A budget of which nothing is used.
    #[must_use]
    pub fn new(max_in_flight: usize, max_per_second: usize) -> Self {
        Self {
            max_in_flight,
            max_per_second,
            in_flight: 0,
            started: VecDeque::new(),
        }
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
        let free = self.in_flight < self.max_in_flight && self.started.len() < self.max_per_second;
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
        if self.started.len() < self.max_per_second {
            return Some(now);
        }
        self.started.front().map(|first| first.plus(WINDOW_MS))
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
        budget.end();
        assert!(budget.start(UnixMs(0)));
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
