//! The room as its users see it: what survives a restart, and what damage costs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use super::machine::Fact;
use super::*;
use crate::clock::Crank;
use crate::token::{Identity, Lifetime, Resource, Secret};

mod damage;
mod growth;
mod keys;

pub(super) fn key(resource: &str) -> TokenKey {
    TokenKey {
        upstream: "imds http://169.254.169.254".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(resource.as_bytes()).unwrap(),
        capabilities: Vec::new(),
        extras: Vec::new(),
        client: None,
    }
}

pub(super) fn token(secret: &str) -> AccessToken {
    AccessToken {
        secret: Secret::new(secret.into()),
        lifetime: Lifetime {
            received_at: UnixMs(1_000_000),
            expires_on_s: 5_000,
            not_before_s: None,
            refresh_in_s: None,
        },
        client_id: None,
    }
}

/// Some machine, always the same one.
pub(super) fn machine() -> Machine {
    let known = |words: &str| Fact::Known(words.into());
    Machine {
        product_uuid: Fact::Forbidden,
        machine_id: known("this machine"),
        boot_id: known("this boot"),
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Place {
    dir: tempfile::TempDir,
    pub(super) settings: Settings,
    clock: Clock,
    crank: Crank,
}

/// `FORETOKEN_STORE_ENGINE=log` plays the tests with the other one.
fn engine() -> Engine {
    match std::env::var("FORETOKEN_STORE_ENGINE").as_deref() {
        Ok("log") => Engine::Log,
        _ => Engine::Sled,
    }
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, crank) = Clock::cranked(UnixMs(2_000_000));
        Self {
            settings: Settings {
                mode: Mode::Sealed,
                engine: engine(),
                path: dir.path().join("store"),
                key: dir.path().join("key"),
                credentials: None,
            },
            dir,
            clock,
            crank,
        }
    }

    fn open(&self) -> Opened {
        Store::open(&self.settings, &machine(), &self.clock).unwrap()
    }

    /// Stores `count` records called `r0`, `r1` … with the generation as in the name, plus one.
    pub(super) fn fill(&self, count: u64) {
        let store = self.open().store;
        for i in 0..count {
            put(&store, &format!("r{i}"), i + 1);
        }
        assert!(store.close(PATIENCE));
    }

    /// Opens, checks that every restored record is right, closes; gives the restored resources.
    pub(super) fn restored(&self) -> Vec<String> {
        let opened = self.open();
        assert_eq!(opened.store.health(), Health::Ok);
        let names = names(&opened);
        assert!(opened.store.close(PATIENCE));
        names
    }

    /// The file that holds the records.
    pub(super) fn records(&self, number: u64) -> PathBuf {
        self.db(number).join(match self.settings.engine {
            Engine::Sled => "db",
            Engine::Log => "records.log",
        })
    }

    pub(super) fn db(&self, number: u64) -> PathBuf {
        self.settings.path.join(format!("db-{number}"))
    }
}

/// As long as a short token.
pub(super) fn secret_of(resource: &str) -> String {
    format!("secret of {resource} ").repeat(80)
}

fn put(store: &Store, resource: &str, generation: u64) {
    let token = Arc::new(token(&secret_of(resource)));
    store.put(&key(resource), &token, generation, UnixMs(generation));
}

fn names(opened: &Opened) -> Vec<String> {
    let mut names: Vec<_> = opened
        .restored
        .iter()
        .map(|restored| {
            let resource = restored.key.resource.as_str();
            let secret = restored.token.secret.expose();
            assert!(secret == secret_of(resource).as_bytes());
            resource.to_owned()
        })
        .collect();
    names.sort();
    names
}

fn generation_of(opened: &Opened, resource: &str) -> u64 {
    let mut restored = opened.restored.iter();
    let found = restored.find(|restored| restored.key == key(resource));
    found.unwrap().generation
}

fn wait_until(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain");
}

/// The folder as a kill at this moment would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn many_records_that_are_opened_side_by_side_keep_their_keys_and_generations() {
    let place = Place::new();
    place.fill(700);
    let opened = place.open();
    let all: Vec<_> = (0..700).map(|i| format!("r{i}")).collect();
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(names(&opened), sorted);
    for (name, generation) in all.iter().zip(1..) {
        assert_eq!(generation_of(&opened, name), generation, "{name}");
    }
    assert!(opened.store.close(PATIENCE));
}

