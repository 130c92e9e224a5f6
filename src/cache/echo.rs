//! The key echo: proof, at the last moment, that an entry is for the key asked for.

use ring::hmac;
use ring::rand::SystemRandom;

use crate::token::TokenKey;

/// 128 bits of an HMAC over a key's canonical bytes, under a random key of this process.
///
/// It is computed once when a request is first parsed and once when an entry is made, from the key
/// that the upstream was asked about. If a fault anywhere between handed back another key's entry,
/// the two differ and the bytes stay here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo([u8; 16]);

/// The process's random key for echoes.
pub struct EchoKey(hmac::Key);

impl EchoKey {
    /// Draws a key.
    ///
    /// # Panics
    /// If the kernel has no random numbers, without which nothing here is safe to run.
    #[must_use]
    pub fn random() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self(key.expect("the kernel's random source works"))
    }

    /// The echo of a key.
    #[must_use]
    pub fn echo(&self, key: &TokenKey) -> Echo {
        let tag = hmac::sign(&self.0, &key.canonical_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&tag.as_ref()[..16]);
        Echo(half)
    }
}
