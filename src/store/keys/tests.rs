use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::store::{Engine, Mode};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        Self { dir }
    }

    fn settings(&self, key: &str, credentials: Option<&str>) -> Settings {
        Settings {
            mode: Mode::Sealed,
            engine: Engine::Sled,
            path: self.dir.path().join("store"),
            key: self.dir.path().join(key),
            credentials: credentials.map(|name| self.dir.path().join(name)),
        }
    }

    fn load(&self, name: &str) -> Result<Keyring, KeyTrouble> {
        Keyring::load(&self.settings(name, None)).map_err(|error| error.trouble)
    }

    fn file(&self, name: &str, bytes: &[u8], mode: u32) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn exists(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }
}

fn id_of(byte: u8) -> KeyId {
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("key");
    fs::write(&path, [byte; KEY_BYTES]).unwrap();
    load(&path, What::Credential).unwrap().id()
}

#[test]
fn the_first_start_makes_a_private_key_and_the_second_reads_it() {
    let place = Place::new();
    let first = place.load("key").unwrap();
    let second = place.load("key").unwrap();
    assert_eq!(first.current().id(), second.current().id());
    let facts = fs::metadata(place.dir.path().join("key")).unwrap();
    assert_eq!(facts.mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 2);
}

#[test]
fn a_symbolic_link_is_refused() {
    let place = Place::new();
    place.file("real", &[7; KEY_BYTES], 0o600);
    symlink(place.dir.path().join("real"), place.dir.path().join("key")).unwrap();
    assert!(matches!(place.load("key"), Err(KeyTrouble::Symlink)));
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let place = Place::new();
    for mode in [0o640, 0o604, 0o660, 0o601] {
        place.file("key", &[7; KEY_BYTES], mode);
        assert!(matches!(place.load("key"), Err(KeyTrouble::Mode(m)) if m == mode));
    }
}

#[test]
fn a_key_of_another_length_is_refused() {
    let place = Place::new();
    for len in [0, KEY_BYTES - 1, KEY_BYTES + 1] {
        place.file("key", &vec![7; len], 0o600);
        assert!(matches!(place.load("key"), Err(KeyTrouble::Length(l)) if l == len as u64));
    }
}

#[test]
fn a_folder_in_the_key_s_place_is_refused() {
    let place = Place::new();
    fs::create_dir(place.dir.path().join("key")).unwrap();
    assert!(matches!(place.load("key"), Err(KeyTrouble::NotRegular)));
}

#[test]
fn a_key_inside_the_store_folder_is_refused() {
    let place = Place::new();
    for name in ["store/key", "store/../store/deeper/key"] {
        assert!(matches!(place.load(name), Err(KeyTrouble::InsideStore)));
    }
}

