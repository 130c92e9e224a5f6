//! One master key in memory.
//!
//! Promises that its bytes lie in a page of their own, which is kept out of swap where the kernel
//! allows it, and that they are wiped when the key is dropped. Nothing here copies them: they are
//! read into this page and handed to the key derivation, which mixes them before it keeps
//! anything. What it derives lies in ordinary memory, inside `ring`, and is not wiped.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use region::LockGuard;
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroize;

/// Length of a master key.
pub const KEY_BYTES: usize = 32;

/// The largest page there is on our platforms: unlocking one key's must not unlock another's.
const PAGE_BYTES: usize = 64 << 10;

/// The key that all sealing keys are derived from. Never printed or copied; wiped when dropped.
pub struct MasterKey {
    /// Before the page, so that it is let go first.
    _lock: Option<LockGuard>,
    page: Box<Page>,
}

/// As large as its alignment, so that nothing else lies in it.
#[repr(align(65536))]
struct Page([u8; PAGE_BYTES]);

/// Which master key: tells keys apart and says nothing about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; Self::BYTES]);

impl KeyId {
    /// Its length.
    pub const BYTES: usize = 8;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The kernel gave no random bytes, or a derivation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealing failed")]
pub struct SealError;

impl MasterKey {
    /// A fresh key that is in no file.
    ///
    /// # Errors
    /// The kernel gave no random bytes.
    pub fn random() -> Result<Self, SealError> {
        let mut key = Self::empty();
        let filled = SystemRandom::new().fill(key.bytes_mut());
        filled.map_err(|_| SealError)?;
        Ok(key)
    }

    /// Reads a key from the start of a file.
    ///
    /// # Errors
    /// The file is shorter, or cannot be read.
    pub(super) fn read(file: &mut File) -> io::Result<Self> {
        let mut key = Self::empty();
        file.read_exact(key.bytes_mut())?;
        Ok(key)
    }

    fn empty() -> Self {
        #[expect(
            clippy::large_stack_arrays,
            reason = "a moment, and nothing is in it yet"
        )]
        let page = Box::new(Page([0; PAGE_BYTES]));
        // A start must not fail for it: `RLIMIT_MEMLOCK` may leave no room.
        let lock = region::lock(page.0.as_ptr(), PAGE_BYTES);
        if let Err(error) = &lock {
            tracing::debug!(%error, "the master key cannot be kept out of swap");
        }
        Self {
            _lock: lock.ok(),
            page,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.page.0[..KEY_BYTES]
    }

    /// The bytes, for key derivation and the key file.
    pub(super) fn expose(&self) -> &[u8] {
        &self.page.0[..KEY_BYTES]
    }

    /// What to call it.
    ///
    /// # Errors
    /// Never, by what `ring` says of its limits.
    pub fn id(&self) -> Result<KeyId, SealError> {
        let mut id = [0; KeyId::BYTES];
        self.expand(&[b"foretoken key id 1"], Bytes(KeyId::BYTES), |okm| {
            okm.fill(&mut id)
        })?
        .map_err(|_| SealError)?;
        Ok(KeyId(id))
    }

    /// HKDF-Expand with SHA-256. The master key is random already, so there is nothing to extract
    /// (RFC 5869, 3.3); and as the key of a MAC it leaves no copy in hashing buffers, which as an
    /// input to be extracted it would.
    pub(super) fn expand<L: hkdf::KeyType, K>(
        &self,
        info: &[&[u8]],
        kind: L,
        make: impl FnOnce(hkdf::Okm<'_, L>) -> K,
    ) -> Result<K, SealError> {
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, self.expose())
            .expand(info, kind)
            .map(make)
            .map_err(|_| SealError)
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.page.0.zeroize();
    }
}

/// So many bytes of output.
struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use static_assertions::assert_not_impl_any;

    use super::*;
    use crate::store::Restored;
    use crate::store::keys::{Key, Keyring};

    assert_not_impl_any!(MasterKey: fmt::Debug, fmt::Display, Clone, Copy, serde::Serialize);
    assert_not_impl_any!(Key: fmt::Debug, fmt::Display, Clone, serde::Serialize);
    assert_not_impl_any!(Keyring: fmt::Debug, fmt::Display, Clone, serde::Serialize);
    assert_not_impl_any!(Restored: fmt::Debug, fmt::Display, Clone, serde::Serialize);

    #[test]
    fn a_key_lies_alone_in_its_page() {
        let key = MasterKey::random().unwrap();
        assert_eq!(key.expose().as_ptr().addr() % PAGE_BYTES, 0);
        assert_eq!(std::mem::size_of::<Page>(), std::mem::align_of::<Page>());
        assert_ne!(key.expose(), [0; KEY_BYTES]);
    }

    #[test]
    fn keys_have_names_of_their_own_that_stay() {
        let (a, b) = (MasterKey::random().unwrap(), MasterKey::random().unwrap());
        assert_eq!(a.id(), a.id());
        assert_ne!(a.id(), b.id());
        assert_eq!(
            KeyId([0, 1, 2, 3, 4, 5, 6, 0xff]).to_string(),
            "00010203040506ff"
        );
    }
}
