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
