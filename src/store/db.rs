//! The only file that names sled 0.34.
//!
//! Promises that its known damage is repaired before giving up. Measured: `open` panics on most
//! truncated files; a left-over `snap.*.generating`, a damaged snapshot or a damaged `conf` stops
//! it, and without these files it opens with every record; after one failed write all later ones
//! fail until it is opened anew; a panic on its own threads can leave a flush waiting for ever; a
//! scan may stop early with an error; where all bytes of its log are overwritten it opens, empty
//! and without a word, so a mark in each database tells that from one that is empty. It never
//! returned a wrong value.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::database::{
    Blame, Change, DEADLINE, Database, DbError, Opened, Scan, ask, guard, within,
};
use super::seal::Fingerprint;

/// It is read once, at the start: what it keeps in memory serves only to write beside it.
const CACHE_BYTES: u64 = 1 << 20;
/// sled looks at what it keeps once in 64 uses of a 256th of its pages, and before that keeps all: so
/// each record that is written is looked at so often.
const USES_PER_WRITE: usize = 3;

/// Stands in every database that was written to, with how many records there are at least. No
/// fingerprint is as short.
const MARK: &[u8] = b"mark";

/// A process that is just ending may hold sled's own lock a moment longer than ours.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

struct Db(Option<sled::Db>);

impl From<sled::Error> for DbError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// Opens or makes a database, and repairs it if that takes no more than removing the files that
/// sled makes again by itself.
///
/// # Errors
/// The disk, or damage beyond this repair.
pub fn open(path: &Path) -> Result<Opened, DbError> {
    remove_files(path, |name| name.ends_with(".generating"));
    let first = match open_patiently(path) {
        Ok(db) => return Ok((Box::new(db), None)),
        // Somebody may still be at these files, or nobody has looked at them yet.
        Err(error) if error.blame() != Blame::Damage => return Err(error),
        Err(error) => error,
    };
    // `conf` holds the format's parameters, which are the same for every database of ours.
    if remove_files(path, |name| name.starts_with("snap.") || name == "conf") == 0 {
        return Err(first);
    }
    Ok((Box::new(open_patiently(path)?), Some(first)))
}

impl Database for Db {
    fn scan(&self, limit: usize) -> Scan {
        let db = self.0.clone();
        Scan::from(ask(move || {
            let mut records = Vec::new();
            let ended = guard(|| read(&db.ok_or(DbError::Closed)?, &mut records, limit));
            Ok(Scan {
                records,
                cut_short: ended.err(),
            })
        }))
    }

    fn write(&self, changes: Vec<Change>, total: usize) -> Result<(), DbError> {
        let db = self.0.clone();
        ask(move || {
            let db = db.ok_or(DbError::Closed)?;
            // A kill in between leaves at least as many.
            let puts = changes.iter().filter(|(_, sealed)| sealed.is_some());
            let certain = total.saturating_sub(puts.count()) as u64;
            db.insert(MARK, &certain.to_be_bytes())?;
            for (name, sealed) in changes {
                match sealed {
                    Some(sealed) => db.insert(name.0, &*sealed)?,
                    None => db.remove(name.0)?,
                };
                for _ in 0..USES_PER_WRITE {
                    db.contains_key(name.0)?;
                }
            }
            db.insert(MARK, &(total as u64).to_be_bytes())?;
            db.flush()?;
            Ok(())
        })
    }

    fn size_bytes(&self) -> u64 {
        let db = self.0.clone();
        ask(move || Ok(db.ok_or(DbError::Closed)?.size_on_disk()?)).unwrap_or(0)
    }

    fn discard(mut self: Box<Self>) {
        self.let_go(Duration::ZERO);
    }
}

impl Db {
    /// Dropping sled's own flushes, and may panic or hang; there is nobody left to tell.
    fn let_go(&mut self, deadline: Duration) {
        if let Some(db) = self.0.take() {
            let _ = within(deadline, move || {
                drop(db);
                Ok(())
            });
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.let_go(DEADLINE);
    }
}

fn open_patiently(path: &Path) -> Result<Db, DbError> {
    let mut tries = 1;
    loop {
        match open_once(path) {
            Err(DbError::Io(error)) if tries < LOCK_TRIES && is_lock_error(&error) => {
                tries += 1;
                thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

fn open_once(path: &Path) -> Result<Db, DbError> {
    let path = PathBuf::from(path);
    ask(move || {
        let db = sled::Config::new()
            .path(path)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        Ok(Db(Some(db)))
    })
}

/// What is read before an error counts.
fn read(
    db: &sled::Db,
    records: &mut Vec<(Fingerprint, Arc<[u8]>)>,
    limit: usize,
) -> Result<(), DbError> {
    let mut marked = None;
    for record in db.iter() {
        let (name, sealed) = record?;
        // A name of another length is the mark, or none of ours; the next rewrite leaves that
        // behind.
        if let Ok(name) = <[u8; Fingerprint::BYTES]>::try_from(&*name) {
            records.push((Fingerprint(name), Arc::from(&*sealed)));
        } else if &*name == MARK {
            marked = Some(<[u8; 8]>::try_from(&*sealed).map_or(0, u64::from_be_bytes));
        }
        if records.len() >= limit {
            return Ok(());
        }
    }
    let found = records.len() as u64;
    match marked {
        None if found == 0 => Err(DbError::Lost),
        Some(marked) if found < marked => {
            let text = format!("of {marked} records {found} are left");
            Err(DbError::Damaged(text))
        }
        _ => Ok(()),
    }
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
        .filter(|file| {
            let path = file.path();
            // A folder in its place stops the database as well.
            let removed = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            removed.is_ok()
        })
        .count()
}
