//! Bytes that must not be seen: the only place that can reveal a token.

use zeroize::Zeroizing;

/// Secret bytes: never printed, never cloned, wiped when dropped.
///
/// There is no `Debug`, `Display`, `Clone` or `Serialize` on purpose: code that would copy a token
/// into a log line or an error does not compile. The buffer has its final size from the start, so
/// growing never leaves a copy behind.
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes the bytes over. A `Vec` with spare capacity is copied to its exact size and wiped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(Zeroizing::new(Box::from(bytes.as_slice())))
    }

    /// The bytes in clear. Callers hand them to a client's socket or to the sealing cipher and to
    /// nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use static_assertions::assert_not_impl_any;

    use super::Secret;
    use crate::token::AccessToken;

    // A build that fails is the test: each of these would put a token where it can be seen, or
    // leave a copy that nobody wipes.
    assert_not_impl_any!(
        Secret: Debug, Display, Clone, Copy, serde::Serialize, AsRef<[u8]>, AsRef<str>, Into<Vec<u8>>,
        std::ops::Deref, ToString, PartialEq
    );
    assert_not_impl_any!(AccessToken: Debug, Display, Clone, Copy, serde::Serialize);

    #[test]
    fn a_secret_has_no_room_to_spare() {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(b"token");
        let secret = Secret::new(bytes);
        assert_eq!(secret.expose(), b"token");
        assert_eq!(size_of_val(secret.expose()), 5);
    }
}