#[test]
fn stored_tokens_survive_a_restart_with_all_their_facts() {
    let place = Place::new();
    place.fill(3);
    let opened = place.open();
    assert_eq!(names(&opened), ["r0", "r1", "r2"]);
    let r2 = opened.restored.iter().find(|r| r.key == key("r2")).unwrap();
    assert_eq!((r2.generation, r2.last_used), (3, UnixMs(3)));
    assert_eq!(r2.token.lifetime, token("x").lifetime);
    assert_eq!(opened.refused, Refused::default());
    assert_eq!(opened.store.health(), Health::Ok);
}

#[test]
fn a_later_generation_replaces_an_earlier_one_and_not_the_reverse() {
    let place = Place::new();
    place.fill(1);
    for generation in [5, 4] {
        let store = place.open().store;
        put(&store, "r0", generation);
        assert!(store.close(PATIENCE));
    }
    assert_eq!(place.open().restored[0].generation, 5);
}

#[test]
fn the_last_of_put_and_remove_decides() {
    let place = Place::new();
    place.fill(2);
    let store = place.open().store;
    put(&store, "r0", 9);
    store.remove(&key("r0"));
    store.remove(&key("r1"));
    put(&store, "r1", 1);
    assert!(store.close(PATIENCE));
    assert_eq!(place.restored(), ["r1"]);
}

#[test]
fn a_removal_is_on_disk_without_a_close() {
    let place = Place::new();
    place.fill(2);
    let store = place.open().store;
    store.remove(&key("r0"));
    let image = Place::new();
    wait_until(|| {
        let _ = fs::remove_dir_all(image.dir.path().join("store"));
        copy(place.dir.path(), image.dir.path());
        image.restored() == ["r1"]
    });
}

#[test]
fn a_kill_keeps_what_was_flushed() {
    let place = Place::new();
    place.fill(0);
    let store = place.open().store;
    put(&store, "a", 1);
    let image = Place::new();
    wait_until(|| {
        let _ = fs::remove_dir_all(image.dir.path().join("store"));
        copy(place.dir.path(), image.dir.path());
        image.restored() == ["a"]
    });
}

#[test]
fn a_second_instance_is_refused_until_the_first_closes() {
    let place = Place::new();
    let first = place.open().store;
    let Err(OpenError::InUse { path }) = Store::open(&place.settings, &machine(), &place.clock)
    else {
        panic!("opened twice");
    };
    assert_eq!(path, place.settings.path);
    assert!(first.close(PATIENCE));
    place.restored();
}

#[test]
fn a_store_that_is_off_keeps_nothing_and_touches_no_disk() {
    let mut place = Place::new();
    place.settings.mode = Mode::Off;
    let opened = place.open();
    put(&opened.store, "a", 1);
    opened.store.remove(&key("a"));
    assert_eq!(opened.store.health(), Health::Off);
    assert!(opened.store.close(PATIENCE));
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 0);
}

#[test]
fn expired_records_are_dropped_counted_and_erased() {
    let place = Place::new();
    place.fill(2);
    // For two days it may be the clock that is wrong.
    place.crank.set(UnixMs(5_000_000 + 2 * 86_400_000 - 1));
    let opened = place.open();
    assert_eq!(
        (opened.restored.len(), opened.refused),
        (2, Refused::default())
    );
    assert!(opened.store.close(PATIENCE));
    place.crank.advance(1);
    let opened = place.open();
    let refused = Refused {
        expired: 2,
        ..Refused::default()
    };
    assert_eq!((opened.restored.len(), opened.refused), (0, refused));
    assert!(opened.store.close(PATIENCE));
    assert_eq!(place.open().refused, Refused::default());
}

#[test]
fn under_another_master_key_the_store_starts_empty_and_works() {
    let place = Place::new();
    place.fill(2);
    let key = fs::read(&place.settings.key).unwrap();
    fs::remove_file(&place.settings.key).unwrap();
    let opened = place.open();
    assert_eq!((opened.restored.len(), opened.refused.locked), (0, 2));
    put(&opened.store, "new", 1);
    assert!(opened.store.close(PATIENCE));
    assert_eq!(place.restored(), ["new"]);
    // It was a slip: with the right key they are all back.
    fs::write(&place.settings.key, key).unwrap();
    assert_eq!(place.restored(), ["r0", "r1"]);
}

