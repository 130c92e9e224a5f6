//! Where master keys come from, and how one takes the place of another.
//!
//! Owns the checks that make a file worth trusting and the order of steps in a rotation. Promises
//! that a key is read only from a regular file, judged on the descriptor that is then read, so a
//! file swapped in between gains nothing; that a key file of ours is nobody else's to read; and
//! that at whatever byte a rotation ends, every record has its key in a file.
//!
//! | where | |
//! |---|---|
//! | `$CREDENTIALS_DIRECTORY/foretoken.key` | systemd's credential, before any key file; its mode is systemd's |
//! | `$CREDENTIALS_DIRECTORY/foretoken.key.old` | the one before, while records are under it |
//! | `<key>` | the key file, made at first start; beside a credential it opens old records only |
//! | `<key>.next` | during a rotation: seals already, and becomes `<key>` once nothing is under that |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::hmac;
use rustix::fs::OFlags;

use super::Settings;
use super::folder::{replace_file, sync_folder};
use super::master::{KEY_BYTES, KeyId, MasterKey, SealError};
use super::seal::Fingerprint;

/// What the credential is called.
const CREDENTIAL: &str = "foretoken.key";
/// What the one before is called.
const OLD_CREDENTIAL: &str = "foretoken.key.old";

/// How a credential is changed; the paths are those of the documentation.
const CREDENTIAL_STEPS: &str = "\
the key is a credential: it is changed where the credential is made
0. stop at the first thing that fails:
   set -eo pipefail
1. keep the old one under another name:
   systemd-creds decrypt --name=foretoken.key /etc/credstore.encrypted/foretoken.key - |
   systemd-creds encrypt --name=foretoken.key.old - /etc/credstore.encrypted/foretoken.key.old
2. make the new one:
   head -c 32 /dev/urandom |
   systemd-creds encrypt --name=foretoken.key - /etc/credstore.encrypted/foretoken.key
3. give the unit both, and restart it:
   LoadCredentialEncrypted=foretoken.key:/etc/credstore.encrypted/foretoken.key
   LoadCredentialEncrypted=foretoken.key.old:/etc/credstore.encrypted/foretoken.key.old
4. when `foretoken status` says that the old one can go, remove its file and its line";

/// Every key that can be had: one that seals, and some that only open.
pub struct Keyring {
    source: KeySource,
    current: Key,
    older: Vec<Key>,
    /// The key file that [`finish`](Self::finish) puts the next one in the place of.
    rotating: Option<PathBuf>,
}

/// A master key, with what is asked of it all the time.
pub struct Key {
    master: MasterKey,
    id: KeyId,
    names: hmac::Key,
}

/// Where the key that seals is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// systemd's credential.
    Credential,
    /// The key file.
    File,
}

/// Why there is no master key. It degrades the store and never stops the process.
#[derive(Debug, thiserror::Error)]
#[error("{what}{path} {trouble}")]
pub struct KeyError {
    what: What,
    /// With a space before it, where it is not known by its name.
    path: String,
    /// What is wrong with it.
    pub trouble: KeyTrouble,
}

