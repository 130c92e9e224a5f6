//! Keys that change, and machines: what still opens, and what is lost for good.

use std::collections::BTreeMap;

use super::super::database;
use super::super::keys::Keyring;
use super::super::machine::BindingKind;
use super::super::offline::{self, OfflineError};
use super::super::record::VERSION;
use super::*;

const NOW: UnixMs = UnixMs(2_000_000);

impl Place {
    fn open_on(&self, machine: &Machine) -> Opened {
        Store::open(&self.settings, machine, &self.clock).unwrap()
    }

    fn credential(&mut self, name: &str, byte: u8) {
        let folder = self.dir.path().join("credentials");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), [byte; 32]).unwrap();
        self.settings.credentials = Some(folder);
    }

    fn key_file(&self) -> Vec<u8> {
        fs::read(&self.settings.key).unwrap()
    }

    fn next_key(&self) -> PathBuf {
        self.settings.key.with_added_extension("next")
    }

    /// Every file of the store and what is in it.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = files(&self.settings.path).into_iter();
        files
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }
}

const ALL: [&str; 3] = ["r0", "r1", "r2"];

/// After the first write.
fn facts(store: &Store) -> KeyFacts {
    wait_until(|| store.key_facts().is_some());
    store.key_facts().unwrap()
}

#[test]
fn a_rotation_seals_everything_anew_and_the_key_before_opens_nothing() {
    let place = Place::new();
    place.fill(3);
    let before = place.key_file();
    let store = place.open().store;
    let old = facts(&store).id;
    let report = store.rotate(PATIENCE).unwrap();
    assert_ne!(report.key.id, old);
    assert!(!report.key.rotating && report.key.older.is_empty());
    assert_eq!(report.stored.by_key, [(report.key.id.clone(), 3)].into());
    // It goes on as it was: what is put later is kept too.
    put(&store, "r3", 1);
    assert!(store.close(PATIENCE));
    assert!(!place.next_key().exists());
    assert_ne!(place.key_file(), before);
    assert_eq!(place.restored(), ["r0", "r1", "r2", "r3"]);

    fs::write(&place.settings.key, before).unwrap();
    assert!(place.open().restored.is_empty());
}

