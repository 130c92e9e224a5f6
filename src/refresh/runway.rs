//! How long keys would be served if the upstream died now, and which keys make room for others.
//! Pure rules of (now, facts).

use super::schedule;
use crate::clock::UnixMs;
use crate::token::Lifetime;

/// What is known of a key's token.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Until when it is served.
    pub serve_until: UnixMs,
    /// Its life.
    pub lifetime: Lifetime,
    /// When somebody asked for it last.
    pub last_used: UnixMs,
}

/// The runways of all keys that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runways {
    /// The shortest, or [`LONGEST_MS`] if that is shorter, or nobody uses a key.
    pub shortest_ms: u64,
    /// Keys with less than the floor.
    pub below: usize,
}

/// A week, the highest floor that there is: no runway counts as longer.
pub const LONGEST_MS: u64 = 7 * 86_400_000;

/// So long after its last use a key may be among the [`spare`] ones: workers report hits once a
/// second.
const SETTLED_MS: u64 = 2000;

/// Looks at every key with a token. One that nobody asked for during a whole life of its token is
/// left to end, and does not count.
#[must_use]
pub fn runways(now: UnixMs, floor_ms: u64, keys: impl IntoIterator<Item = Held>) -> Runways {
    let mut all = Runways {
        shortest_ms: LONGEST_MS,
        below: 0,
    };
    for held in keys {
        if schedule::is_idle(now, held.last_used, &held.lifetime) {
            continue;
        }
        let left_ms = held.serve_until.since(now);
        all.shortest_ms = all.shortest_ms.min(left_ms);
        all.below += usize::from(left_ms < floor_ms);
    }
    all
}

/// How many keys are to go when there are so many of at most `max`: with less than a sixteenth of
/// the places free, as many as make it an eighth.
#[must_use]
pub fn excess(keys: usize, max: usize) -> usize {
    if keys <= max - max / 16 {
        0
    } else {
        keys - (max - max / 8)
    }
}

/// Whether a key with a token may make room for others: nobody was served from it since it was
/// fetched but who asked first.
#[must_use]
pub fn spare(now: UnixMs, hits: u64, last_used: UnixMs) -> bool {
    hits == 0 && now.since(last_used) >= SETTLED_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn held(ends_h: u64, used_h: u64) -> Held {
        let lifetime = Lifetime {
            received_at: UnixMs(0),
            expires_on_s: ends_h * 3600,
            not_before_s: None,
            refresh_in_s: None,
        };
        Held {
            serve_until: lifetime.expires_at(),
            lifetime,
            last_used: UnixMs(used_h * HOUR_MS),
        }
    }

    #[test]
    fn the_shortest_runway_of_keys_in_use_counts() {
        let now = UnixMs(10 * HOUR_MS);
        let all = [held(24, 9), held(12, 9), held(300, 9), held(9, 0)];
        let none = runways(now, 6 * HOUR_MS, []);
        assert_eq!((none.shortest_ms, none.below), (LONGEST_MS, 0));
        let some = runways(now, 6 * HOUR_MS, all);
        assert_eq!((some.shortest_ms, some.below), (2 * HOUR_MS, 1));
        assert_eq!(runways(now, 0, all).below, 0);
        // In use and over: there is nothing left.
        let over = runways(now, HOUR_MS, [held(9, 9)]);
        assert_eq!((over.shortest_ms, over.below), (0, 1));
    }

    #[test]
    fn a_key_with_just_the_floor_left_is_not_below_it() {
        let now = UnixMs(10 * HOUR_MS);
        assert_eq!(runways(now, 2 * HOUR_MS, [held(12, 9)]).below, 0);
    }

    #[test]
    fn no_runway_counts_as_longer_than_a_week() {
        let month = runways(UnixMs(0), 0, [held(30 * 24, 0)]);
        assert_eq!(month.shortest_ms, 7 * 24 * HOUR_MS);
    }

    #[test]
    fn room_is_made_before_it_is_needed() {
        assert_eq!(excess(9375, 10_000), 0);
        assert_eq!(excess(9376, 10_000), 626);
        assert_eq!(excess(10_000, 10_000), 1250);
        assert_eq!(excess(100, 100), 12);
    }

    #[test]
    fn only_a_key_without_a_hit_makes_room_and_not_before_its_hits_are_reported() {
        let used = UnixMs(5000);
        assert!(!spare(used.plus(1999), 0, used));
        assert!(spare(used.plus(2000), 0, used));
        assert!(!spare(used.plus(2000), 1, used));
    }
}
