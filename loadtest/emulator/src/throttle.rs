//! The limits on token requests: how many in a second, how many at once.
//!
//! A refused request does not use up a place in the second, so a client that keeps hammering is
//! served at the full rate, no less.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::settings::Limits;

#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When the requests of the last second were admitted.
    admitted: VecDeque<Instant>,
    at_once: u32,
}

impl Throttle {
    const WINDOW: Duration = Duration::from_secs(1);

    /// Admits a request if both limits allow it. Each admitted one must be `finished`.
    pub(crate) fn admit(&mut self, now: Instant, limits: Limits) -> bool {
        while self
            .admitted
            .front()
            .is_some_and(|then| now.duration_since(*then) >= Self::WINDOW)
        {
            self.admitted.pop_front();
        }
        let in_window = u32::try_from(self.admitted.len()).unwrap_or(u32::MAX);
        let too_fast = limits.requests_per_s != 0 && in_window >= limits.requests_per_s;
        let too_many = limits.at_once != 0 && self.at_once >= limits.at_once;
        if too_fast || too_many {
            return false;
        }
        self.admitted.push_back(now);
        self.at_once += 1;
        true
    }

    /// An admitted request has been answered, or its caller has gone.
    pub(crate) fn finished(&mut self) {
        self.at_once = self.at_once.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::steady;

    #[test]
    fn no_window_of_one_second_admits_more_than_the_rate() {
        let (mut throttle, start) = (Throttle::default(), steady());
        let limits = Limits {
            requests_per_s: 2,
            at_once: 0,
        };
        let admitted: Vec<bool> = [0, 600, 900, 1000, 1100, 1600]
            .map(|at_ms| throttle.admit(start + Duration::from_millis(at_ms), limits))
            .to_vec();
        assert_eq!(admitted, [true, true, false, true, false, true]);
    }

    #[test]
    fn a_place_at_once_is_free_again_when_a_request_finishes() {
        let (mut throttle, now) = (Throttle::default(), steady());
        let limits = Limits {
            requests_per_s: 0,
            at_once: 1,
        };
        assert!(throttle.admit(now, limits));
        assert!(!throttle.admit(now, limits));
        throttle.finished();
        assert!(throttle.admit(now, limits));
    }

    #[test]
    fn zero_means_no_limit() {
        let (mut throttle, now) = (Throttle::default(), steady());
        assert!((0..1000).all(|_| throttle.admit(now, Limits::NONE)));
    }
}