#[test]
fn a_rotation_that_was_cut_off_before_anything_was_sealed_is_finished_by_the_next_start() {
    let place = Place::new();
    place.fill(3);
    let before = place.key_file();
    fs::write(place.next_key(), [9; 32]).unwrap();
    fs::set_permissions(place.next_key(), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(place.restored(), ALL);
    assert!(!place.next_key().exists());
    assert_eq!(place.key_file(), [9; 32]);
    // The log of a database keeps what was overwritten: nothing of it is left.
    assert!(!place.db(1).exists());
    assert_eq!(place.restored(), ALL);
    fs::write(&place.settings.key, before).unwrap();
    assert!(place.open().restored.is_empty());
}

#[test]
fn a_rotation_that_was_cut_off_before_the_key_file_was_replaced_is_finished_too() {
    let place = Place::new();
    place.fill(3);
    let before = place.key_file();
    let store = place.open().store;
    store.rotate(PATIENCE).unwrap();
    assert!(store.close(PATIENCE));
    fs::rename(&place.settings.key, place.next_key()).unwrap();
    fs::write(&place.settings.key, &before).unwrap();
    fs::set_permissions(&place.settings.key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(place.restored(), ALL);
    assert_ne!(place.key_file(), before);
    assert!(!place.next_key().exists());
}

#[test]
fn while_the_disk_fails_both_keys_stay() {
    let place = Place::new();
    place.fill(3);
    let store = place.open().store;
    let before = facts(&store);
    // Files where the next databases would be.
    let blocked: Vec<_> = (2..8).map(|number| place.db(number)).collect();
    blocked.iter().for_each(|path| fs::write(path, "").unwrap());
    assert!(store.rotate(Duration::from_millis(500)).is_err());
    assert!(place.next_key().exists());
    // What is told of the keys is what is on disk.
    assert_eq!(facts(&store), before);
    for path in &blocked {
        let _ = fs::remove_file(path);
    }
    wait_until(|| !place.next_key().exists());
    assert!(store.close(PATIENCE));
    assert_eq!(place.restored(), ALL);
}

#[test]
fn a_store_moves_from_a_key_file_to_a_credential_and_then_needs_the_file_no_more() {
    let mut place = Place::new();
    place.fill(3);
    place.credential("foretoken.key", 1);
    let opened = place.open();
    assert_eq!(names(&opened), ALL);
    let told = facts(&opened.store);
    assert_eq!((told.older.len(), told.under_older), (1, 0));
    assert!(opened.store.close(PATIENCE));
    fs::remove_file(&place.settings.key).unwrap();
    assert_eq!(place.restored(), ALL);
    assert!(!place.settings.key.exists());
}

#[test]
fn a_credential_is_changed_with_the_old_one_beside_it() {
    let mut place = Place::new();
    place.credential("foretoken.key", 1);
    place.fill(3);
    let store = place.open().store;
    let refused = store.rotate(PATIENCE).unwrap_err().to_string();
    assert!(refused.contains("credential is made"), "{refused}");
    assert!(store.close(PATIENCE));

    place.credential("foretoken.key", 2);
    place.credential("foretoken.key.old", 1);
    let opened = place.open();
    assert_eq!(names(&opened), ALL);
    assert_eq!(facts(&opened.store).under_older, 0);
    assert!(opened.store.close(PATIENCE));
    fs::remove_file(place.dir.path().join("credentials/foretoken.key.old")).unwrap();
    assert_eq!(place.restored(), ALL);
}

#[test]
fn without_the_old_one_a_changed_credential_is_a_cold_start_that_loses_nothing() {
    let mut place = Place::new();
    place.credential("foretoken.key", 1);
    place.fill(3);
    place.credential("foretoken.key", 2);
    let opened = place.open();
    assert_eq!((opened.restored.len(), opened.refused.locked), (0, 3));
    put(&opened.store, "r9", 1);
    assert!(opened.store.settle(PATIENCE));
    assert_eq!(facts(&opened.store).locked, 3);
    assert!(opened.store.close(PATIENCE));
    assert_eq!(place.restored(), ["r9"]);
    // It was forgotten: with it, all are back.
    place.credential("foretoken.key.old", 1);
    assert_eq!(place.restored(), ["r0", "r1", "r2", "r9"]);
}

#[test]
fn a_store_that_is_carried_to_another_machine_opens_nothing_there_and_works() {
    let place = Place::new();
    place.fill(3);
    let elsewhere = Machine {
        machine_id: Fact::Known("another machine".into()),
        ..machine()
    };
    let opened = place.open_on(&elsewhere);
    assert_eq!((opened.restored.len(), opened.refused.unreadable), (0, 3));
    put(&opened.store, "r9", 1);
    assert!(opened.store.close(PATIENCE));
    assert_eq!(names(&place.open_on(&elsewhere)), ["r9"]);
}

#[test]
fn another_boot_opens_everything() {
    let place = Place::new();
    place.fill(3);
    let rebooted = Machine {
        boot_id: Fact::Known("another boot".into()),
        ..machine()
    };
    assert_eq!(names(&place.open_on(&rebooted)), ALL);
}

/// As root sees the machine.
fn as_root() -> Machine {
    Machine {
        product_uuid: Fact::Known("uuid".into()),
        ..machine()
    }
}

#[test]
fn what_another_user_may_open_is_kept_and_told() {
    let place = Place::new();
    let store = place.open_on(&as_root()).store;
    for resource in ALL {
        put(&store, resource, 1);
    }
    assert!(store.close(PATIENCE));

    let opened = place.open();
    assert_eq!((opened.restored.len(), opened.refused.locked), (0, 3));
    // What is served meanwhile takes its place; a key that they need is not given up.
    put(&opened.store, "r0", 1);
    assert!(opened.store.settle(PATIENCE));
    let report = opened.store.report(PATIENCE).unwrap();
    assert_eq!((report.stored.good, report.stored.locked), (1, 2));
    assert!(!report.is_sound());
    assert_eq!(
        report.stored.by_binding,
        [(BindingKind::MachineId, 1), (BindingKind::ProductUuid, 2)].into()
    );
    let refused = opened.store.rotate(PATIENCE).unwrap_err().to_string();
    assert!(refused.contains("2 stored tokens"), "{refused}");
    assert!(!place.next_key().exists());
    assert!(opened.store.close(PATIENCE));

    assert_eq!(names(&place.open_on(&as_root())), ALL);
}

#[test]
fn what_cannot_be_opened_is_purged_all_the_same() {
    let place = Place::new();
    let store = place.open_on(&as_root()).store;
    put(&store, "r0", 1);
    put(&store, "r1", 1);
    assert!(store.close(PATIENCE));
    let store = place.open().store;
    store.remove(&key("r0"));
    assert!(store.close(PATIENCE));
    assert_eq!(names(&place.open_on(&as_root())), ["r1"]);
}

#[test]
fn a_report_counts_every_record_by_what_becomes_of_it() {
    let place = Place::new();
    place.fill(3);
    let store = place.open().store;
    let report = store.report(PATIENCE).unwrap();
    assert!(report.is_sound());
    assert_eq!((report.held, report.waiting), (3, 0));
    assert_eq!(report.binding, BindingKind::MachineId);
    assert_eq!(report.stored.by_format, [(VERSION, 3)].into());
    let stored = &report.stored;
    assert_eq!((stored.records, stored.good), (3, 3));
    assert_eq!(
        (stored.oldest_age_s, stored.newest_age_s),
        (Some(1000), Some(1000))
    );
    assert_eq!(
        (stored.first_end_s, stored.last_end_s),
        (Some(3000), Some(3000))
    );
    assert!(stored.largest_bytes > 1000 && stored.bytes >= 3 * 1000);
    assert!(report.disk_bytes > stored.bytes);
    place.crank.advance(3_000_000);
    let report = store.report(PATIENCE).unwrap();
    assert_eq!((report.stored.good, report.stored.expired), (0, 3));
    assert!(store.close(PATIENCE));
}

#[test]
fn a_store_at_rest_is_looked_at_without_a_change_to_it() {
    let place = Place::new();
    place.fill(3);
    // Damage that a start would repair, and records that it would drop.
    fs::write(place.db(1).join("snap.1.generating"), "x").unwrap();
    let before = place.bytes();
    let report = offline::inspect(&place.settings, &machine(), NOW).unwrap();
    assert!(report.is_sound());
    assert_eq!(report.stored.good, 3);
    assert_eq!(place.bytes(), before);

    let elsewhere = Machine {
        machine_id: Fact::Known("another machine".into()),
        ..machine()
    };
    let report = offline::inspect(&place.settings, &elsewhere, NOW).unwrap();
    assert_eq!((report.stored.good, report.stored.refused), (0, 3));
    assert!(!report.is_sound());

    let key = place.key_file();
    fs::write(&place.settings.key, [9; 32]).unwrap();
    let report = offline::inspect(&place.settings, &machine(), NOW).unwrap();
    assert_eq!((report.stored.good, report.stored.other_key), (0, 3));
    assert_eq!(place.bytes(), before);
    fs::write(&place.settings.key, key).unwrap();
    assert_eq!(place.restored(), ALL);
}

#[test]
fn a_store_at_rest_is_purged_without_its_key_and_rotated_with_it() {
    let place = Place::new();
    place.fill(3);
    let before = place.key_file();
    let report = offline::rotate(&place.settings, &machine(), NOW).unwrap();
    assert_eq!(report.stored.by_key, [(report.key.id.clone(), 3)].into());
    assert_ne!(place.key_file(), before);
    assert_eq!(place.restored(), ALL);

    // Nothing is lost to a key that is missing or another one.
    let rotate = || offline::rotate(&place.settings, &machine(), NOW).unwrap_err();
    let key = place.key_file();
    fs::write(&place.settings.key, [9; 32]).unwrap();
    offline::rotate(&place.settings, &machine(), NOW).unwrap();
    fs::remove_file(&place.settings.key).unwrap();
    let refused = rotate().to_string();
    assert!(refused.starts_with("the key file ") && refused.contains("cannot be used"));
    fs::write(&place.settings.key, key).unwrap();
    fs::set_permissions(&place.settings.key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(place.restored(), ALL);

    fs::remove_file(&place.settings.key).unwrap();
    offline::purge(&place.settings).unwrap();
    assert_eq!(files(&place.settings.path).len(), 1, "the lock alone");
    assert!(place.restored().is_empty());
}

#[test]
fn a_store_that_is_in_use_or_missing_or_without_a_key_is_told_as_such() {
    let place = Place::new();
    let ask = || offline::inspect(&place.settings, &machine(), NOW).unwrap_err();
    assert!(matches!(ask(), OfflineError::Missing(path) if path == place.settings.path));
    assert!(!place.settings.path.exists());
    let store = place.open().store;
    assert!(matches!(ask(), OfflineError::InUse));
    assert!(matches!(
        offline::purge(&place.settings),
        Err(OfflineError::InUse)
    ));
    assert!(store.close(PATIENCE));
    fs::remove_file(&place.settings.key).unwrap();
    let refused = ask().to_string();
    assert!(refused.starts_with("the key file ") && refused.contains("cannot be used"));
    assert!(!place.settings.key.exists(), "looking makes no key");
}

#[test]
fn erasing_everything_takes_the_damaged_database_along() {
    let place = Place::new();
    place.fill(3);
    for path in files(&place.db(1)) {
        fs::write(path, [0x5a; 4096]).unwrap();
    }
    let store = place.open().store;
    let quarantined = store.report(PATIENCE).unwrap().quarantine;
    store.remove_all();
    assert!(store.settle(PATIENCE));
    let report = store.report(PATIENCE).unwrap();
    assert_eq!((report.quarantine, report.stored.records), (None, 0));
    assert!(!place.db(quarantined.unwrap()).exists());
    assert!(store.close(PATIENCE));
}

#[test]
fn records_of_an_older_and_a_newer_format_are_counted_dropped_and_in_nobodys_way() {
    const RECORDS: &str = include_str!("../../../tests/golden/store/records.json");
    let golden: serde_json::Value = serde_json::from_str(RECORDS).unwrap();
    let bytes = |value: &serde_json::Value| -> Vec<u8> {
        let digits = value.as_str().unwrap().as_bytes().chunks(2);
        let digits = digits.map(|pair| std::str::from_utf8(pair).unwrap());
        digits
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    };
    let place = Place::new();
    place.fill(1);
    let (db, _) = database::open(place.settings.engine, &place.db(1)).unwrap();
    for format in ["format_1", "format_3"] {
        let name = bytes(&golden[format]["name"]).try_into().unwrap();
        let sealed = bytes(&golden[format]["sealed"]);
        let name = super::super::seal::Fingerprint(name);
        db.write(vec![(name, Some(sealed.into()))], 1).unwrap();
    }
    drop(db);
    let report = offline::inspect(&place.settings, &machine(), NOW).unwrap();
    assert_eq!(
        report.stored.by_format,
        [(1, 1), (VERSION, 1), (3, 1)].into()
    );
    assert_eq!((report.stored.good, report.stored.other_format), (1, 2));

    let opened = place.open();
    assert_eq!((names(&opened).len(), opened.refused.unreadable), (1, 2));
    assert!(opened.store.settle(PATIENCE));
    let report = opened.store.report(PATIENCE).unwrap();
    assert_eq!(report.stored.by_format, [(VERSION, 1)].into());
    assert!(opened.store.close(PATIENCE));
}

#[test]
fn a_purge_that_cannot_be_written_is_not_told_as_done() {
    let place = Place::new();
    place.fill(3);
    let store = place.open().store;
    let blocked: Vec<_> = (2..8).map(|number| place.db(number)).collect();
    blocked.iter().for_each(|path| fs::write(path, "").unwrap());
    store.remove_all();
    let refused = store.report(PATIENCE).unwrap_err();
    assert!(matches!(refused, Unanswered::Degraded(_)), "{refused}");
    for path in &blocked {
        let _ = fs::remove_file(path);
    }
    assert!(store.close(PATIENCE));
    assert!(place.restored().is_empty());
}

#[test]
fn a_rotation_whose_last_step_was_done_before_is_over() {
    let place = Place::new();
    fs::create_dir(&place.settings.path).unwrap();
    let mut ring = Keyring::load(&place.settings).unwrap();
    ring.rotate(&place.settings.key).unwrap();
    // As if only making the name durable had failed.
    fs::rename(place.next_key(), &place.settings.key).unwrap();
    ring.finish().unwrap();
    assert!(!ring.is_rotating());
}

#[test]
fn what_was_purged_does_not_come_back_out_of_a_damaged_database() {
    let place = Place::new();
    place.fill(3);
    // `2 1`: the first one is set aside, readable though it is.
    copy(&place.db(1), &place.db(2));
    fs::write(place.settings.path.join("current"), "2 1\n").unwrap();
    let store = place.open().store;
    assert_eq!(store.report(PATIENCE).unwrap().quarantine, Some(1));
    let blocked: Vec<_> = (3..8).map(|number| place.db(number)).collect();
    blocked.iter().for_each(|path| fs::write(path, "").unwrap());
    store.remove_all();
    assert!(!store.close(Duration::from_secs(3)));
    for path in &blocked {
        let _ = fs::remove_file(path);
    }
    assert!(place.restored().is_empty());
}

#[test]
fn a_database_set_aside_is_never_taken_for_the_newest() {
    let place = Place::new();
    place.fill(3);
    fs::write(place.settings.path.join("current"), "9 1\n").unwrap();
    assert!(place.restored().is_empty());
}

#[test]
fn an_old_credential_alone_is_no_reason_for_a_new_key() {
    let mut place = Place::new();
    place.credential("foretoken.key", 1);
    place.fill(3);
    fs::rename(
        place.dir.path().join("credentials/foretoken.key"),
        place.dir.path().join("credentials/foretoken.key.old"),
    )
    .unwrap();
    let store = place.open().store;
    let Health::Degraded(reason) = store.health() else {
        panic!("it went on with another key");
    };
    assert!(reason.contains("the credential foretoken.key"), "{reason}");
    assert!(!store.close(PATIENCE));
    assert!(!place.settings.key.exists());
    place.credential("foretoken.key", 1);
    assert_eq!(place.restored(), ALL);
}

#[test]
fn the_key_of_a_rotation_that_was_cut_off_goes_along_to_a_credential() {
    let mut place = Place::new();
    fs::create_dir(&place.settings.path).unwrap();
    fs::write(place.next_key(), [9; 32]).unwrap();
    fs::set_permissions(place.next_key(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&place.settings.key, [8; 32]).unwrap();
    fs::set_permissions(&place.settings.key, fs::Permissions::from_mode(0o600)).unwrap();
    // Sealed under the next key, before its file took the other's place.
    place.credential("foretoken.key", 9);
    place.fill(3);
    place.credential("foretoken.key", 1);
    assert_eq!(place.restored(), ALL);
}

#[test]
fn a_rotation_takes_the_damaged_database_along() {
    let place = Place::new();
    place.fill(3);
    copy(&place.db(1), &place.db(2));
    fs::write(place.settings.path.join("current"), "2 1\n").unwrap();
    let store = place.open().store;
    let report = store.rotate(PATIENCE).unwrap();
    assert_eq!((report.stored.good, report.quarantine), (3, None));
    assert!(!place.db(1).exists());
    assert!(store.close(PATIENCE));
}

#[test]
fn a_rotation_at_rest_does_not_give_up_the_key_of_a_damaged_database() {
    let place = Place::new();
    place.fill(3);
    let key = place.key_file();
    for path in files(&place.db(1)) {
        fs::write(path, [0x5a; 4096]).unwrap();
    }
    let refused = offline::rotate(&place.settings, &machine(), NOW);
    assert!(matches!(refused, Err(OfflineError::Damaged)));
    assert_eq!(place.key_file(), key);
}

#[test]
fn a_backup_is_looked_at_where_nothing_can_be_written() {
    let place = Place::new();
    place.fill(3);
    fs::remove_file(place.settings.path.join("lock")).unwrap();
    let report = offline::inspect(&place.settings, &machine(), NOW).unwrap();
    assert_eq!(report.stored.good, 3);
    assert!(!place.settings.path.join("lock").exists());
}

#[test]
fn tokens_go_along_when_the_engine_is_changed() {
    let mut place = Place::new();
    place.fill(3);
    for engine in [Engine::Log, Engine::Sled, Engine::Log] {
        place.settings.engine = engine;
        assert_eq!(place.restored(), ALL);
        // The first write is in the new one's files.
        assert_eq!(place.restored(), ALL);
        let stored = files(&place.settings.path);
        let is_log = |path: &PathBuf| path.ends_with("records.log");
        assert_eq!(stored.iter().any(is_log), engine == Engine::Log);
    }
}

#[test]
fn nothing_of_a_removed_record_is_left_in_the_database() {
    let place = Place::new();
    place.fill(3);
    let store = place.open().store;
    wait_until(|| store.key_facts().is_some());
    let before: Vec<_> = files(&place.db(1));
    store.remove(&key("r1"));
    assert!(store.settle(PATIENCE));
    assert!(before.iter().all(|file| !file.exists()));
    assert!(store.close(PATIENCE));
    assert_eq!(place.restored(), ["r0", "r2"]);
}

#[test]
fn a_database_that_lost_records_is_damaged_though_it_opens() {
    let mut place = Place::new();
    // The log tells by its checksums.
    place.settings.engine = Engine::Sled;
    place.fill(5);
    let (db, _) = database::open(Engine::Sled, &place.db(1)).unwrap();
    let name = db.scan(usize::MAX).records[0].0;
    // As damage takes one away: what is counted is not told.
    db.write(vec![(name, None)], 5).unwrap();
    drop(db);
    let report = offline::inspect(&place.settings, &machine(), NOW).unwrap();
    assert_eq!(report.damage.as_deref(), Some("of 5 records 4 are left"));
    assert!(!report.is_sound());
    let refused = offline::rotate(&place.settings, &machine(), NOW);
    assert!(matches!(refused, Err(OfflineError::Damaged)));
    // What is left is served, and the rest is set aside for a look.
    assert_eq!(place.restored().len(), 4);
    assert!(place.db(1).is_dir() && place.db(2).is_dir());
}

#[test]
fn a_purge_reaches_what_does_not_open_now() {
    let mut place = Place::new();
    place.credential("foretoken.key", 1);
    place.fill(3);
    place.credential("foretoken.key", 2);
    let store = place.open().store;
    store.remove(&key("r1"));
    store.remove_unclaimed();
    assert!(store.close(PATIENCE));
    place.credential("foretoken.key", 1);
    assert!(place.restored().is_empty());
}