#[test]
fn no_file_names_a_token_a_resource_or_an_identity() {
    let place = Place::new();
    let store = place.open().store;
    let mut named = key("https://canary-resource.example");
    named.identity = Identity::ClientId("canary-identity".into());
    let token = Arc::new(token("canary-secret"));
    store.put(&named, &token, 1, UnixMs(1));
    assert!(store.close(PATIENCE));
    let fingerprinted = files(place.dir.path());
    assert!(fingerprinted.len() >= 4);
    for file in fingerprinted {
        let bytes = fs::read(&file).unwrap();
        for text in ["canary", "example", "169.254"] {
            assert!(!holds(&bytes, text), "{text} in {}", file.display());
        }
    }
}

#[test]
fn a_folder_that_cannot_be_made_degrades_the_store_and_it_recovers() {
    let mut place = Place::new();
    let file = place.dir.path().join("file");
    fs::write(&file, "").unwrap();
    place.settings.path = file.join("store");
    let opened = place.open();
    assert!(matches!(opened.store.health(), Health::Degraded(_)));
    put(&opened.store, "a", 1);
    fs::remove_file(&file).unwrap();
    wait_until(|| opened.store.health() == Health::Ok);
    assert!(opened.store.close(PATIENCE));
    assert_eq!(place.restored(), ["a"]);
}

#[test]
fn closing_a_store_that_never_worked_is_prompt_and_admits_it() {
    let mut place = Place::new();
    place.settings.path = PathBuf::from("/proc/foretoken");
    let store = place.open().store;
    put(&store, "a", 1);
    assert!(!store.close(PATIENCE));
}

#[test]
fn a_refused_key_file_degrades_the_store_with_the_reason() {
    let place = Place::new();
    fs::write(&place.settings.key, [7; 31]).unwrap();
    let loose = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&place.settings.key, loose).unwrap();
    let reason = |health| match health {
        Health::Degraded(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(place.open().store.health()).contains("0644"));
}

#[test]
fn after_a_late_recovery_a_first_generation_replaces_what_was_stored() {
    let place = Place::new();
    place.fill(3);
    let away = place.dir.path().join("away");
    fs::rename(&place.settings.key, &away).unwrap();
    fs::create_dir(&place.settings.key).unwrap();
    let opened = place.open();
    assert!(opened.restored.is_empty());
    put(&opened.store, "r2", 1);
    fs::remove_dir(&place.settings.key).unwrap();
    fs::rename(&away, &place.settings.key).unwrap();
    wait_until(|| opened.store.health() == Health::Ok);
    assert!(opened.store.close(PATIENCE));
    assert_eq!(generation_of(&place.open(), "r2"), 1);
}

#[test]
fn what_was_loaded_too_late_for_anybody_to_know_of_is_purged_all_the_same() {
    type Purge = fn(&Store);
    let purges: [(Purge, &[&str]); 2] = [
        (Store::remove_all, &[]),
        (Store::remove_unclaimed, &["known"]),
    ];
    for (purge, left) in purges {
        let place = Place::new();
        place.fill(3);
        let away = place.dir.path().join("away");
        fs::rename(&place.settings.key, &away).unwrap();
        fs::create_dir(&place.settings.key).unwrap();
        let opened = place.open();
        put(&opened.store, "known", 1);
        fs::remove_dir(&place.settings.key).unwrap();
        fs::rename(&away, &place.settings.key).unwrap();
        wait_until(|| opened.store.health() == Health::Ok);
        purge(&opened.store);
        assert!(opened.store.settle(PATIENCE));
        assert!(opened.store.close(PATIENCE));
        assert_eq!(place.restored(), left);
    }
}

#[test]
fn settling_says_no_while_the_disk_cannot_be_written() {
    let place = Place::new();
    fs::create_dir(&place.settings.key).unwrap();
    let opened = place.open();
    put(&opened.store, "a", 1);
    assert!(!opened.store.settle(Duration::from_millis(50)));
}

