//! When a token starts, ends, and when we first held it.

use crate::clock::UnixMs;

/// The times of one token, in absolute time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When the upstream's answer arrived here.
    pub received_at: UnixMs,
    /// The token's own `exp`, Unix seconds.
    pub expires_on_s: u64,
    /// `not_before` as issued, Unix seconds, where the upstream said it.
    pub not_before_s: Option<u64>,
    /// The issuer's advice to renew this many seconds after receipt (`refresh_in`).
    pub refresh_in_s: Option<u64>,
}

impl Lifetime {
    /// The end of the token as a point in time.
    #[must_use]
    pub fn expires_at(&self) -> UnixMs {
        UnixMs(self.expires_on_s.saturating_mul(1000))
    }

    /// The time that was left when the answer arrived, in milliseconds. The upstream hands out
    /// tokens that are hours old, so the issuer's own life says nothing useful.
    #[must_use]
    pub fn life_ms(&self) -> u64 {
        self.expires_at().since(self.received_at)
    }
}
