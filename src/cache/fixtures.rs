//! Keys, slots and entries that the tests and models of this room share.

use std::sync::Arc;

use super::{EchoKey, Entry, Slot};
use crate::clock::UnixMs;
use crate::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};

/// The system identity's key for a resource.
pub fn key(resource: &str) -> TokenKey {
    TokenKey {
        upstream: "imds".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(resource.as_bytes()).expect("a resource"),
        capabilities: vec![],
        extras: vec![],
        client: None,
    }
}

/// A token received at the epoch.
pub fn token(secret: &str, expires_on_s: u64) -> Arc<AccessToken> {
    let lifetime = Lifetime {
        received_at: UnixMs(0),
        expires_on_s,
        not_before_s: None,
        refresh_in_s: None,
    };
    let secret = Secret::new(secret.as_bytes().to_vec());
    Arc::new(AccessToken {
        secret,
        lifetime,
        client_id: None,
    })
}

/// An empty slot.
pub fn slot() -> Arc<Slot> {
    Arc::new(Slot::new(1, Arc::new(key("r")), 100))
}

/// An entry for a slot.
pub fn entry(slot: &Slot, generation: u64) -> Arc<Entry> {
    let echo = EchoKey::random().echo(slot.key());
    Arc::new(Entry::new(
        echo,
        generation,
        slot.key(),
        token("t", 100),
        UnixMs(100_000),
        [],
    ))
}
