//! Sealing and opening records: AES-256-GCM under a key of this start and this machine.
//!
//! Owns the derivation of sealing keys and the envelope around a record (its bytes are in the
//! room's header). Promises a fresh random nonce for each seal, a new key for each start, so two
//! copies of one machine image do not share nonces, and that a record opens only under the master
//! key, binding, fingerprint, generation and format that it was sealed for and holds the token key
//! of that fingerprint.
//!
//! Limits: ring does not wipe its key schedules, so copies of derived keys stay in freed memory.
//! A virtual machine cloned while running shares its start's key with the clone; nonces then
//! differ by as much as the kernel reseeds its random generator.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::keys::{Key, Keyring};
use super::machine::{BindingKind, Fact, Machine};
use super::master::{KeyId, SealError};
use super::record::{Decoded, Record, VERSION};
use crate::clock::UnixMs;

const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Format, binding, key id, salt, generation, nonce.
const HEADER_BYTES: usize = 1 + 1 + KeyId::BYTES + SALT_BYTES + 8 + NONCE_LEN;

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

/// Why a stored record was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Unreadable {
    /// Too short, of another version, or no record inside.
    #[error("not a sealed record of this version")]
    Format,
    /// Sealed under a master key that is not here.
    #[error("the master key is another one")]
    Master,
    /// Bound to something of the machine that this user may not read: nobody can say yet whether
    /// it opens.
    #[error("what it is bound to cannot be read")]
    Binding,
    /// Damaged, moved to another fingerprint, or sealed on another machine.
    #[error("the seal does not match")]
    Seal,
    /// Well sealed, but the token key inside has another fingerprint.
    #[error("the record is for another key")]
    OtherKey,
}

/// Where random bytes come from: the kernel, but for tests.
pub type Random = fn(&mut [u8]) -> Result<(), SealError>;

/// Seals records, and names token keys.
pub struct Sealer {
    keys: Keyring,
    machine: Machine,
    random: Random,
    key: Drawn,
}

/// A sealing key, and what stands in clear with each record to derive it again.
struct Drawn {
    key: LessSafeKey,
    salt: [u8; SALT_BYTES],
    binding: BindingKind,
    seals: u64,
    last_nonce: [u8; NONCE_LEN],
}

/// A record that was opened.
pub struct Found {
    /// The generation it was sealed for.
    pub generation: u64,
    /// What is inside.
    pub record: Decoded,
    /// It is under an older master key: to be sealed anew.
    pub is_older: bool,
}

/// What stands in clear before a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is bound to.
    pub binding: BindingKind,
    /// Its master key.
    pub key: KeyId,
    salt: [u8; SALT_BYTES],
    /// Its generation, as long as the seal does not say otherwise.
    pub generation: u64,
    nonce: [u8; NONCE_LEN],
}

impl Sealer {
    /// Draws this start's salt and derives its key.
    ///
    /// # Errors
    /// The kernel gave no random bytes.
    pub fn new(keys: Keyring, machine: Machine, now: UnixMs) -> Result<Self, SealError> {
        Self::with_random(keys, machine, now, |bytes| {
            let filled = SystemRandom::new().fill(bytes);
            filled.map_err(|_| SealError)
        })
    }

    fn with_random(
        keys: Keyring,
        machine: Machine,
        now: UnixMs,
        random: Random,
    ) -> Result<Self, SealError> {
        let salt = salt(&machine, now, random)?;
        Ok(Self {
            key: Drawn::under(keys.current(), &machine, salt)?,
            keys,
            machine,
            random,
        })
    }

    /// The master keys.
    #[must_use]
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// What new records are bound to.
    #[must_use]
    pub fn binding(&self) -> BindingKind {
        self.key.binding
    }

    /// Changes the master keys; what is sealed from now on is under the one that seals then.
    ///
    /// # Errors
    /// Those of `change`, and [`SealError`] where the kernel gives no random bytes. Nothing is
    /// changed then.
    pub fn rekey<E: From<SealError>>(
        &mut self,
        now: UnixMs,
        change: impl FnOnce(&mut Keyring) -> Result<(), E>,
    ) -> Result<(), E> {
        // Before the change: a key without a salt of its own could not be sealed with.
        let salt = salt(&self.machine, now, self.random)?;
        change(&mut self.keys)?;
        self.key = Drawn::under(self.keys.current(), &self.machine, salt)?;
        Ok(())
    }

