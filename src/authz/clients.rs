//! The clients that prove themselves by a secret.

use std::sync::Arc;

use ring::digest::{Digest, SHA256, digest};
use subtle::{Choice, ConstantTimeEq as _};

use super::Client;

/// Every `[[client]]`, with what it takes to recognise it.
pub struct Clients {
    clients: Arc<[Client]>,
    /// Of their secrets, in the same order.
    digests: Vec<Digest>,
}

/// A client that has proven itself on this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven(usize);

impl Proven {
    /// A number for what is remembered of its requests; never 0.
    #[must_use]
    pub fn scope(self) -> u32 {
        u32::try_from(self.0 + 1).expect("a configuration has few clients")
    }
}

impl Clients {
    /// Takes the configured clients over.
    #[must_use]
    pub fn new(clients: Arc<[Client]>) -> Self {
        let known = |client: &Client| digest(&SHA256, client.secret.expose());
        Self {
            digests: clients.iter().map(known).collect(),
            clients,
        }
    }

    /// The client whose secret was presented. Digests of one length are compared, all of them and
    /// in constant time, so that time says nothing about any secret.
    #[must_use]
    pub fn prove(&self, presented: &[u8]) -> Option<Proven> {
        let presented = digest(&SHA256, presented);
        let mut found = None;
        for (at, known) in self.digests.iter().enumerate() {
            let same: Choice = known.as_ref().ct_eq(presented.as_ref());
            if bool::from(same) {
                found = Some(Proven(at));
            }
        }
        found
    }

    /// The client.
    #[must_use]
    pub fn client(&self, proven: Proven) -> &Client {
        &self.clients[proven.0]
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(Arc::new([]))
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.clients.iter().map(|client| &client.name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Identity, Secret};

    fn client(name: &str, secret: &str) -> Client {
        Client {
            name: name.into(),
            secret: Secret::new(secret.into()),
            identities: vec![Identity::System],
            resources: vec![],
            default_identity: None,
        }
    }

    #[test]
    fn a_client_is_known_by_its_whole_secret_only() {
        let clients = Clients::new([client("a", "secret of a"), client("b", "secret of b")].into());
        let name = |presented: &str| {
            clients
                .prove(presented.as_bytes())
                .map(|proven| &*clients.client(proven).name)
        };
        assert_eq!(name("secret of a"), Some("a"));
        assert_eq!(name("secret of b"), Some("b"));
        for wrong in [
            "",
            "secret of ",
            "secret of a ",
            "Secret of a",
            "secret of c",
        ] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }
}
