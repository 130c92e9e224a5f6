//! How long a token may be served. Pure rules of (now, lifetime).

use crate::clock::UnixMs;
use crate::token::Lifetime;

/// What a token loses at its end: the smaller of 15 s and 2 % of the life at receipt. It covers the
/// way to the resource and a clock that differs a little.
#[must_use]
pub fn margin_ms(life_ms: u64) -> u64 {
    (life_ms / 50).min(15_000)
}

/// The moment from which the token is not served.
#[must_use]
pub fn serve_until(lifetime: &Lifetime) -> UnixMs {
    lifetime.expires_at().minus(margin_ms(lifetime.life_ms()))
}

/// Whether a token that may be served until `until` is over at `now`.
#[must_use]
pub fn is_expired(now: UnixMs, until: UnixMs) -> bool {
    now >= until
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetime(received_s: u64, expires_on_s: u64) -> Lifetime {
        Lifetime {
            received_at: UnixMs(received_s * 1000),
            expires_on_s,
            not_before_s: None,
            refresh_in_s: None,
        }
    }

    #[test]
    fn a_day_long_token_loses_its_last_fifteen_seconds() {
        assert_eq!(
            serve_until(&lifetime(1000, 87_400)),
            UnixMs((87_400 - 15) * 1000)
        );
    }

    #[test]
    fn a_short_token_loses_two_percent() {
        assert_eq!(serve_until(&lifetime(1000, 1002)), UnixMs(1_001_960));
        assert_eq!(margin_ms(100_000), 2000);
    }

    #[test]
    fn the_end_itself_is_expired() {
        let until = serve_until(&lifetime(0, 10));
        assert!(!is_expired(until.minus(1), until));
        assert!(is_expired(until, until));
    }

    #[test]
    fn a_token_received_after_its_end_is_never_served() {
        let over = lifetime(100, 50);
        assert!(is_expired(UnixMs(100_000), serve_until(&over)));
    }
}
