//! The proof that policy allowed a caller a key.

use std::sync::Arc;

use crate::token::TokenKey;

/// Holding one proves that [`Policy::permit`](super::Policy::permit) said yes for this key.
pub struct Permit(Arc<TokenKey>);

impl Permit {
    pub(super) fn new(key: TokenKey) -> Self {
        Self(Arc::new(key))
    }

    /// What was allowed.
    #[must_use]
    pub fn key(&self) -> &TokenKey {
        &self.0
    }

    /// The same, to be held by others.
    #[must_use]
    pub fn shared_key(&self) -> &Arc<TokenKey> {
        &self.0
    }

    /// The same permit, for the same key, of which there is then one copy less.
    #[must_use]
    pub fn sharing(self, key: &Arc<TokenKey>) -> Self {
        if *self.0 == **key {
            Self(Arc::clone(key))
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Identity, Resource};

    fn key(resource: &str) -> TokenKey {
        TokenKey {
            upstream: "imds".into(),
            identity: Identity::System,
            resource: Resource::from_decoded(resource.as_bytes()).unwrap(),
            capabilities: vec![],
            extras: vec![],
            client: None,
        }
    }

    #[test]
    fn a_permit_shares_its_own_key_and_no_other() {
        let (own, other) = (Arc::new(key("r")), Arc::new(key("s")));
        let permit = Permit::new(key("r")).sharing(&other);
        assert_eq!(*permit.key(), *own);
        let permit = permit.sharing(&own);
        assert!(Arc::ptr_eq(&permit.0, &own));
    }
}
