//! The store folder: who may use it, and which numbered database in it counts.
//!
//! Owns the lock file, the pointer file `current` and the names of the sub-folders. Promises that
//! one process at a time holds the folder, that the pointer changes whole or not at all, and that
//! a number is never given to a second database while this process lives: a database that is stuck
//! is left behind, not waited for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How many names in the folder are looked at; a tidy folder has five.
const MAX_NAMES: usize = 1024;
/// Left-over databases removed per sweep, so that a heap of them does not hold up a start.
const MAX_SWEPT: usize = 64;
/// Two numbers, a space and a line feed.
const MAX_POINTER_BYTES: u64 = 32;

/// The folder, held by this process.
pub struct Folder {
    path: PathBuf,
    /// Higher than every number that was ever seen or used.
    next: u64,
    /// The flock lives as long as this descriptor.
    _lock: File,
}

/// What the pointer file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// The database in use.
    pub current: u64,
    /// A damaged one, kept for whoever wants to look.
    pub quarantine: Option<u64>,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process holds the lock.
    #[error("another instance uses the store folder")]
    InUse,
    /// Somebody else could change what is in it.
    #[error("the store folder belongs to user {0}, not to the user that runs this process")]
    Owner(u32),
    /// Group or others may write.
    #[error("the store folder's mode {0:04o} lets others write")]
    Mode(u32),
    /// It could not be made, read or locked.
    #[error("the store folder cannot be used: {0}")]
    Io(#[from] io::Error),
}

impl Folder {
    /// Makes the folder (0700) if it is missing, checks whose it is, and takes the lock.
    ///
    /// # Errors
    /// The folder is in use, open to others, or cannot be made or locked.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let facts = fs::metadata(path)?;
        let mode = facts.mode() & 0o7777;
        if facts.uid() != rustix::process::geteuid().as_raw() {
            return Err(FolderError::Owner(facts.uid()));
        }
        if mode & 0o022 != 0 {
            return Err(FolderError::Mode(mode));
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path.join("lock"))?;
        hold(&lock)?;
        let mut folder = Self {
            path: path.to_owned(),
            next: 1,
            _lock: lock,
        };
        let highest = folder.numbers()?.into_iter().max().unwrap_or(0);
        let pointed = folder.read_pointer().map_or(0, |pointer| pointer.current);
        folder.next = highest.max(pointed) + 1;
        Ok(folder)
    }

    /// Which database to use: the newest one where the pointer file is unreadable or names none;
    /// `None` at first start.
    pub fn pointer(&self) -> Option<Pointer> {
        let named = self.read_pointer();
        named
            .filter(|pointer| self.db_path(pointer.current).is_dir())
            .or_else(|| {
                // Never the one that was set aside: what was purged since may be in it.
                let aside = named.and_then(|pointer| pointer.quarantine);
                let numbers = self.numbers().ok()?.into_iter();
                Some(Pointer {
                    current: numbers.filter(|&n| Some(n) != aside).max()?,
                    quarantine: aside,
                })
            })
    }

    /// Makes `pointer` the truth, durably, and removes the databases that it does not name.
    ///
    /// # Errors
    /// The pointer file could not be replaced. Databases that resist removal are left for later.
    pub fn point_at(&self, pointer: Pointer) -> io::Result<()> {
        let text = match pointer.quarantine {
            Some(kept) => format!("{} {kept}\n", pointer.current),
            None => format!("{}\n", pointer.current),
        };
        replace_file(&self.path.join("current"), text.as_bytes())?;
        self.sweep(pointer);
        Ok(())
    }

    /// Removes the databases that `pointer` does not name.
    pub fn sweep(&self, pointer: Pointer) {
        let strays = self.numbers().unwrap_or_default().into_iter();
        strays
            .filter(|&n| n != pointer.current && Some(n) != pointer.quarantine)
            .take(MAX_SWEPT)
            .for_each(|n| self.remove_db(n));
    }

    /// A number that no database has had.
    pub fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Where a database lives.
    pub fn db_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("db-{number}"))
    }

    /// Removes every database, for good.
    ///
    /// # Errors
    /// One of them, or the pointer, could not be removed.
    pub fn erase(&self) -> io::Result<()> {
        for number in self.numbers()? {
            fs::remove_dir_all(self.db_path(number))?;
        }
        match fs::remove_file(self.path.join("current")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_folder(&self.path),
        }
    }

    /// What everything in the folder takes on disk, as far as it can be read.
    pub fn size_bytes(&self) -> u64 {
        size_bytes(&self.path)
    }

    /// Removes a database's files, as far as they can be removed.
    pub fn remove_db(&self, number: u64) {
        if let Err(error) = fs::remove_dir_all(self.db_path(number))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(number, %error, "an unused store database could not be removed");
        }
    }

    fn read_pointer(&self) -> Option<Pointer> {
        let mut text = String::new();
        let file = File::open(self.path.join("current")).ok()?;
        file.take(MAX_POINTER_BYTES)
            .read_to_string(&mut text)
            .ok()?;
        let mut numbers = text.strip_suffix('\n')?.split(' ').map(parse_number);
        let pointer = Pointer {
            current: numbers.next()??,
            quarantine: match numbers.next() {
                Some(number) => Some(number?),
                None => None,
            },
        };
        numbers.next().is_none().then_some(pointer)
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let names = fs::read_dir(&self.path)?.take(MAX_NAMES).flatten();
        Ok(names
            .filter_map(|entry| parse_number(entry.file_name().to_str()?.strip_prefix("db-")?))
            .collect())
    }
}

