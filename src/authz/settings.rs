//! What the policy needs to know.

use std::fmt;

use crate::token::{Identity, Secret};

/// One `[[client]]`: a caller that proves itself by a secret of its own.
pub struct Client {
    /// Its name in logs and status.
    pub name: Box<str>,
    /// What it sends in `X-IDENTITY-HEADER` or `Secret`.
    pub secret: Secret,
    /// The identities it may have tokens of.
    pub identities: Vec<Identity>,
    /// The resources it may have tokens for; empty means any.
    pub resources: Vec<Box<str>>,
    /// Whose token a request without a selector gets; one of `identities`.
    pub default_identity: Option<Identity>,
}

/// By name only, so that settings can be printed.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.name).finish()
    }
}
