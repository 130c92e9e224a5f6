//! The rules by which the worker decides, passed in whole: a simulation that is given a broken one
//! has to notice.

use super::breaker::Trips;
use super::schedule::Jitter;
use super::{backoff, breaker, schedule};
use crate::clock::UnixMs;
use crate::token::Lifetime;
use crate::upstream::FetchError;

/// Pure functions of (now, facts, jitter); the defaults are those of production.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// [`schedule::due_at`].
    pub due_at: fn(&Lifetime, u64, Jitter) -> UnixMs,
    /// [`schedule::due_after_same`].
    pub due_after_same: fn(UnixMs, &Lifetime, u64, Jitter) -> UnixMs,
    /// [`schedule::urgent_from`].
    pub urgent_from: fn(&Lifetime) -> UnixMs,
    /// [`backoff::pause_ms`].
    pub pause_ms: fn(&FetchError, u64, u64, u64, Jitter) -> u64,
    /// [`backoff::negative_ms`].
    pub negative_ms: fn(&FetchError, Jitter) -> u64,
    /// [`breaker::trips`].
    pub trips: Trips,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            due_at: schedule::due_at,
            due_after_same: schedule::due_after_same,
            urgent_from: schedule::urgent_from,
            pause_ms: backoff::pause_ms,
            negative_ms: backoff::negative_ms,
            trips: breaker::trips,
        }
    }
}
