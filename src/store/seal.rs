//! Sealing and opening records: AES-256-GCM under a key of this start.
//!
//! Owns the derivation of keys and the envelope around a record (its bytes are in the room's
//! header). Promises a fresh random nonce for each seal, a new key for each start, so two copies
//! of one machine image do not share nonces, and that a record opens only under the fingerprint,
//! generation and version that it was sealed for and holds the token key of that fingerprint.
//!
//! Limits: ring does not wipe its key schedules, so copies of derived keys stay in freed memory.
//! A virtual machine cloned while running shares its start's key with the clone; nonces then
//! differ by as much as the kernel reseeds its random generator.

use std::collections::HashMap;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SystemRandom, generate};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::keys::MasterKey;
use super::record::{Decoded, Record, VERSION};

const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + SALT_BYTES + 8 + NONCE_LEN;

/// Random nonces of 96 bits are safe for 2^32 seals under one key (NIST SP 800-38D, 8.3). A new
/// key is drawn long before.
const MAX_SEALS: u64 = 1 << 28;

/// What a token key is called on disk: 128 bits of a MAC under the master key. It names the key
/// for whoever holds the master and says nothing to anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; Self::BYTES]);

impl Fingerprint {
    /// Its length.
    pub const BYTES: usize = 16;
}

/// Sealing failed on our side: the kernel gave no random bytes, or the cipher refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealing failed")]
pub struct SealError;

/// Why a stored record was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Too short, of another version, or no record inside.
    #[error("not a sealed record of this version")]
    Format,
    /// Damaged, moved to another fingerprint, or sealed under another master key.
    #[error("the seal does not match")]
    Seal,
    /// Well sealed, but the token key inside has another fingerprint.
    #[error("the record is for another key")]
    OtherKey,
}

/// Seals records, and names token keys.
pub struct Sealer {
    master: MasterKey,
    names: hmac::Key,
    salt: [u8; SALT_BYTES],
    key: LessSafeKey,
    seals: u64,
}

impl Sealer {
    /// Draws this start's salt and derives its keys.
    ///
    /// # Errors
    /// The kernel gave no random bytes.
    pub fn new(master: MasterKey) -> Result<Self, SealError> {
        let names = expand(
            &master,
            &[],
            b"foretoken store fingerprint 1",
            hmac::HMAC_SHA256,
        )?;
        let salt = random()?;
        Ok(Self {
            key: sealing_key(&master, &salt)?,
            names,
            master,
            salt,
            seals: 0,
        })
    }

    /// The name on disk of the token key with these canonical bytes.
    #[must_use]
    pub fn fingerprint(&self, canonical_key: &[u8]) -> Fingerprint {
        let tag = hmac::sign(&self.names, canonical_key);
        let mut name = [0; Fingerprint::BYTES];
        name.copy_from_slice(&tag.as_ref()[..Fingerprint::BYTES]);
        Fingerprint(name)
    }

    /// Seals a record. The token is in clear only in one buffer of exactly the final size, which
    /// is encrypted in place, or wiped on failure.
    ///
    /// # Errors
    /// The kernel gave no random bytes.
    pub fn seal(
        &mut self,
        fingerprint: Fingerprint,
        generation: u64,
        record: &Record<'_>,
    ) -> Result<Box<[u8]>, SealError> {
        if self.seals >= MAX_SEALS {
            let salt = random()?;
            self.key = sealing_key(&self.master, &salt)?;
            self.salt = salt;
            self.seals = 0;
        }
        self.seals += 1;
        let nonce: [u8; NONCE_LEN] = random()?;
        let len = HEADER_BYTES + record.encoded_len() + TAG_BYTES;
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.push(VERSION);
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&generation.to_be_bytes());
        out.extend_from_slice(&nonce);
        record.write(&mut out);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                aad(fingerprint, generation),
                &mut out[HEADER_BYTES..],
            )
            .map_err(|_| SealError)?;
        out.extend_from_slice(tag.as_ref());
        debug_assert_eq!(out.len(), len);
        Ok(std::mem::take(&mut *out).into_boxed_slice())
    }

    /// Opens records, those of earlier starts too.
    #[must_use]
    pub fn opener(&self) -> Opener<'_> {
        Opener {
            sealer: self,
            keys: HashMap::new(),
        }
    }
}

/// Opens records, and remembers the derived keys of earlier starts meanwhile.
pub struct Opener<'a> {
    sealer: &'a Sealer,
    keys: HashMap<[u8; SALT_BYTES], LessSafeKey>,
}

impl Opener<'_> {
    /// Opens the bytes stored under `fingerprint`; gives the generation and the record.
    ///
    /// # Errors
    /// Anything but what [`Sealer::seal`] made for this very fingerprint under this master key.
    pub fn open(
        &mut self,
        fingerprint: Fingerprint,
        sealed: &[u8],
    ) -> Result<(u64, Decoded), Unreadable> {
        let (&[version], rest) = sealed.split_first_chunk().ok_or(Unreadable::Format)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(Unreadable::Format)?;
        let (generation, rest) = rest.split_first_chunk().ok_or(Unreadable::Format)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(Unreadable::Format)?;
        if version != VERSION {
            return Err(Unreadable::Format);
        }
        let generation = u64::from_be_bytes(*generation);
        let mut buffer = Zeroizing::new(rest.to_vec());
        let plain = self
            .key(salt)?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                aad(fingerprint, generation),
                &mut buffer,
            )
            .map_err(|_| Unreadable::Seal)?;
        let record = Decoded::read(plain).map_err(|_| Unreadable::Format)?;
        if self.sealer.fingerprint(&record.key.canonical_bytes()) != fingerprint {
            return Err(Unreadable::OtherKey);
        }
        Ok((generation, record))
    }

    fn key(&mut self, salt: &[u8; SALT_BYTES]) -> Result<&LessSafeKey, Unreadable> {
        if !self.keys.contains_key(salt) {
            let key = sealing_key(&self.sealer.master, salt).map_err(|_| Unreadable::Seal)?;
            self.keys.insert(*salt, key);
        }
        self.keys.get(salt).ok_or(Unreadable::Seal)
    }
}