#[test]
fn a_file_that_is_swapped_all_the_time_is_never_taken_for_a_good_one() {
    let place = Place::new();
    place.file("loose", &[7; KEY_BYTES], 0o644);
    place.file("short", &[7; 5], 0o600);
    place.file("good", &[8; KEY_BYTES], 0o600);
    let path = place.dir.path().join("key");
    let good = id_of(8);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let names = ["loose", "short", "good"];
            for (turn, name) in names.iter().cycle().enumerate() {
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let link = place.dir.path().join("link");
                if turn % 2 == 0 {
                    symlink(place.dir.path().join(name), &link).unwrap();
                } else {
                    fs::hard_link(place.dir.path().join(name), &link).unwrap();
                }
                fs::rename(&link, &path).unwrap();
                // Renaming a link over another one of the same file leaves both.
                let _ = fs::remove_file(&link);
            }
        });
        for _ in 0..5_000 {
            if let Ok(key) = load(&path, What::File) {
                assert_eq!(key.id(), good);
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_credential_goes_before_the_key_file_whatever_its_mode_and_makes_none() {
    let place = Place::new();
    place.file("credentials/foretoken.key", &[1; KEY_BYTES], 0o444);
    let ring = Keyring::load(&place.settings("key", Some("credentials"))).unwrap();
    assert_eq!(ring.source(), KeySource::Credential);
    assert_eq!(ring.current().id(), id_of(1));
    assert_eq!(ring.older().count(), 0);
    assert!(!place.exists("key"));
}

#[test]
fn the_old_credential_and_a_key_file_from_before_open_and_do_not_seal() {
    let place = Place::new();
    place.file("credentials/foretoken.key", &[1; KEY_BYTES], 0o400);
    place.file("credentials/foretoken.key.old", &[2; KEY_BYTES], 0o400);
    place.file("key", &[3; KEY_BYTES], 0o600);
    let ring = Keyring::load(&place.settings("key", Some("credentials"))).unwrap();
    assert_eq!(ring.current().id(), id_of(1));
    assert_eq!(ring.older().collect::<Vec<_>>(), [id_of(2), id_of(3)]);
}

#[test]
fn a_bad_credential_is_an_error_and_no_reason_for_another_key() {
    let place = Place::new();
    place.file("credentials/foretoken.key", &[1; 5], 0o400);
    place.file("key", &[3; KEY_BYTES], 0o600);
    let error = Keyring::load(&place.settings("key", Some("credentials"))).err();
    assert_eq!(
        error.unwrap().to_string(),
        "the credential foretoken.key holds 5 bytes instead of 32"
    );
}

#[test]
fn credentials_of_another_use_leave_the_key_file() {
    let place = Place::new();
    place.file("credentials/other", b"x", 0o400);
    let ring = Keyring::load(&place.settings("key", Some("credentials"))).unwrap();
    assert_eq!(ring.source(), KeySource::File);
    assert!(place.exists("key"));
}

#[test]
fn a_rotation_has_both_keys_in_files_until_it_is_finished() {
    let place = Place::new();
    let path = place.dir.path().join("key");
    let mut ring = place.load("key").unwrap();
    let before = ring.current().id();
    ring.rotate(&path).unwrap();
    let after = ring.current().id();
    assert_ne!(before, after);
    // As a crash here would find it.
    let found = place.load("key").unwrap();
    assert!(found.is_rotating());
    assert_eq!(found.current().id(), after);
    assert_eq!(found.older().collect::<Vec<_>>(), [before]);
    // One that was begun is not begun again.
    ring.rotate(&path).unwrap();
    assert_eq!(ring.current().id(), after);

    ring.finish().unwrap();
    assert!(ring.find(before).is_none());
    let found = place.load("key").unwrap();
    assert!(!found.is_rotating() && !place.exists("key.next"));
    assert_eq!(found.current().id(), after);
    assert_eq!(found.older().count(), 0);
}

#[test]
fn a_next_key_that_is_no_key_is_left_out() {
    let place = Place::new();
    let before = place.load("key").unwrap().current().id();
    place.file("key.next", &[1; 5], 0o600);
    let mut ring = place.load("key").unwrap();
    assert_eq!(ring.current().id(), before);
    assert!(!ring.is_rotating());
    ring.rotate(&place.dir.path().join("key")).unwrap();
    ring.finish().unwrap();
    assert_ne!(place.load("key").unwrap().current().id(), before);
}

#[test]
fn a_next_key_alone_is_the_key() {
    let place = Place::new();
    place.file("key.next", &[4; KEY_BYTES], 0o600);
    let mut ring = place.load("key").unwrap();
    assert_eq!(ring.current().id(), id_of(4));
    ring.finish().unwrap();
    assert_eq!(place.load("key").unwrap().current().id(), id_of(4));
}

#[test]
fn a_credential_is_not_ours_to_rotate() {
    let place = Place::new();
    place.file("credentials/foretoken.key", &[1; KEY_BYTES], 0o400);
    let mut ring = Keyring::load(&place.settings("key", Some("credentials"))).unwrap();
    let refused = ring.rotate(&place.dir.path().join("key"));
    assert!(matches!(refused, Err(RotateError::Credential)));
    assert!(!place.exists("key.next"));
}
