//! The room as its users see it: what survives a restart, and what damage costs.

use crate::clock::UnixMs;
use crate::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};

pub(super) fn key(resource: &str) -> TokenKey {
    TokenKey {
        upstream: "imds http://169.254.169.254".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(resource.as_bytes()).unwrap(),
        capabilities: Vec::new(),
        extras: Vec::new(),
        client: None,
    }
}

pub(super) fn token(secret: &str) -> AccessToken {
    AccessToken {
        secret: Secret::new(secret.into()),
        lifetime: Lifetime {
            received_at: UnixMs(1_000_000),
            expires_on_s: 5_000,
            not_before_s: None,
            refresh_in_s: None,
        },
        client_id: None,
    }
}