    /// Gives the key before up; see [`Keyring::finish`].
    ///
    /// # Errors
    /// The key file could not be replaced.
    pub fn finish_rotation(&mut self) -> std::io::Result<()> {
        self.keys.finish()
    }

    /// The name on disk of the token key with these canonical bytes.
    #[must_use]
    pub fn fingerprint(&self, canonical_key: &[u8]) -> Fingerprint {
        self.keys.current().fingerprint(canonical_key)
    }

    /// Seals a record. The token is in clear only in one buffer of exactly the final size, which
    /// is encrypted in place, or wiped on failure.
    ///
    /// # Errors
    /// The kernel gave no random bytes, or the same ones twice.
    pub fn seal(
        &mut self,
        fingerprint: Fingerprint,
        generation: u64,
        record: &Record<'_>,
        now: UnixMs,
    ) -> Result<Box<[u8]>, SealError> {
        if self.key.seals >= MAX_SEALS {
            let salt = salt(&self.machine, now, self.random)?;
            self.key = Drawn::under(self.keys.current(), &self.machine, salt)?;
        }
        let mut nonce = [0; NONCE_LEN];
        (self.random)(&mut nonce)?;
        // A generator that repeats itself would give two records away at once.
        if nonce == self.key.last_nonce {
            return Err(SealError);
        }
        self.key.last_nonce = nonce;
        self.key.seals += 1;
        let header = Header {
            binding: self.key.binding,
            key: self.keys.current().id(),
            salt: self.key.salt,
            generation,
            nonce,
        };
        let len = sealed_len(record);
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        header.write(&mut out);
        record.write(&mut out);
        let tied = header.tied(fingerprint);
        let tag = encrypt(&self.key.key, nonce, &tied, &mut out[HEADER_BYTES..])?;
        out.extend_from_slice(&tag);
        debug_assert_eq!(out.len(), len);
        Ok(std::mem::take(&mut *out).into_boxed_slice())
    }
}

/// How many bytes [`Sealer::seal`] makes of a record.
#[must_use]
pub fn sealed_len(record: &Record<'_>) -> usize {
    HEADER_BYTES + record.encoded_len() + TAG_BYTES
}

/// Opens records, and remembers the derived keys of earlier starts meanwhile.
#[derive(Default)]
pub struct Opener(HashMap<(KeyId, BindingKind, [u8; SALT_BYTES]), LessSafeKey>);

impl Opener {
    /// Opens the bytes stored under `fingerprint`, those of earlier starts too.
    ///
    /// # Errors
    /// Anything but what [`Sealer::seal`] made for this very fingerprint under one of `sealer`'s
    /// master keys, on this machine.
    pub fn open(
        &mut self,
        sealer: &Sealer,
        fingerprint: Fingerprint,
        bytes: &[u8],
    ) -> Result<Found, Unreadable> {
        let (header, rest) = Header::read(bytes)?;
        let master = sealer.keys.find(header.key).ok_or(Unreadable::Master)?;
        let key = self.key(master, &header, &sealer.machine)?;
        let mut buffer = Zeroizing::new(rest.to_vec());
        let plain = decrypt(key, header.nonce, &header.tied(fingerprint), &mut buffer)?;
        let record = Decoded::read(plain).map_err(|_| Unreadable::Format)?;
        if master.fingerprint(&record.key.canonical_bytes()) != fingerprint {
            return Err(Unreadable::OtherKey);
        }
        Ok(Found {
            generation: header.generation,
            record,
            is_older: header.key != sealer.keys.current().id(),
        })
    }

    fn key(
        &mut self,
        master: &Key,
        header: &Header,
        machine: &Machine,
    ) -> Result<&LessSafeKey, Unreadable> {
        let place = (header.key, header.binding, header.salt);
        Ok(match self.0.entry(place) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let fact = machine.fact(header.binding);
                if *fact == Fact::Forbidden {
                    return Err(Unreadable::Binding);
                }
                let key = sealing_key(master, &header.salt, header.binding, fact);
                place.insert(key.map_err(|_| Unreadable::Seal)?)
            }
        })
    }
}