/// What everything in a folder takes on disk, as far as it can be read.
pub fn size_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let facts = entry.metadata().ok()?;
            let below = if facts.is_dir() {
                size_bytes(&entry.path())
            } else {
                0
            };
            Some(below + facts.blocks() * 512)
        })
        .sum()
}

/// The lock of a folder that is only looked at: it may be read-only, and is not changed. `None`
/// where no process ever took it.
///
/// # Errors
/// Another process holds it, or it cannot be opened.
pub fn lock_existing(path: &Path) -> Result<Option<File>, FolderError> {
    let lock = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path.join("lock"));
    match lock {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        lock => {
            let lock = lock?;
            hold(&lock)?;
            Ok(Some(lock))
        }
    }
}

fn hold(lock: &File) -> Result<(), FolderError> {
    flock(lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        Errno::WOULDBLOCK => FolderError::InUse,
        other => FolderError::Io(other.into()),
    })
}

/// 32 bits, so that counting on from what a damaged file says never overflows.
fn parse_number(text: &str) -> Option<u64> {
    text.parse::<u32>().ok().map(u64::from)
}

/// Writes a private file (0600) that is there whole after a crash, or not at all.
///
/// # Errors
/// Any step failed. The file at `path` is then as it was before or whole; if only the last step
/// failed, to make its name durable, it is the new one.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("new");
    let written = write_new(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(path.parent().unwrap_or(Path::new("."))));
    if written.is_err() {
        // Best effort: the next try removes it first, too.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_holder_is_turned_away_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let first = Folder::open(&path).unwrap();
        assert!(matches!(Folder::open(&path), Err(FolderError::InUse)));
        drop(first);
        assert!(Folder::open(&path).is_ok());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(
            Folder::open(dir.path()),
            Err(FolderError::Mode(0o770))
        ));
    }

    #[test]
    fn the_pointer_keeps_its_databases_and_sweeps_the_others() {
        let dir = tempfile::tempdir().unwrap();
        for n in 1..=4 {
            fs::create_dir(dir.path().join(format!("db-{n}"))).unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap();
        let pointer = Pointer {
            current: 3,
            quarantine: Some(2),
        };
        folder.point_at(pointer).unwrap();
        assert_eq!(folder.pointer(), Some(pointer));
        let mut left = folder.numbers().unwrap();
        left.sort_unstable();
        assert_eq!(left, [2, 3]);
    }

    #[test]
    fn a_damaged_pointer_falls_back_to_the_newest_database() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("db-7")).unwrap();
        for bad in [
            "",
            "x\n",
            "7",
            "7 \n",
            "1 2 3\n",
            "6\n",
            "99999999999\n",
            "-1\n",
        ] {
            fs::write(dir.path().join("current"), bad).unwrap();
            let mut folder = Folder::open(dir.path()).unwrap();
            assert_eq!(folder.pointer().unwrap().current, 7, "{bad:?}");
            assert_eq!(folder.take_number(), 8);
        }
    }

    #[test]
    fn a_number_is_used_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(dir.path()).unwrap();
        assert_eq!(folder.pointer(), None);
        assert_eq!((folder.take_number(), folder.take_number()), (1, 2));
    }
}
