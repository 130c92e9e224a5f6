//! The master key and its file.
//!
//! Owns the checks that make the file worth trusting. Promises that the key is read only from a
//! regular file of ours that nobody else can read, judged on the descriptor that is then read, so
//! a file swapped in between gains nothing; and that the key is wiped when dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::folder::replace_file;

/// Length of the master key.
pub const KEY_BYTES: usize = 32;

/// The key that all sealing keys are derived from. Never printed or copied; wiped when dropped.
pub struct MasterKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

/// Why there is no master key. All of them degrade the store; none stops the process.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A symbolic link stands where the file should.
    #[error("the key file is a symbolic link")]
    Symlink,
    /// A folder, device, pipe or socket.
    #[error("the key file is not a regular file")]
    NotRegular,
    /// Somebody else could replace it.
    #[error("the key file belongs to user {0}, not to the user that runs this process")]
    Owner(u32),
    /// Group or others may read or write it.
    #[error("the key file's mode {0:04o} lets others in; it must be 0600 or 0400")]
    Mode(u32),
    /// Cut short, or no key of ours.
    #[error("the key file holds {0} bytes instead of {KEY_BYTES}")]
    Length(u64),
    /// A copy of the store folder would carry its own key.
    #[error("the key file lies inside the store folder")]
    InsideStore,
    /// The file could not be read or made.
    #[error("the key file cannot be used: {0}")]
    Io(#[from] io::Error),
    /// The kernel gave no random bytes.
    #[error("no random bytes")]
    NoRandom,
}

impl MasterKey {
    /// Reads the key file, or makes it at first start.
    ///
    /// # Errors
    /// The file fails a check, lies inside the existing folder `store`, or cannot be read or made.
    pub fn load_or_create(path: &Path, store: &Path) -> Result<Self, KeyError> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)?;
        if parent.canonicalize()?.starts_with(store.canonicalize()?) {
            return Err(KeyError::InsideStore);
        }
        match Self::load(path) {
            Err(KeyError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::random()?;
                replace_file(path, key.expose())?;
                // Read again: what counts is what is on disk.
                Self::load(path)
            }
            result => result,
        }
    }

    /// A fresh key that is in no file.
    ///
    /// # Errors
    /// The kernel gave no random bytes.
    pub fn random() -> Result<Self, KeyError> {
        let mut key = Self(Box::new(Zeroizing::new([0; KEY_BYTES])));
        SystemRandom::new()
            .fill(&mut key.0[..])
            .map_err(|_| KeyError::NoRandom)?;
        Ok(key)
    }

    /// The bytes, for key derivation and the key file.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0[..]
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        // Without NONBLOCK, opening a pipe would wait for a writer.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => KeyError::Symlink,
                _ => KeyError::Io(error),
            })?;
        check(&file)?;
        let mut key = Self(Box::new(Zeroizing::new([0; KEY_BYTES])));
        file.read_exact(&mut key.0[..])?;
        Ok(key)
    }
}

fn check(file: &File) -> Result<(), KeyError> {
    let facts = file.metadata()?;
    let mode = facts.mode() & 0o7777;
    if !facts.is_file() {
        Err(KeyError::NotRegular)
    } else if facts.uid() != rustix::process::geteuid().as_raw() {
        Err(KeyError::Owner(facts.uid()))
    } else if mode & 0o077 != 0 {
        Err(KeyError::Mode(mode))
    } else if facts.len() != KEY_BYTES as u64 {
        Err(KeyError::Length(facts.len()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("store")).unwrap();
            Self { dir }
        }

        fn load(&self, name: &str) -> Result<MasterKey, KeyError> {
            MasterKey::load_or_create(&self.dir.path().join(name), &self.dir.path().join("store"))
        }

        fn file(&self, name: &str, bytes: &[u8], mode: u32) {
            let path = self.dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn the_first_start_makes_a_private_key_and_the_second_reads_it() {
        let place = Place::new();
        let first = place.load("key").unwrap();
        let second = place.load("key").unwrap();
        assert_eq!(first.expose(), second.expose());
        assert_ne!(first.expose(), [0; KEY_BYTES]);
        let facts = fs::metadata(place.dir.path().join("key")).unwrap();
        assert_eq!(facts.mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let place = Place::new();
        place.file("real", &[7; KEY_BYTES], 0o600);
        symlink(place.dir.path().join("real"), place.dir.path().join("key")).unwrap();
        assert!(matches!(place.load("key"), Err(KeyError::Symlink)));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let place = Place::new();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            place.file("key", &[7; KEY_BYTES], mode);
            assert!(matches!(place.load("key"), Err(KeyError::Mode(m)) if m == mode));
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let place = Place::new();
        for len in [0, KEY_BYTES - 1, KEY_BYTES + 1] {
            place.file("key", &vec![7; len], 0o600);
            assert!(matches!(place.load("key"), Err(KeyError::Length(l)) if l == len as u64));
        }
    }

    #[test]
    fn a_folder_in_the_key_s_place_is_refused() {
        let place = Place::new();
        fs::create_dir(place.dir.path().join("key")).unwrap();
        assert!(matches!(place.load("key"), Err(KeyError::NotRegular)));
    }

    #[test]
    fn a_key_inside_the_store_folder_is_refused() {
        let place = Place::new();
        assert!(matches!(
            place.load("store/key"),
            Err(KeyError::InsideStore)
        ));
        assert!(matches!(
            place.load("store/../store/deeper/key"),
            Err(KeyError::InsideStore)
        ));
    }
}
