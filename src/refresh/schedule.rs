//! When a token is renewed. Pure rules of (now, facts, jitter).

use crate::clock::UnixMs;
use crate::token::Lifetime;

/// A random number in `0.0..1.0`, drawn by the caller of a rule.
pub type Jitter = f64;

/// Renewal falls in the last twentieth before half of the life, so that a thousand keys fetched
/// together are not renewed together.
const JITTER_SHARE: f64 = 0.05;

/// Clients take a token with five minutes left for expired and ask on each call (`protocols.md` §6):
/// what has less than three times that is to be renewed before.
const EXPIRED_TO_CLIENTS_MS: u64 = 5 * 60 * 1000;
const URGENT_MS: u64 = 3 * EXPIRED_TO_CLIENTS_MS;

/// The shortest pause between two calls for one key: a hundredth of the life, at least 20 ms and at
/// most 30 s. It scales with the life so that a token of two seconds works.
#[must_use]
pub fn min_pause_ms(life_ms: u64) -> u64 {
    (life_ms / 100).clamp(20, 30_000)
}

/// When to renew a token that just arrived: at half of its life, or when the issuer advised if that
/// is sooner than the end, a little earlier by jitter. Sooner still if less than `floor_ms` would
/// be left by then, for a token that has so much to give. Never sooner than the shortest pause.
#[must_use]
pub fn due_at(lifetime: &Lifetime, floor_ms: u64, jitter: Jitter) -> UnixMs {
    let life = lifetime.life_ms();
    let advised = lifetime
        .refresh_in_s
        .map(|s| s.saturating_mul(1000))
        .filter(|ms| *ms < life);
    let planned = advised.unwrap_or(life / 2);
    let latest = life.checked_sub(floor_ms).filter(|latest| *latest > 0);
    let planned = planned.min(latest.unwrap_or(planned));
    let wait = scale(planned, 1.0 - JITTER_SHARE * jitter);
    lifetime.received_at.plus(wait.max(min_pause_ms(life)))
}

/// When to ask again after the upstream gave the same token once more: when half of what is left
/// until clients take it for expired has passed, and from then on after each shortest pause. Where
/// that would leave less than `floor_ms`, a twentieth of the floor from now: the sooner a new one is
/// given, the sooner the floor holds again.
#[must_use]
pub fn due_after_same(now: UnixMs, lifetime: &Lifetime, floor_ms: u64, jitter: Jitter) -> UnixMs {
    let left = lifetime.expires_at().since(now);
    // Of lives of less than forty minutes an eighth.
    let useless = EXPIRED_TO_CLIENTS_MS.min(lifetime.life_ms() / 8);
    let half = left.saturating_sub(useless) / 2;
    let wait = if left - half < floor_ms {
        half.min(floor_ms / 20)
    } else {
        half
    };
    let wait = scale(wait, 1.0 - JITTER_SHARE * jitter);
    now.plus(wait.max(min_pause_ms(lifetime.life_ms())))
}

/// Whether nobody asked for a key during a whole life of its token, so that it may drop out.
#[must_use]
pub fn is_idle(now: UnixMs, last_used: UnixMs, lifetime: &Lifetime) -> bool {
    now.since(last_used) >= lifetime.life_ms()
}

