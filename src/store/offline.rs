//! The store while no server runs: looked at in a copy, or changed in its place.
//!
//! The caller has taken the identity of the folder's owner. The folder's lock is held meanwhile,
//! so that no server starts on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Trouble};
use super::folder::{self, Folder, FolderError};
use super::keys::Keyring;
use super::machine::Machine;
use super::report::Report;
use super::{Mode, Settings};
use crate::clock::UnixMs;

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// By configuration.
    #[error("`store.mode` is \"off\"")]
    Off,
    /// Nothing was ever stored.
    #[error("there is no store at {}", .0.display())]
    Missing(PathBuf),
    /// A server runs, and it was not reached by its admin socket.
    #[error("a server uses the store, and its admin socket does not answer")]
    InUse,
    /// No copy could be made.
    #[error("the store cannot be copied: {0}")]
    Copy(io::Error),
    /// The command would drop records; a start of the server does.
    #[error("{0} stored tokens do not open with the keys that are here, and would be lost")]
    Lost(u64),
    /// The key may be needed to look at what is left of it.
    #[error("the database is damaged: a start of the server begins a new one")]
    Damaged,
    /// Whatever else is wrong with folder, key or disk.
    #[error("{0}")]
    Store(String),
}

impl From<Trouble> for OfflineError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Folder(FolderError::InUse) => Self::InUse,
            other => Self::Store(other.to_string()),
        }
    }
}

/// What is stored. Reads a copy, so that repairs and dropped records leave the store as it is.
///
/// # Errors
/// The store is in use, missing or cannot be copied, or its key cannot be read.
pub fn inspect(
    settings: &Settings,
    machine: &Machine,
    now: UnixMs,
) -> Result<Report, OfflineError> {
    exists(settings)?;
    let keys = Keyring::load_existing(settings).map_err(Trouble::from)?;
    let copy = tempfile::tempdir().map_err(OfflineError::Copy)?;
    let path = copy.path().join("store");
    let (copied, disk_bytes) = {
        let _lock = folder::lock_existing(&settings.path).map_err(Trouble::from)?;
        (
            take_copy(&settings.path, &path)?,
            folder::size_bytes(&settings.path),
        )
    };
    Ok(Report {
        disk_bytes,
        ..Disk::examine(copied, keys, settings, machine, now)?
    })
}

/// Erases every stored token. No key is needed for that.
///
/// # Errors
/// The store is in use or missing, or the disk fails.
pub fn purge(settings: &Settings) -> Result<(), OfflineError> {
    let erased = hold(settings)?.erase();
    erased.map_err(|error| OfflineError::Store(error.to_string()))
}

/// Seals everything under a new master key and gives the one before up.
///
/// # Errors
/// The store is in use or missing, its key is a credential or cannot be read, stored tokens do
/// not open and would be lost, or the disk fails.
pub fn rotate(settings: &Settings, machine: &Machine, now: UnixMs) -> Result<Report, OfflineError> {
    let folder = hold(settings)?;
    let keys = Keyring::load_existing(settings).map_err(Trouble::from)?;
    let (mut disk, loaded) = Disk::with(folder, keys, settings, machine, now, false)?;
    let lost = loaded.refused.unreadable;
    if lost > 0 {
        return Err(OfflineError::Lost(lost));
    }
    if loaded.is_damaged {
        return Err(OfflineError::Damaged);
    }
    // What an earlier rotation left is finished first.
    disk.save()?;
    disk.rotate(now)?;
    disk.save()?;
    Ok(disk.report(now))
}

/// The folder with its lock, if there is a store at all.
fn hold(settings: &Settings) -> Result<Folder, OfflineError> {
    exists(settings)?;
    Ok(Folder::open(&settings.path).map_err(Trouble::from)?)
}

fn exists(settings: &Settings) -> Result<(), OfflineError> {
    match settings.mode {
        Mode::Off => Err(OfflineError::Off),
        Mode::Sealed if !settings.path.is_dir() => {
            Err(OfflineError::Missing(settings.path.clone()))
        }
        Mode::Sealed => Ok(()),
    }
}

/// The pointer file and the database that it names.
fn take_copy(from: &Path, to: &Path) -> Result<Folder, OfflineError> {
    let copy = || {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let (name, kind) =
                entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?)))?;
            if kind.is_dir() {
                fs::create_dir(to.join(name))?;
            } else if name == "current" {
                fs::copy(from.join(&name), to.join(name))?;
            }
        }
        Ok(())
    };
    copy().map_err(OfflineError::Copy)?;
    let folder = Folder::open(to).map_err(Trouble::from)?;
    if let Some(pointer) = folder.pointer() {
        let (path, name) = (
            folder.db_path(pointer.current),
            format!("db-{}", pointer.current),
        );
        fs::remove_dir(&path)
            .and_then(|()| copy_folder(&from.join(name), &path))
            .map_err(OfflineError::Copy)?;
    }
    Ok(folder)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
