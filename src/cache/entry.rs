//! One immutable value of a slot.

use std::sync::{Arc, OnceLock};

use ring::digest;

use super::Echo;
use crate::clock::UnixMs;
use crate::protocol::{Body, Digits, Rendered, Shape, render};
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
    /// Boxed, since most keys are asked for in one shape.
    bodies: [OnceLock<Box<Rendered>>; Shape::COUNT],
}

impl Entry {
    /// Makes an entry for `key` and renders the shapes that are asked for, so that no hit has to.
    #[must_use]
    pub fn new(
        echo: Echo,
        generation: u64,
        key: &TokenKey,
        token: Arc<AccessToken>,
        serve_until: UnixMs,
        shapes: impl IntoIterator<Item = Shape>,
    ) -> Self {
        let entry = Self {
            echo,
            generation,
            serve_until,
            token,
            bodies: Default::default(),
        };
        for shape in shapes {
            let _ = entry.rendered(shape, key);
        }
        entry
    }

    /// The finished body in a shape, with what is left of the token's life. `key` is the entry's
    /// own.
    #[must_use]
    pub fn body<'a>(&'a self, shape: Shape, key: &TokenKey, left_s: &'a Digits) -> Body<'a> {
        self.rendered(shape, key).with(&self.token, left_s)
    }

    /// Rendered at its first use.
    fn rendered(&self, shape: Shape, key: &TokenKey) -> &Rendered {
        self.bodies[shape as usize].get_or_init(|| Box::new(render(shape, key, &self.token)))
    }

    /// Whether `hash` is the SHA-256 of this token, as `token_sha256_to_refresh` has it.
    #[must_use]
    pub fn has_hash(&self, hash: &[u8; 32]) -> bool {
        self.hash() == *hash
    }

    /// The SHA-256 of this token.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let hash = digest::digest(&digest::SHA256, self.token.secret.expose());
        hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}
