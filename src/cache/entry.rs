//! One immutable value of a slot.

use std::sync::Arc;

use super::{Echo, freshness};
use crate::clock::UnixMs;
use crate::protocol::{Dialect, Rendered, imds};
use crate::token::{AccessToken, TokenKey};

/// A token with everything that a hit needs, made once per refresh.
pub struct Entry {
    /// For which key it is.
    pub echo: Echo,
    /// Its number; higher than that of every entry before it, in this slot or any other.
    pub generation: u64,
    /// The token, shared with the store.
    pub token: Arc<AccessToken>,
    /// The moment from which it is not served.
    pub serve_until: UnixMs,
    imds: Rendered,
}

impl Entry {
    /// Renders the answers for `key`.
    #[must_use]
    pub fn new(echo: Echo, generation: u64, key: &TokenKey, token: Arc<AccessToken>) -> Self {
        Self {
            echo,
            generation,
            serve_until: freshness::serve_until(&token.lifetime),
            imds: imds::render(&key.resource, &token),
            token,
        }
    }

    /// The finished body in a dialect.
    #[must_use]
    pub fn rendered(&self, dialect: Dialect) -> &Rendered {
        match dialect {
            _ => &self.imds,
        }
    }
}
