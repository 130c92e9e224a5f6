//! The only file that names sled 0.34.
//!
//! Owns one numbered database: fingerprint → sealed bytes. Promises that sled's panics end here
//! and that its known damage is repaired before giving up. Measured: `open` panics on most
//! truncated files; a left-over `snap.*.generating`, a damaged snapshot or a damaged `conf` stops
//! it, and without these files it opens with every record; after one failed write all later ones fail until it is
//! opened anew; a scan may stop early with an error; where all bytes of its log are overwritten it
//! opens, empty and without a word, so a mark in each database tells that from one that is empty.
//! It never returned a wrong value, and if it did the seal would tell.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::seal::Fingerprint;

const CACHE_BYTES: u64 = 8 << 20;

/// Stands in every database that was written to. No fingerprint is as short.
const MARK: &[u8] = b"mark";

/// A process that is just ending may hold sled's own lock a moment longer than ours.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// An open database.
pub struct Db(sled::Db);

/// What went wrong inside the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// It said so.
    #[error("{0}")]
    Failed(#[from] sled::Error),
    /// It panicked.
    #[error("the database panicked")]
    Panicked,
    /// It opens, and nothing that was ever written is in it.
    #[error("nothing of what it held is left")]
    Lost,
}

/// What a scan read before it ended, and why it ended early if it did.
pub struct Scan {
    /// The records that were read, in the order of their fingerprints.
    pub records: Vec<(Fingerprint, Box<[u8]>)>,
    /// Set if there may be more.
    pub cut_short: Option<DbError>,
}

impl Db {
    /// Opens or makes the database, and repairs it if that takes no more than removing the files
    /// that it makes again by itself; says what was wrong then. What the repair brought back, a
    /// [`scan`](Self::scan) tells.
    ///
    /// # Errors
    /// The disk, or damage beyond this repair.
    pub fn open(path: &Path) -> Result<(Self, Option<DbError>), DbError> {
        remove_files(path, |name| name.ends_with(".generating"));
        let first = match open_patiently(path) {
            Ok(db) => return Ok((db, None)),
            Err(error) => error,
        };
        // `conf` holds the format's parameters, which are the same for every database of ours.
        if remove_files(path, |name| name.starts_with("snap.") || name == "conf") == 0 {
            return Err(first);
        }
        Ok((open_patiently(path)?, Some(first)))
    }

    /// Reads records until the end, an error, or `limit`. It is an error if not even the mark of a
    /// database that was written to is there.
    pub fn scan(&self, limit: usize) -> Scan {
        let mut records = Vec::new();
        let ended = guard(|| {
            let mut found = 0;
            for record in self.0.iter() {
                let (name, sealed) = record?;
                found += 1;
                // A name of another length is the mark, or none of ours; the next rewrite leaves
                // that behind.
                if let Ok(name) = <[u8; Fingerprint::BYTES]>::try_from(&*name) {
                    records.push((Fingerprint(name), Box::from(&*sealed)));
                }
                if records.len() >= limit {
                    break;
                }
            }
            if found == 0 {
                Err(DbError::Lost)
            } else {
                Ok(())
            }
        });
        Scan {
            records,
            cut_short: ended.err(),
        }
    }

    /// Writes (or, for `None`, removes) records and returns once they are on disk.
    ///
    /// # Errors
    /// The disk. The database takes no more writes after that: discard it.
    pub fn write<'a>(
        &self,
        changes: impl Iterator<Item = (Fingerprint, Option<&'a [u8]>)>,
    ) -> Result<(), DbError> {
        guard(|| {
            if !self.0.contains_key(MARK)? {
                self.0.insert(MARK, &[])?;
            }
            for (name, sealed) in changes {
                match sealed {
                    Some(sealed) => self.0.insert(name.0, sealed)?,
                    None => self.0.remove(name.0)?,
                };
            }
            self.0.flush()?;
            Ok(())
        })
    }

    /// The bytes that its files take.
    pub fn size_bytes(&self) -> u64 {
        guard(|| Ok(self.0.size_on_disk()?)).unwrap_or(0)
    }

    /// Closes the database.
    pub fn close(self) {
        // Dropping flushes and may panic; there is nobody left to tell.
        let _ = guard(|| {
            drop(self.0);
            Ok(())
        });
    }

    /// Lets go of a database that failed, without waiting for it.
    pub fn discard(self) {
        // If no thread can be had, the closure is dropped here, and the database with it.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            thread::Builder::new()
                .name("store-discard".into())
                .spawn(|| self.close())
        }));
    }
}

fn open_patiently(path: &Path) -> Result<Db, DbError> {
    let mut tries = 1;
    loop {
        match open_once(path) {
            Err(DbError::Failed(sled::Error::Io(error)))
                if tries < LOCK_TRIES && is_lock_error(&error) =>
            {
                tries += 1;
                thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

fn open_once(path: &Path) -> Result<Db, DbError> {
    guard(|| {
        let db = sled::Config::new()
            .path(path)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        Ok(Db(db))
    })
}

/// sled marks it by this text alone.
fn is_lock_error(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Removes the files whose names are `unwanted`; gives their number.
fn remove_files(path: &Path, unwanted: impl Fn(&str) -> bool) -> usize {
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    files
        .filter(|file| unwanted(&file.file_name().to_string_lossy()))
        .filter(|file| fs::remove_file(file.path()).is_ok())
        .count()
}

/// The database is discarded after a panic, so what a panic left half done is not seen.
fn guard<T>(f: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(Err(DbError::Panicked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_database_becomes_an_error() {
        let result = guard::<()>(|| panic!("as sled does"));
        assert!(matches!(result, Err(DbError::Panicked)));
    }
}
