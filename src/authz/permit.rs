//! The proof that policy allowed a caller a key.

use crate::token::TokenKey;

/// Holding one proves that [`Policy::permit`](super::Policy::permit) said yes for this key.
pub struct Permit(TokenKey);

impl Permit {
    pub(super) fn new(key: TokenKey) -> Self {
        Self(key)
    }

    /// What was allowed.
    #[must_use]
    pub fn key(&self) -> &TokenKey {
        &self.0
    }
}
