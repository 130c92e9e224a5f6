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
        Ok(Self {
            key: draw(&keys, &machine, now, random)?,
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
    /// Those of `change`, and [`SealError`] where the kernel gave no random bytes: the keys are
    /// changed then, and sealing goes on under the one before.
    pub fn rekey<E: From<SealError>>(
        &mut self,
        now: UnixMs,
        change: impl FnOnce(&mut Keyring) -> Result<(), E>,
    ) -> Result<(), E> {
        change(&mut self.keys)?;
        self.key = draw(&self.keys, &self.machine, now, self.random)?;
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
            self.key = draw(&self.keys, &self.machine, now, self.random)?;
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
        let len = HEADER_BYTES + record.encoded_len() + TAG_BYTES;
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        header.write(&mut out);
        record.write(&mut out);
        let sealed = self.key.key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            header.aad(fingerprint),
            &mut out[HEADER_BYTES..],
        );
        let tag = sealed.map_err(|_| SealError)?;
        out.extend_from_slice(tag.as_ref());
        debug_assert_eq!(out.len(), len);
        Ok(std::mem::take(&mut *out).into_boxed_slice())
    }
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
        sealed: &[u8],
    ) -> Result<Found, Unreadable> {
        let (header, rest) = Header::read(sealed)?;
        let master = sealer.keys.find(header.key).ok_or(Unreadable::Master)?;
        let key = self.key(master, &header, &sealer.machine)?;
        let mut buffer = Zeroizing::new(rest.to_vec());
        let plain = key
            .open_in_place(
                Nonce::assume_unique_for_key(header.nonce),
                header.aad(fingerprint),
                &mut buffer,
            )
            .map_err(|_| Unreadable::Seal)?;
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
        if !self.0.contains_key(&place) {
            let fact = machine.fact(header.binding);
            if *fact == Fact::Forbidden {
                return Err(Unreadable::Binding);
            }
            let key = sealing_key(master, &header.salt, header.binding, fact);
            self.0.insert(place, key.map_err(|_| Unreadable::Seal)?);
        }
        self.0.get(&place).ok_or(Unreadable::Seal)
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
    fn aad(&self, fingerprint: Fingerprint) -> Aad<[u8; AAD_BYTES]> {
        const KEY: usize = LABEL.len() + 1;
        const NAME: usize = KEY + KeyId::BYTES;
        const GENERATION: usize = NAME + Fingerprint::BYTES;
        let mut bytes = [0; AAD_BYTES];
        bytes[..LABEL.len()].copy_from_slice(LABEL);
        bytes[LABEL.len()] = VERSION;
        bytes[KEY..NAME].copy_from_slice(&self.key.0);
        bytes[NAME..GENERATION].copy_from_slice(&fingerprint.0);
        bytes[GENERATION..].copy_from_slice(&self.generation.to_be_bytes());
        Aad::from(bytes)
    }
}

const LABEL: &[u8; 16] = b"foretoken record";
const AAD_BYTES: usize = LABEL.len() + 1 + KeyId::BYTES + Fingerprint::BYTES + 8;