/// A file with a key.
#[derive(Debug, Clone, Copy)]
enum What {
    Credential,
    OldCredential,
    File,
    Next,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Credential => write!(f, "the credential {CREDENTIAL}"),
            Self::OldCredential => write!(f, "the credential {OLD_CREDENTIAL}"),
            Self::File => f.write_str("the key file"),
            Self::Next => f.write_str("the key file of a rotation"),
        }
    }
}

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyTrouble {
    /// A symbolic link stands where the file should.
    #[error("is a symbolic link")]
    Symlink,
    /// A folder, device, pipe or socket.
    #[error("is not a regular file")]
    NotRegular,
    /// Somebody else could replace it.
    #[error("belongs to user {0}, not to the user that runs this process")]
    Owner(u32),
    /// Group or others may read or write it.
    #[error("has the mode {0:04o}, which lets others in; it must be 0600 or 0400")]
    Mode(u32),
    /// Cut short, or no key of ours.
    #[error("holds {0} bytes instead of {KEY_BYTES}")]
    Length(u64),
    /// A copy of the store folder would carry its own key.
    #[error("lies inside the store folder")]
    InsideStore,
    /// The file could not be read or made.
    #[error("cannot be used: {0}")]
    Io(#[from] io::Error),
    /// The kernel gave no random bytes.
    #[error("cannot be made: no random bytes")]
    NoRandom(#[from] SealError),
}

/// Why a rotation was not begun.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The key is systemd's to change: how, for whoever asked.
    #[error("{CREDENTIAL_STEPS}")]
    Credential,
    /// The next key could not be made or written.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Keyring {
    /// Reads every key that there is, and makes a key file where there is none at all.
    ///
    /// # Errors
    /// The key that would seal fails a check, or cannot be read or made. Of keys that only open,
    /// bad ones are told and left out.
    pub fn load(settings: &Settings) -> Result<Self, KeyError> {
        Self::read(settings, true)
    }

    /// As [`load`](Self::load), but makes nothing.
    ///
    /// # Errors
    /// As [`load`](Self::load), or there is no key.
    pub fn load_existing(settings: &Settings) -> Result<Self, KeyError> {
        Self::read(settings, false)
    }

    fn read(settings: &Settings, may_make: bool) -> Result<Self, KeyError> {
        let found = settings.credentials.as_deref();
        let found = found.map(|folder| (folder, load(&folder.join(CREDENTIAL), What::Credential)));
        match found {
            Some((folder, Ok(current))) => {
                let mut ring = Self::of(KeySource::Credential, current);
                ring.also(load(&folder.join(OLD_CREDENTIAL), What::OldCredential))?;
                let next = settings.key.with_added_extension("next");
                ring.also(load(&next, What::Next))?;
                let found = load(&settings.key, What::File);
                if found.is_ok() {
                    tracing::warn!(
                        file = %settings.key.display(),
                        "the key is a credential, and a key file from before lies on the disk too"
                    );
                }
                ring.also(found)?;
                return Ok(ring);
            }
            // The folder may hold credentials of another use.
            Some((folder, Err(error)))
                if !error.is_missing() || folder.join(OLD_CREDENTIAL).exists() =>
            {
                return Err(error);
            }
            _ => {}
        }
        Self::of_files(settings, may_make)
    }

    fn of_files(settings: &Settings, may_make: bool) -> Result<Self, KeyError> {
        let path = &settings.key;
        if may_make {
            prepare(path, &settings.path)
                .map_err(|trouble| KeyError::of(What::File, path, trouble))?;
        }
        let next = path.with_added_extension("next");
        let following = load(&next, What::Next);
        let key = match (load(path, What::File), &following) {
            (Err(error), Err(next)) if may_make && error.is_missing() && !next.may_pass() => {
                write(path, &MasterKey::random(), What::File)?;
                // Read again: what counts is what is on disk.
                load(path, What::File)
            }
            (key, _) => key,
        };
        match (key, following) {
            (_, Err(error)) if error.may_pass() => Err(error),
            (Err(error), _) if !error.is_missing() => Err(error),
            (key, Ok(following)) => {
                let mut ring = Self::of(KeySource::File, following);
                ring.rotating = Some(path.clone());
                ring.also(key)?;
                Ok(ring)
            }
            (key, Err(error)) => {
                if !error.is_missing() {
                    tracing::warn!(%error, "a key is left out");
                }
                Ok(Self::of(KeySource::File, key?))
            }
        }
    }

    /// A ring of one key that is in no file.
    ///
    /// # Errors
    /// The kernel gave no random bytes.
    pub fn random() -> Result<Self, SealError> {
        let key = Key::new(MasterKey::random()?)?;
        Ok(Self::of(KeySource::Credential, key))
    }

    fn of(source: KeySource, current: Key) -> Self {
        Self {
            source,
            current,
            older: Vec::new(),
            rotating: None,
        }
    }

    /// One that is no key is told and left out; one that cannot be read now may be needed.
    fn also(&mut self, found: Result<Key, KeyError>) -> Result<(), KeyError> {
        match found {
            Ok(key) if self.find(key.id).is_none() => self.older.push(key),
            Err(error) if error.may_pass() => return Err(error),
            Err(error) if !error.is_missing() => tracing::warn!(%error, "a key is left out"),
            _ => {}
        }
        Ok(())
    }

    /// The key that seals.
    #[must_use]
    pub fn current(&self) -> &Key {
        &self.current
    }

    /// The key of that name.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<&Key> {
        std::iter::once(&self.current)
            .chain(&self.older)
            .find(|key| key.id == id)
    }

    /// The names of those that only open.
    pub fn older(&self) -> impl Iterator<Item = KeyId> {
        self.older.iter().map(Key::id)
    }

    /// Where the key that seals is from.
    #[must_use]
    pub fn source(&self) -> KeySource {
        self.source
    }

    /// Whether a key file waits for the next one to take its place.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.rotating.is_some()
    }

    /// Makes the next key, durably, and seals with it from now on. One that was begun before and
    /// not finished goes on.
    ///
    /// # Errors
    /// The key is no file of ours, or the next one cannot be made.
    pub fn rotate(&mut self, path: &Path) -> Result<(), RotateError> {
        if self.source == KeySource::Credential {
            return Err(RotateError::Credential);
        }
        if self.is_rotating() {
            return Ok(());
        }
        let next = path.with_added_extension("next");
        write(&next, &MasterKey::random(), What::Next)?;
        let next = load(&next, What::Next)?;
        self.older.push(std::mem::replace(&mut self.current, next));
        self.rotating = Some(path.to_owned());
        Ok(())
    }

    /// Puts the next key file in the place of the one before. To be called when no record is under
    /// that one any more; without a rotation it does nothing.
    ///
    /// # Errors
    /// The file could not be replaced, or that is not durable yet: to be called again.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some(path) = &self.rotating else {
            return Ok(());
        };
        match fs::rename(path.with_added_extension("next"), path) {
            // Done before, and what had to follow failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {}
            renamed => renamed?,
        }
        sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        self.rotating = None;
        self.older.clear();
        Ok(())
    }
}