impl Header {
    /// Reads what stands before a record; gives the rest.
    ///
    /// # Errors
    /// [`Unreadable::Format`].
    pub fn read(sealed: &[u8]) -> Result<(Self, &[u8]), Unreadable> {
        let take = || {
            let (&[version, binding], rest) = sealed.split_first_chunk()?;
            let (key, rest) = rest.split_first_chunk()?;
            let (salt, rest) = rest.split_first_chunk()?;
            let (generation, rest) = rest.split_first_chunk()?;
            let (nonce, rest) = rest.split_first_chunk()?;
            let header = Self {
                binding: BindingKind::of(binding)?,
                key: KeyId(*key),
                salt: *salt,
                generation: u64::from_be_bytes(*generation),
                nonce: *nonce,
            };
            (version == VERSION).then_some((header, rest))
        };
        take().ok_or(Unreadable::Format)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, self.binding as u8]);
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.nonce);
    }

    /// What the tag covers besides the record. Salt and binding are bound by the key that they
    /// give.
    fn tied(&self, fingerprint: Fingerprint) -> [u8; TIED_BYTES] {
        const KEY: usize = LABEL.len() + 1;
        const NAME: usize = KEY + KeyId::BYTES;
        const GENERATION: usize = NAME + Fingerprint::BYTES;
        let mut bytes = [0; TIED_BYTES];
        bytes[..LABEL.len()].copy_from_slice(LABEL);
        bytes[LABEL.len()] = VERSION;
        bytes[KEY..NAME].copy_from_slice(&self.key.0);
        bytes[NAME..GENERATION].copy_from_slice(&fingerprint.0);
        bytes[GENERATION..].copy_from_slice(&self.generation.to_be_bytes());
        bytes
    }
}

const LABEL: &[u8; 16] = b"foretoken record";
const TIED_BYTES: usize = LABEL.len() + 1 + KeyId::BYTES + Fingerprint::BYTES + 8;

/// Encrypts in place; gives the tag.
fn encrypt(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    tied: &[u8],
    bytes: &mut [u8],
) -> Result<[u8; TAG_BYTES], SealError> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(tied), bytes);
    let tag = tag.map_err(|_| SealError)?;
    tag.as_ref().try_into().map_err(|_| SealError)
}

/// Decrypts in place what ends with its tag; gives what is before it.
fn decrypt<'b>(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    tied: &[u8],
    bytes: &'b mut [u8],
) -> Result<&'b [u8], Unreadable> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let plain = key.open_in_place(nonce, Aad::from(tied), bytes);
    plain.map(|plain| &*plain).map_err(|_| Unreadable::Seal)
}

/// A salt for a new sealing key. What goes into it besides random bytes tells the starts of two
/// copies of one machine image apart, should both draw the same bytes.
fn salt(machine: &Machine, now: UnixMs, random: Random) -> Result<[u8; SALT_BYTES], SealError> {
    let mut bytes = [0; SALT_BYTES];
    random(&mut bytes)?;
    let mut mixed = digest::Context::new(&digest::SHA256);
    mixed.update(&bytes);
    mixed.update(&now.0.to_be_bytes());
    mixed.update(&std::process::id().to_be_bytes());
    for fact in [&machine.boot_id, &machine.machine_id] {
        mixed.update(words(fact).as_bytes());
        mixed.update(&[0]);
    }
    bytes.copy_from_slice(mixed.finish().as_ref());
    Ok(bytes)
}

impl Drawn {
    fn under(key: &Key, machine: &Machine, salt: [u8; SALT_BYTES]) -> Result<Self, SealError> {
        let binding = machine.binding();
        Ok(Self {
            key: sealing_key(key, &salt, binding, machine.fact(binding))?,
            salt,
            binding,
            seals: 0,
            last_nonce: [0; NONCE_LEN],
        })
    }
}

fn sealing_key(
    key: &Key,
    salt: &[u8; SALT_BYTES],
    binding: BindingKind,
    fact: &Fact,
) -> Result<LessSafeKey, SealError> {
    // Everything before the last part has a fixed length.
    let info: [&[u8]; 4] = [
        b"foretoken store record 2",
        salt,
        &[binding as u8],
        words(fact).as_bytes(),
    ];
    let made = key
        .master()
        .expand(&info, &AES_256_GCM, |okm| UnboundKey::from(okm));
    Ok(LessSafeKey::new(made?))
}

fn words(fact: &Fact) -> &str {
    match fact {
        Fact::Known(words) => words,
        Fact::Missing | Fact::Forbidden => "",
    }
}

#[cfg(test)]
mod tests;