/// A new sealing key. What goes into its salt besides random bytes tells the starts of two copies
/// of one machine image apart, should both draw the same bytes.
fn draw(
    keys: &Keyring,
    machine: &Machine,
    now: UnixMs,
    random: Random,
) -> Result<Drawn, SealError> {
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
    let mut salt = [0; SALT_BYTES];
    salt.copy_from_slice(mixed.finish().as_ref());
    let binding = machine.binding();
    Ok(Drawn {
        key: sealing_key(keys.current(), &salt, binding, machine.fact(binding))?,
        salt,
        binding,
        seals: 0,
        last_nonce: [0; NONCE_LEN],
    })
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
mod tests {
    use super::*;
    use crate::store::tests::{key, machine, token};
    use crate::token::TokenKey;

    const NOW: UnixMs = UnixMs(7);

    fn sealer() -> Sealer {
        Sealer::new(Keyring::random().unwrap(), machine(), NOW).unwrap()
    }

    /// A sealer under the master key `[byte; 32]`.
    fn sealer_of(byte: u8, machine: Machine) -> Sealer {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("foretoken.key");
        std::fs::write(&path, [byte; 32]).unwrap();
        let settings = crate::store::Settings {
            mode: crate::store::Mode::Sealed,
            path: dir.path().join("store"),
            key: dir.path().join("key"),
            credentials: Some(dir.path().to_owned()),
        };
        Sealer::new(Keyring::load(&settings).unwrap(), machine, NOW).unwrap()
    }

    fn seal(sealer: &mut Sealer, key: &TokenKey, generation: u64) -> (Fingerprint, Box<[u8]>) {
        let canonical = key.canonical_bytes();
        let fingerprint = sealer.fingerprint(&canonical);
        let record = Record {
            key: &canonical,
            token: &token("secret"),
            last_used: UnixMs(5),
        };
        let bytes = sealer.seal(fingerprint, generation, &record, NOW).unwrap();
        (fingerprint, bytes)
    }

    fn open(sealer: &Sealer, name: Fingerprint, bytes: &[u8]) -> Result<Found, Unreadable> {
        Opener::default().open(sealer, name, bytes)
    }

    #[test]
    fn what_was_sealed_opens_as_the_same_record() {
        let mut sealer = sealer();
        let (fingerprint, bytes) = seal(&mut sealer, &key("a"), 9);
        let found = open(&sealer, fingerprint, &bytes).unwrap();
        assert_eq!(found.generation, 9);
        assert_eq!(found.record.key, key("a"));
        assert_eq!(found.record.token.secret.expose(), b"secret");
        assert!(!found.is_older);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let mut sealer = sealer();
        let (fingerprint, bytes) = seal(&mut sealer, &key("a"), 9);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&sealer, fingerprint, &bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(open(&sealer, fingerprint, &bytes[..len]).is_err());
        }
        assert!(open(&sealer, fingerprint, &[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn records_swapped_between_fingerprints_are_refused() {
        let mut sealer = sealer();
        let (a, sealed_a) = seal(&mut sealer, &key("a"), 1);
        let (b, sealed_b) = seal(&mut sealer, &key("b"), 1);
        assert_eq!(open(&sealer, a, &sealed_b).err(), Some(Unreadable::Seal));
        assert_eq!(open(&sealer, b, &sealed_a).err(), Some(Unreadable::Seal));
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
        let bytes = sealer.seal(a, 1, &record, NOW).unwrap();
        assert_eq!(open(&sealer, a, &bytes).err(), Some(Unreadable::OtherKey));
    }

    #[test]
    fn another_master_key_opens_nothing_and_names_keys_differently() {
        let (mut ours, theirs) = (sealer(), sealer());
        let (fingerprint, bytes) = seal(&mut ours, &key("a"), 1);
        let refused = open(&theirs, fingerprint, &bytes).err();
        assert_eq!(refused, Some(Unreadable::Master));
        assert_ne!(theirs.fingerprint(&key("a").canonical_bytes()), fingerprint);
        // Nor does it when the record says that it is theirs.
        let mut bad = bytes.to_vec();
        bad[2..2 + KeyId::BYTES].copy_from_slice(&theirs.keys.current().id().0);
        assert_eq!(
            open(&theirs, fingerprint, &bad).err(),
            Some(Unreadable::Seal)
        );
    }

    #[test]
    fn a_record_opens_on_its_own_machine_alone_whatever_it_was_bound_to() {
        let known = |text: &str| Fact::Known(text.into());
        let machine = |product_uuid, machine_id, boot: &str| Machine {
            product_uuid,
            machine_id,
            boot_id: known(boot),
        };
        let here = machine(known("uuid"), known("id"), "1");
        let as_user = machine(Fact::Forbidden, known("id"), "1");
        let bare = machine(Fact::Missing, Fact::Missing, "1");
        let rebooted = machine(known("uuid"), known("id"), "2");
        let other_uuid = machine(known("other"), known("id"), "1");
        let other_id = machine(known("uuid"), known("other"), "1");
        let without = machine(Fact::Missing, known("id"), "1");
        let bound = |machine: &Machine| seal(&mut sealer_of(1, machine.clone()), &key("a"), 1);
        let opened = |(name, bytes): &(Fingerprint, Box<[u8]>), machine: &Machine| {
            open(&sealer_of(1, machine.clone()), *name, bytes).map(|found| found.generation)
        };

        let by_uuid = bound(&here);
        assert_eq!(opened(&by_uuid, &here), Ok(1));
        assert_eq!(opened(&by_uuid, &rebooted), Ok(1));
        assert_eq!(opened(&by_uuid, &other_id), Ok(1));
        assert_eq!(opened(&by_uuid, &other_uuid), Err(Unreadable::Seal));
        assert_eq!(opened(&by_uuid, &without), Err(Unreadable::Seal));
        assert_eq!(opened(&by_uuid, &as_user), Err(Unreadable::Binding));

        let by_id = bound(&as_user);
        for machine in [&as_user, &here, &rebooted, &other_uuid, &without] {
            assert_eq!(opened(&by_id, machine), Ok(1));
        }
        assert_eq!(opened(&by_id, &other_id), Err(Unreadable::Seal));

        let by_nothing = bound(&bare);
        assert_eq!(opened(&by_nothing, &here), Ok(1));
    }

    #[test]
    fn a_binding_said_to_be_another_is_refused() {
        let mut sealer = sealer();
        let (fingerprint, bytes) = seal(&mut sealer, &key("a"), 1);
        for (kind, expected) in [
            (BindingKind::None, Unreadable::Seal),
            (BindingKind::ProductUuid, Unreadable::Binding),
        ] {
            let mut bad = bytes.to_vec();
            bad[1] = kind as u8;
            assert_eq!(open(&sealer, fingerprint, &bad).err(), Some(expected));
        }
    }

    #[test]
    fn a_record_under_the_key_before_opens_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let settings = crate::store::Settings {
            mode: crate::store::Mode::Sealed,
            path: dir.path().join("store"),
            key: dir.path().join("key"),
            credentials: None,
        };
        std::fs::create_dir(&settings.path).unwrap();
        let keys = Keyring::load(&settings).unwrap();
        let mut sealer = Sealer::new(keys, machine(), NOW).unwrap();
        let (before, bytes) = seal(&mut sealer, &key("a"), 1);
        sealer
            .rekey(NOW, |keys| {
                keys.rotate(&settings.key).map_err(|_| SealError)
            })
            .unwrap();
        assert!(open(&sealer, before, &bytes).unwrap().is_older);
        let (after, bytes) = seal(&mut sealer, &key("a"), 1);
        assert_ne!(before, after);
        assert!(!open(&sealer, after, &bytes).unwrap().is_older);
    }

    #[test]
    fn no_two_seals_share_a_nonce() {
        let count = std::env::var("FORETOKEN_SEALS").map_or(1000, |n| n.parse().unwrap());
        let mut sealer = sealer();
        let mut seen = std::collections::HashSet::with_capacity(count);
        for _ in 0..count {
            let (_, bytes) = seal(&mut sealer, &key("a"), 1);
            let nonce: [u8; NONCE_LEN] = bytes[HEADER_BYTES - NONCE_LEN..HEADER_BYTES]
                .try_into()
                .unwrap();
            assert!(seen.insert(nonce));
        }
    }

    #[test]
    fn a_generator_that_repeats_itself_seals_nothing_twice() {
        let stuck: Random = |bytes| {
            bytes.fill(3);
            Ok(())
        };
        let keys = Keyring::random().unwrap();
        let mut sealer = Sealer::with_random(keys, machine(), NOW, stuck).unwrap();
        let (name, _) = seal(&mut sealer, &key("a"), 1);
        let canonical = key("a").canonical_bytes();
        let record = Record {
            key: &canonical,
            token: &token("other"),
            last_used: UnixMs(5),
        };
        assert_eq!(sealer.seal(name, 2, &record, NOW), Err(SealError));
    }

    #[test]
    fn two_starts_that_draw_the_same_bytes_have_keys_of_their_own() {
        let stuck: Random = |bytes| {
            bytes.fill(3);
            Ok(())
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("foretoken.key"), [1; 32]).unwrap();
        let settings = crate::store::Settings {
            mode: crate::store::Mode::Sealed,
            path: dir.path().join("store"),
            key: dir.path().join("key"),
            credentials: Some(dir.path().to_owned()),
        };
        let salt = |machine: Machine, now: u64| {
            let keys = Keyring::load(&settings).unwrap();
            let sealer = Sealer::with_random(keys, machine, UnixMs(now), stuck).unwrap();
            sealer.key.salt
        };
        let first = salt(machine(), 1);
        assert_eq!(first, salt(machine(), 1));
        assert_ne!(first, salt(machine(), 2));
        let booted = Machine {
            boot_id: Fact::Known("another".into()),
            ..machine()
        };
        assert_ne!(first, salt(booted, 1));
    }

    #[test]
    fn a_worn_key_is_replaced_and_its_records_still_open() {
        let mut sealer = sealer();
        let (fingerprint, old) = seal(&mut sealer, &key("a"), 1);
        sealer.key.seals = MAX_SEALS;
        let (_, new) = seal(&mut sealer, &key("a"), 2);
        assert_ne!(
            Header::read(&old).unwrap().0.salt,
            Header::read(&new).unwrap().0.salt
        );
        assert_eq!(sealer.key.seals, 1);
        assert!(open(&sealer, fingerprint, &old).is_ok());
        assert!(open(&sealer, fingerprint, &new).is_ok());
    }
}