#[test]
fn a_left_over_or_damaged_snapshot_costs_no_record() {
    let mut place = Place::new();
    place.settings.engine = Engine::Sled;
    place.fill(20);
    let snapshot = |place: &Place| {
        let mut files = files(&place.db(1)).into_iter();
        files
            .find(|f| {
                f.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("snap.")
            })
            .unwrap()
    };
    fs::write(place.db(1).join("snap.00000000000FFFFF.generating"), "half").unwrap();
    assert_eq!(place.restored().len(), 20);
    fs::write(snapshot(&place), "").unwrap();
    assert_eq!(place.restored().len(), 20);
    let mut bytes = fs::read(snapshot(&place)).unwrap();
    bytes[3] ^= 1;
    fs::write(snapshot(&place), bytes).unwrap();
    assert_eq!(place.restored().len(), 20);
    let conf = place.db(1).join("conf");
    fs::remove_file(&conf).unwrap();
    fs::create_dir(&conf).unwrap();
    assert_eq!(place.restored().len(), 20);
    assert!(place.db(1).is_dir() && !place.db(2).exists());
}

#[test]
fn a_lost_pointer_costs_no_record() {
    let place = Place::new();
    place.fill(5);
    for pointer in [None, Some("garbage")] {
        let _ = fs::remove_file(place.settings.path.join("current"));
        if let Some(text) = pointer {
            fs::write(place.settings.path.join("current"), text).unwrap();
        }
        assert_eq!(place.restored().len(), 5);
    }
}

#[test]
fn damage_beyond_repair_is_quarantined_once_and_the_store_starts_empty() {
    let place = Place::new();
    place.fill(5);
    for number in 1..=3 {
        let file = place.records(number);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(place.restored().len(), 0);
        place.fill(5);
        assert!(place.db(number).is_dir() && place.db(number + 1).is_dir());
        assert!(number == 1 || !place.db(number - 1).exists());
    }
    assert_eq!(place.restored().len(), 5);
}

/// A purge leaves an empty database, and so, to the eye, does an overwritten one.
#[test]
fn a_database_without_a_byte_of_its_own_is_damaged_and_one_without_a_token_is_not() {
    for junk in [0x00, 0xa5, 0xff] {
        for spared in ["", "snap.", "conf"] {
            let place = Place::new();
            place.fill(20);
            for file in files(&place.db(1)) {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let length = fs::metadata(&file).unwrap().len();
                if spared.is_empty() || !name.starts_with(spared) {
                    fs::write(&file, vec![junk; length.try_into().unwrap()]).unwrap();
                }
            }
            place.fill(5);
            let said = format!("{junk:#x}, all but {spared:?}");
            assert!(place.db(1).is_dir() && place.db(2).is_dir(), "{said}");
            assert_eq!(place.restored().len(), 5, "{said}");
        }
    }
    let place = Place::new();
    place.fill(5);
    let store = place.open().store;
    store.remove_all();
    assert!(store.close(PATIENCE));
    place.fill(0);
    assert!(place.restored().is_empty());
    assert!(place.db(2).is_dir() && !place.db(3).exists());
}

/// The usual result is a panic inside the database, in `open` or later.
#[test]
fn whatever_is_cut_off_a_long_log_the_store_starts_and_works() {
    let original = Place::new();
    // The restart in between leaves a snapshot that points past the cuts.
    original.fill(1500);
    original.fill(1500);
    for eighths in 1..8 {
        let place = Place::new();
        copy(original.dir.path(), place.dir.path());
        let log = fs::File::options().write(true).open(place.records(1));
        let log = log.unwrap();
        log.set_len(log.metadata().unwrap().len() * eighths / 8)
            .unwrap();
        let opened = place.open();
        names(&opened);
        put(&opened.store, "new", 2000);
        assert!(opened.store.close(PATIENCE), "{eighths}/8");
        assert!(place.restored().contains(&"new".into()), "{eighths}/8");
    }
}

#[test]
fn a_disk_that_answers_late_degrades_the_start_and_recovers() {
    let place = Place::new();
    place.fill(3);
    let (handle, loaded) =
        worker::start(&place.settings, &machine(), &place.clock, Duration::ZERO).unwrap();
    assert!(loaded.restored.is_empty());
    let store = Store(Some(Arc::new(handle)));
    assert!(matches!(store.health(), Health::Degraded(_)));
    wait_until(|| store.health() == Health::Ok);
    put(&store, "r2", 1);
    assert!(store.close(PATIENCE));
    assert_eq!(generation_of(&place.open(), "r2"), 1);
}