/// What the tag covers besides the record. The salt is bound by the key that it gives.
fn aad(fingerprint: Fingerprint, generation: u64) -> Aad<[u8; 16 + 1 + Fingerprint::BYTES + 8]> {
    let mut bytes = [0; 16 + 1 + Fingerprint::BYTES + 8];
    bytes[..16].copy_from_slice(b"foretoken record");
    bytes[16] = VERSION;
    bytes[17..33].copy_from_slice(&fingerprint.0);
    bytes[33..].copy_from_slice(&generation.to_be_bytes());
    Aad::from(bytes)
}

fn sealing_key(master: &MasterKey, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, SealError> {
    let key: UnboundKey = expand(master, salt, b"foretoken store record 1", &AES_256_GCM)?;
    Ok(LessSafeKey::new(key))
}

/// HKDF-SHA256, straight into the kind of key that is wanted.
fn expand<L, K>(master: &MasterKey, salt: &[u8], info: &[u8], kind: L) -> Result<K, SealError>
where
    L: hkdf::KeyType,
    K: for<'a> From<hkdf::Okm<'a, L>>,
{
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(master.expose())
        .expand(&[info], kind)
        .map(K::from)
        .map_err(|_| SealError)
}

fn random<const N: usize>() -> Result<[u8; N], SealError>
where
    [u8; N]: ring::rand::RandomlyConstructable,
{
    generate(&SystemRandom::new())
        .map(ring::rand::Random::expose)
        .map_err(|_| SealError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMs;
    use crate::store::tests::{key, token};
    use crate::token::TokenKey;

    fn sealer() -> Sealer {
        Sealer::new(MasterKey::random().unwrap()).unwrap()
    }

    fn seal(sealer: &mut Sealer, key: &TokenKey, generation: u64) -> (Fingerprint, Box<[u8]>) {
        let canonical = key.canonical_bytes();
        let fingerprint = sealer.fingerprint(&canonical);
        let record = Record {
            key: &canonical,
            token: &token("secret"),
            last_used: UnixMs(5),
        };
        let bytes = sealer.seal(fingerprint, generation, &record).unwrap();
        (fingerprint, bytes)
    }

    #[test]
    fn what_was_sealed_opens_as_the_same_record() {
        let mut sealer = sealer();
        let (fingerprint, bytes) = seal(&mut sealer, &key("a"), 9);
        let (generation, record) = sealer.opener().open(fingerprint, &bytes).unwrap();
        assert_eq!(generation, 9);
        assert_eq!(record.key, key("a"));
        assert_eq!(record.token.secret.expose(), b"secret");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let mut sealer = sealer();
        let (fingerprint, bytes) = seal(&mut sealer, &key("a"), 9);
        let mut opener = sealer.opener();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(fingerprint, &bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(opener.open(fingerprint, &bytes[..len]).is_err());
        }
    }

    #[test]
    fn records_swapped_between_fingerprints_are_refused() {
        let mut sealer = sealer();
        let (a, sealed_a) = seal(&mut sealer, &key("a"), 1);
        let (b, sealed_b) = seal(&mut sealer, &key("b"), 1);
        let mut opener = sealer.opener();
        assert_eq!(opener.open(a, &sealed_b).err(), Some(Unreadable::Seal));
        assert_eq!(opener.open(b, &sealed_a).err(), Some(Unreadable::Seal));
    }

    #[test]
    fn a_record_sealed_under_a_fingerprint_that_is_not_its_own_is_refused() {
        let mut sealer = sealer();
        let a = sealer.fingerprint(&key("a").canonical_bytes());
        let b = key("b").canonical_bytes();
        let record = Record {
            key: &b,
            token: &token("secret"),
            last_used: UnixMs(5),
        };
        let bytes = sealer.seal(a, 1, &record).unwrap();
        assert_eq!(
            sealer.opener().open(a, &bytes).err(),
            Some(Unreadable::OtherKey)
        );
    }

    #[test]
    fn another_master_key_opens_nothing_and_names_keys_differently() {
        let mut ours = sealer();
        let theirs = sealer();
        let (fingerprint, bytes) = seal(&mut ours, &key("a"), 1);
        assert_eq!(
            theirs.opener().open(fingerprint, &bytes).err(),
            Some(Unreadable::Seal)
        );
        assert_ne!(theirs.fingerprint(&key("a").canonical_bytes()), fingerprint);
    }

    #[test]
    fn no_two_seals_share_a_nonce() {
        let mut sealer = sealer();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let (_, bytes) = seal(&mut sealer, &key("a"), 1);
            assert!(seen.insert(bytes[HEADER_BYTES - NONCE_LEN..HEADER_BYTES].to_vec()));
        }
    }

    #[test]
    fn a_worn_key_is_replaced_and_its_records_still_open() {
        let mut sealer = sealer();
        let (fingerprint, old) = seal(&mut sealer, &key("a"), 1);
        sealer.seals = MAX_SEALS;
        let (_, new) = seal(&mut sealer, &key("a"), 2);
        assert_ne!(old[1..=SALT_BYTES], new[1..=SALT_BYTES]);
        assert_eq!(sealer.seals, 1);
        let mut opener = sealer.opener();
        assert!(opener.open(fingerprint, &old).is_ok());
        assert!(opener.open(fingerprint, &new).is_ok());
    }
}