/// From when so little is left that this renewal goes before all others: a tenth of the life, or a
/// quarter of an hour, of short lives a quarter.
#[must_use]
pub fn urgent_from(lifetime: &Lifetime) -> UnixMs {
    let life = lifetime.life_ms();
    let left = (life / 10).max(URGENT_MS.min(life / 4));
    lifetime.expires_at().minus(left).plus(1)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "milliseconds of a token's life are exact in an f64, and the factor is in 0.95..=1"
)]
fn scale(ms: u64, factor: f64) -> u64 {
    (ms as f64 * factor) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lifetime(received_ms: u64, expires_on_s: u64, refresh_in_s: Option<u64>) -> Lifetime {
        Lifetime {
            received_at: UnixMs(received_ms),
            expires_on_s,
            not_before_s: None,
            refresh_in_s,
        }
    }

    #[test]
    fn a_day_long_token_is_renewed_at_half_of_its_life() {
        let day = lifetime(0, 86_400, None);
        assert_eq!(due_at(&day, 0, 0.0), UnixMs(43_200_000));
        assert_eq!(due_at(&day, 0, 1.0), UnixMs(41_040_000));
    }

    #[test]
    fn life_counts_from_receipt_and_not_from_issue() {
        let old = lifetime(80_000_000, 86_400, None);
        assert_eq!(due_at(&old, 0, 0.0), UnixMs(83_200_000));
    }

    #[test]
    fn the_issuers_advice_is_taken_unless_it_lies_past_the_end() {
        assert_eq!(due_at(&lifetime(0, 100, Some(80)), 0, 0.0), UnixMs(80_000));
        assert_eq!(due_at(&lifetime(0, 100, Some(100)), 0, 0.0), UnixMs(50_000));
        assert_eq!(
            due_at(&lifetime(0, 100, Some(u64::MAX)), 0, 0.0),
            UnixMs(50_000)
        );
        assert_eq!(due_at(&lifetime(0, 100, Some(0)), 0, 0.0), UnixMs(1000));
    }

    #[test]
    fn a_two_second_token_is_renewed_in_time() {
        assert_eq!(due_at(&lifetime(0, 2, None), 0, 0.0), UnixMs(1000));
        assert_eq!(min_pause_ms(2000), 20);
    }

    #[test]
    fn the_same_token_again_waits_for_half_of_what_is_left() {
        let day = lifetime(0, 86_400, None);
        let noon = UnixMs(43_200_000);
        // Less the five minutes in which clients take it for expired.
        assert_eq!(due_after_same(noon, &day, 0, 0.0), UnixMs(64_650_000));
        assert_eq!(
            due_after_same(noon, &day, 0, 1.0),
            UnixMs(63_577_500),
            "sooner by jitter, never later"
        );
        let last_minutes = day.expires_at().minus(300_000);
        assert_eq!(
            due_after_same(last_minutes, &day, 0, 0.0),
            last_minutes.plus(30_000)
        );
        let last_minute = UnixMs(86_399_000);
        assert_eq!(
            due_after_same(last_minute, &day, 0, 0.0),
            last_minute.plus(30_000)
        );
    }

    #[test]
    fn a_token_that_is_repeated_until_late_is_asked_for_again_before_clients_take_it_for_expired() {
        let day = lifetime(0, 86_400, None);
        let minute = 60_000;
        // However late a new one is to be had, from then on at most half of what is left until the
        // last five minutes goes by, and those begin with half a minute between two calls.
        for late_ms in [6 * minute, 9 * minute, 588_000, 12 * minute] {
            let new_from = day.expires_at().minus(late_ms);
            let mut at = UnixMs(43_200_000);
            let mut calls = 0;
            while at < new_from {
                at = due_after_same(at, &day, 0, 0.0);
                calls += 1;
                assert!(calls <= 16, "{late_ms}");
            }
            let left = day.expires_at().since(at);
            assert!(left >= 5 * minute, "{late_ms}: {left}");
        }
    }

    #[test]
    fn a_key_is_idle_after_a_whole_life_without_a_caller() {
        let token = lifetime(50_000, 150, None);
        assert!(!is_idle(UnixMs(149_999), UnixMs(50_000), &token));
        assert!(is_idle(UnixMs(150_000), UnixMs(50_000), &token));
    }

    #[test]
    fn the_last_tenth_or_quarter_of_an_hour_is_urgent() {
        for (life_s, urgent_s) in [(86_400, 8640), (7200, 900), (3600, 900), (1200, 300)] {
            let token = lifetime(0, life_s, None);
            let edge = token.expires_at().minus(urgent_s * 1000);
            assert_eq!(urgent_from(&token), edge.plus(1), "{life_s}");
        }
    }

    #[test]
    fn a_floor_is_kept_where_the_token_has_so_much_to_give() {
        let (hour, day) = (3_600_000, lifetime(0, 86_400, None));
        // Half of the life leaves more than six hours anyway.
        assert_eq!(due_at(&day, 6 * hour, 0.0), UnixMs(12 * hour));
        assert_eq!(due_at(&day, 20 * hour, 0.0), UnixMs(4 * hour));
        assert_eq!(
            due_at(&day, 24 * hour, 0.0),
            UnixMs(12 * hour),
            "it never has"
        );
        // The same token again: half of what is left, unless that breaks the floor.
        let noon = UnixMs(12 * hour);
        let half = UnixMs(18 * hour - 150_000);
        assert_eq!(due_after_same(noon, &day, 6 * hour, 0.0), half);
        let just_kept = due_after_same(noon, &day, 6 * hour + 150_000, 0.0);
        assert_eq!(just_kept, half);
        let soon = due_after_same(noon, &day, 8 * hour, 0.0);
        assert_eq!(soon, noon.plus(8 * hour / 20));
    }

    proptest! {
        #[test]
        fn renewal_lies_ahead_and_before_half_of_life_is_over(
            received in 0u64..4_000_000_000_000, life_s in 2u64..700_000, jitter in 0.0f64..1.0,
        ) {
            let token = lifetime(received, received / 1000 + 1 + life_s, None);
            let due = due_at(&token, 0, jitter);
            prop_assert!(due > token.received_at);
            prop_assert!(due <= token.received_at.plus(token.life_ms() / 2));
            prop_assert!(due >= token.received_at.plus(token.life_ms() * 47 / 100));
        }

        #[test]
        fn no_rule_panics_or_stands_still(
            now: u64, received: u64, expires: u64, floor: u64, advice in prop::option::of(any::<u64>()),
            jitter in 0.0f64..1.0,
        ) {
            let token = lifetime(received, expires, advice);
            let _ = (due_at(&token, floor, jitter), is_idle(UnixMs(now), UnixMs(received), &token));
            let again = due_after_same(UnixMs(now), &token, floor, jitter);
            prop_assert!(again > UnixMs(now) || now > u64::MAX - 20);
        }
    }
}
