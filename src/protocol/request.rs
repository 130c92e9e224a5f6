//! What a caller asked for, whatever the dialect.

use crate::token::{Identity, Resource, TokenKey};

/// A checked request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Whose token.
    pub identity: Identity,
    /// For which audience.
    pub resource: Resource,
    /// `xms_cc`, sorted and without doubles.
    pub capabilities: Vec<Box<str>>,
    /// Parameters that nobody here knows, sorted.
    pub extras: Vec<(Box<str>, Box<str>)>,
    /// Whether the caller has no use for the token that is held. No part of the key.
    pub force: Option<Force>,
}

/// A wish for another token than the one that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// `bypass_cache=true`.
    Always,
    /// `token_sha256_to_refresh`: the token with this SHA-256 was rejected somewhere.
    IfHash([u8; 32]),
}

impl TokenRequest {
    /// The key under which this request's token is kept, when asked of `upstream`.
    #[must_use]
    pub fn into_key(self, upstream: &str) -> TokenKey {
        TokenKey {
            upstream: upstream.into(),
            identity: self.identity,
            resource: self.resource,
            capabilities: self.capabilities,
            extras: self.extras,
            client: None,
        }
    }
}
