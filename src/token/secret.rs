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
