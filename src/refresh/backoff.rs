//! How long to pause after a failure. Pure rules of (facts, jitter).

use super::schedule::Jitter;
use crate::upstream::{Class, FetchError, Retry};

/// The next pause in milliseconds: decorrelated jitter, between the shortest pause and three times
/// the pause before, held under a cap that follows the time left. A source's `Retry-After` is a
/// floor under it. Answers that will stand until somebody changes an assignment start slower. A
/// source that says that it is being updated is asked in steps of ten seconds, as the SDKs do.
///
/// `left_ms` is what the current token has left, 0 without one: a token with hours left is in no
/// hurry, and a thousand such keys must not keep the source busy through an outage.
#[must_use]
pub fn pause_ms(
    error: &FetchError,
    before_ms: u64,
    life_ms: u64,
    left_ms: u64,
    jitter: Jitter,
) -> u64 {
    let asked = asked_ms(error);
    if error.class == Class::Updating {
        let step = (life_ms / 100).clamp(200, UPDATING_STEP_MS);
        return between(step, step + step / 4, jitter).max(asked);
    }
    let floor = match error.class.retry() {
        Retry::Soon => (life_ms / 1000).clamp(20, 1000),
        Retry::Slowly => (life_ms / 100).clamp(200, 10_000),
    };
    let cap = (left_ms / 20).clamp(floor * 5, MAX_PAUSE_MS);
    let high = before_ms.saturating_mul(3).max(floor * 3).min(cap);
    between(floor, high, jitter).max(asked)
}

/// What the source asks to wait, in milliseconds. One that is being updated is back within 70 s by
/// its documentation, whatever it asks.
pub(super) fn asked_ms(error: &FetchError) -> u64 {
    let asked = error.retry_after.unwrap_or_default().as_millis();
    let most = match error.class {
        Class::Updating => MAX_UPDATING_MS,
        _ => u64::MAX,
    };
    u64::try_from(asked).unwrap_or(u64::MAX).min(most)
}

/// How long an answer without a token stands for callers of a key that has none: at most 5 s, since
/// an identity that was just assigned is told as a refusal until it has spread.
#[must_use]
pub fn negative_ms(error: &FetchError, jitter: Jitter) -> u64 {
    let stands = match error.class.retry() {
        Retry::Soon => between(1000, 2000, jitter),
        Retry::Slowly => between(4000, MAX_NEGATIVE_MS, jitter),
    };
    stands.max(asked_ms(error)).min(MAX_NEGATIVE_MS)
}

/// The longest that any answer without a token stands.
pub const MAX_NEGATIVE_MS: u64 = 5000;

/// The longest pause of a key that its source does not ask for.
const MAX_PAUSE_MS: u64 = 300_000;

/// Between two calls while the source is being updated.
pub(super) const UPDATING_STEP_MS: u64 = 10_000;
/// The longest that an update takes.
const MAX_UPDATING_MS: u64 = 70_000;

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pauses are minutes at most, exact in an f64 and never negative"
)]
pub(super) fn between(low: u64, high: u64, jitter: Jitter) -> u64 {
    low + ((high - low) as f64 * jitter) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn pauses_grow_from_a_second_to_minutes_while_hours_are_left() {
        let error = FetchError::of(Class::ServerError);
        assert_eq!(pause_ms(&error, 0, DAY_MS, DAY_MS / 2, 0.0), 1000);
        assert_eq!(pause_ms(&error, 0, DAY_MS, DAY_MS / 2, 1.0), 3000);
        assert_eq!(pause_ms(&error, 100_000, DAY_MS, DAY_MS / 2, 1.0), 300_000);
        assert_eq!(pause_ms(&error, 300_000, DAY_MS, DAY_MS / 2, 1.0), 300_000);
    }

    #[test]
    fn pauses_shrink_towards_the_end_of_life() {
        let error = FetchError::of(Class::Timeout);
        assert_eq!(pause_ms(&error, 300_000, DAY_MS, 600_000, 1.0), 30_000);
        assert_eq!(pause_ms(&error, 300_000, DAY_MS, 0, 1.0), 5000);
    }

    #[test]
    fn refusals_are_retried_slower_than_troubles() {
        let denied = pause_ms(&FetchError::of(Class::Denied), 0, DAY_MS, DAY_MS, 0.0);
        assert_eq!(denied, 10_000);
        let short_lived = pause_ms(&FetchError::of(Class::Denied), 0, 60_000, 60_000, 0.0);
        assert_eq!(short_lived, 600);
    }

    #[test]
    fn retry_after_is_a_floor() {
        let error = FetchError {
            retry_after: Some(Duration::from_secs(90)),
            ..FetchError::of(Class::Throttled)
        };
        assert_eq!(pause_ms(&error, 0, DAY_MS, 0, 0.0), 90_000);
    }

    #[test]
    fn an_update_is_waited_for_in_steps_of_ten_seconds_and_never_more_than_seventy() {
        let mut error = FetchError::of(Class::Updating);
        for before in [0, 10_000, 300_000] {
            let pause = pause_ms(&error, before, DAY_MS, 60_000, 0.999);
            assert!((10_000..12_500).contains(&pause), "{pause}");
        }
        assert_eq!(pause_ms(&error, 0, 20_000, 10_000, 0.0), 200);
        assert_eq!(pause_ms(&error, 0, 20_000, 10_000, 1.0), 250);
        error.retry_after = Some(Duration::from_mins(2));
        assert_eq!(pause_ms(&error, 0, DAY_MS, 0, 0.0), 70_000);
        assert_eq!(asked_ms(&error), 70_000);
    }

    #[test]
    fn a_wish_to_wait_is_kept_towards_callers_for_five_seconds() {
        let mut error = FetchError::of(Class::ServerError);
        for (asked_s, stands) in [(1, 1000), (3, 3000), (90, 5000)] {
            error.retry_after = Some(Duration::from_secs(asked_s));
            assert_eq!(negative_ms(&error, 0.0), stands);
        }
    }

    #[test]
    fn a_two_second_token_is_retried_within_its_life() {
        assert!(pause_ms(&FetchError::of(Class::ServerError), 0, 2000, 1000, 1.0) <= 100);
    }

    #[test]
    fn no_answer_without_a_token_stands_for_more_than_five_seconds() {
        for class in Class::ALL {
            for jitter in [0.0, 0.5, 0.999_999] {
                let stands = negative_ms(&FetchError::of(class), jitter);
                assert!((1000..=5000).contains(&stands), "{class:?} {stands}");
            }
        }
    }

    proptest! {
        #[test]
        fn pauses_are_never_zero_and_never_over_five_minutes(
            class in prop::sample::select(&Class::ALL[..]), before: u64, life: u64, left: u64,
            jitter in 0.0f64..1.0,
        ) {
            let pause = pause_ms(&FetchError::of(class), before, life, left, jitter);
            prop_assert!((20..=300_000).contains(&pause));
        }
    }
}