impl Key {
    pub(super) fn new(master: MasterKey) -> Result<Self, SealError> {
        let label: &[u8] = b"foretoken store fingerprint 2";
        let names = master.expand(&[label], hmac::HMAC_SHA256, |okm| hmac::Key::from(okm))?;
        let id = master.id()?;
        Ok(Self { master, id, names })
    }

    /// What it is called.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// For key derivation.
    pub(super) fn master(&self) -> &MasterKey {
        &self.master
    }

    /// The name on disk of the token key with these canonical bytes.
    #[must_use]
    pub fn fingerprint(&self, canonical_key: &[u8]) -> Fingerprint {
        let tag = hmac::sign(&self.names, canonical_key);
        let mut name = [0; Fingerprint::BYTES];
        name.copy_from_slice(&tag.as_ref()[..Fingerprint::BYTES]);
        Fingerprint(name)
    }
}

impl KeyError {
    fn of(what: What, path: &Path, trouble: impl Into<KeyTrouble>) -> Self {
        let path = match what {
            What::Credential | What::OldCredential => String::new(),
            What::File | What::Next => format!(" {}", path.display()),
        };
        let trouble = trouble.into();
        Self {
            what,
            path,
            trouble,
        }
    }

    /// Another try may find the key.
    fn may_pass(&self) -> bool {
        matches!(self.trouble, KeyTrouble::Io(_)) && !self.is_missing()
    }

    fn is_missing(&self) -> bool {
        matches!(&self.trouble, KeyTrouble::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Makes the folder of a key file, which must not be the store's.
fn prepare(path: &Path, store: &Path) -> Result<(), KeyTrouble> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)?;
    if parent.canonicalize()?.starts_with(store.canonicalize()?) {
        return Err(KeyTrouble::InsideStore);
    }
    Ok(())
}

fn write(path: &Path, key: &Result<MasterKey, SealError>, what: What) -> Result<(), KeyError> {
    let key = key
        .as_ref()
        .map_err(|error| KeyError::of(what, path, *error))?;
    replace_file(path, key.expose()).map_err(|error| KeyError::of(what, path, error))
}

fn load(path: &Path, what: What) -> Result<Key, KeyError> {
    let read = || {
        let mut file = open(path)?;
        check(&file, what)?;
        Ok(Key::new(MasterKey::read(&mut file)?)?)
    };
    read().map_err(|trouble: KeyTrouble| KeyError::of(what, path, trouble))
}

fn open(path: &Path) -> Result<File, KeyTrouble> {
    // Without NONBLOCK, opening a pipe would wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => KeyTrouble::Symlink,
            _ => KeyTrouble::Io(error),
        })
}

fn check(file: &File, what: What) -> Result<(), KeyTrouble> {
    let facts = file.metadata()?;
    let mode = facts.mode() & 0o7777;
    // systemd's folder is closed to others, and its files belong to whom it likes.
    let ours = matches!(what, What::File | What::Next);
    if !facts.is_file() {
        Err(KeyTrouble::NotRegular)
    } else if ours && facts.uid() != rustix::process::geteuid().as_raw() {
        Err(KeyTrouble::Owner(facts.uid()))
    } else if ours && mode & 0o077 != 0 {
        Err(KeyTrouble::Mode(mode))
    } else if facts.len() != KEY_BYTES as u64 {
        Err(KeyTrouble::Length(facts.len()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
