//! The only file that names sled 0.34.
//!
//! Owns one numbered database: fingerprint → sealed bytes. Promises that sled's panics end here,
//! that nobody waits for it longer than a deadline (a panic of its own threads can leave a flush
//! waiting for ever), and that its known damage is repaired before giving up. Measured: `open` panics on most
//! truncated files; a left-over `snap.*.generating`, a damaged snapshot or a damaged `conf` stops
//! it, and without these files it opens with every record; after one failed write all later ones fail until it is
//! opened anew; a scan may stop early with an error; where all bytes of its log are overwritten it
//! opens, empty and without a word, so a mark in each database tells that from one that is empty.
//! It never returned a wrong value, and if it did the seal would tell.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::seal::Fingerprint;

const CACHE_BYTES: u64 = 8 << 20;

/// Stands in every database that was written to. No fingerprint is as short.
const MARK: &[u8] = b"mark";

/// A process that is just ending may hold sled's own lock a moment longer than ours.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A disk that takes 5 s for a flush still keeps what it is given.
const DEADLINE: Duration = Duration::from_secs(10);
/// Calls that were given up and may never return; each has a thread and a database. With so many
/// of them no further one is made until one returns.
const MAX_GIVEN_UP: usize = 4;
static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);

/// What to write: a record's sealed bytes, or `None` where it goes.
pub type Change = (Fingerprint, Option<Arc<[u8]>>);

/// An open database. Dropping closes it, in time or not at all.
pub struct Db(Option<sled::Db>);

/// What went wrong inside the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// It said so.
    #[error("{0}")]
    Failed(#[from] sled::Error),
    /// It was closed.
    #[error("the database is closed")]
    Closed,
    /// It panicked.
    #[error("the database panicked")]
    Panicked,
    /// It took longer than the deadline.
    #[error("the database did not answer in time")]
    Stuck,
    /// The system has no more threads.
    #[error("no thread for the database: {0}")]
    NoThread(io::Error),
    /// It opens, and nothing that was ever written is in it.
    #[error("nothing of what it held is left")]
    Lost,
}

/// What a scan read before it ended, and why it ended early if it did.
pub struct Scan {
    /// The records that were read, in the order of their fingerprints.
    pub records: Vec<(Fingerprint, Arc<[u8]>)>,
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
            // Somebody may still be at these files, or nobody has looked at them yet.
            Err(error) if error.blame() != Blame::Damage => return Err(error),
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
        let db = self.0.clone();
        let scan = ask(move || {
            let mut records = Vec::new();
            let ended = guard(|| read(&db.ok_or(DbError::Closed)?, &mut records, limit));
            Ok(Scan {
                records,
                cut_short: ended.err(),
            })
        });
        scan.unwrap_or_else(|error| Scan {
            records: Vec::new(),
            cut_short: Some(error),
        })
    }

    /// Writes (or, for `None`, removes) records and returns once they are on disk.
    ///
    /// # Errors
    /// The disk. The database takes no more writes after that: discard it.
    pub fn write(&self, changes: impl Iterator<Item = Change>) -> Result<(), DbError> {
        let (db, changes) = (self.0.clone(), changes.collect::<Vec<_>>());
        ask(move || {
            let db = db.ok_or(DbError::Closed)?;
            if !db.contains_key(MARK)? {
                db.insert(MARK, &[])?;
            }
            for (name, sealed) in changes {
                match sealed {
                    Some(sealed) => db.insert(name.0, &*sealed)?,
                    None => db.remove(name.0)?,
                };
            }
            db.flush()?;
            Ok(())
        })
    }

    /// The bytes that its files take.
    pub fn size_bytes(&self) -> u64 {
        let db = self.0.clone();
        ask(move || Ok(db.ok_or(DbError::Closed)?.size_on_disk()?)).unwrap_or(0)
    }

    /// Lets go of a database that failed, without waiting for it.
    pub fn discard(mut self) {
        self.let_go(Duration::ZERO);
    }

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

/// What an error says about the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nothing: a full or read-only disk, no descriptors, no threads.
    None,
    /// Perhaps nothing: no answer in time, or an error of the disk.
    Doubtful,
    /// They are damaged.
    Damage,
}

impl DbError {
    /// What it says about the files.
    pub fn blame(&self) -> Blame {
        let errno = match self {
            Self::NoThread(_) | Self::Closed => return Blame::None,
            Self::Stuck => return Blame::Doubtful,
            Self::Failed(sled::Error::Io(error)) => error.raw_os_error(),
            Self::Failed(_) | Self::Panicked | Self::Lost => None,
        };
        match errno.map(Errno::from_raw_os_error) {
            Some(
                Errno::NOSPC
                | Errno::DQUOT
                | Errno::ROFS
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::ACCESS
                | Errno::PERM,
            ) => Blame::None,
            Some(Errno::IO) => Blame::Doubtful,
            _ => Blame::Damage,
        }
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
    let mut found = 0;
    for record in db.iter() {
        let (name, sealed) = record?;
        found += 1;
        // A name of another length is the mark, or none of ours; the next rewrite leaves that
        // behind.
        if let Ok(name) = <[u8; Fingerprint::BYTES]>::try_from(&*name) {
            records.push((Fingerprint(name), Arc::from(&*sealed)));
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

/// Asks the database something, unless too many calls hang in it already.
fn ask<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, DbError> + Send + 'static,
) -> Result<T, DbError> {
    if GIVEN_UP.load(Ordering::Relaxed) >= MAX_GIVEN_UP {
        return Err(DbError::Stuck);
    }
    within(DEADLINE, call)
}

/// Runs a call on a thread of its own, and gives up waiting for it after the deadline.
fn within<T: Send + 'static>(
    deadline: Duration,
    call: impl FnOnce() -> Result<T, DbError> + Send + 'static,
) -> Result<T, DbError> {
    let (sender, result) = sync_channel(1);
    // Whichever of the two comes second finds what the first has left.
    let (over, given_up) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let ends = (Arc::clone(&over), Arc::clone(&given_up));
    let thread = thread::Builder::new().name("store-db".into());
    let spawned = thread.spawn(move || {
        // Also after a panic while dropping what nobody waits for any more.
        let _end = End(ends);
        let _ = sender.send(guard(call));
    });
    spawned.map_err(DbError::NoThread)?;
    match result.recv_timeout(deadline) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => Err(DbError::Panicked),
        Err(RecvTimeoutError::Timeout) => {
            GIVEN_UP.fetch_add(1, Ordering::Relaxed);
            given_up.store(true, Ordering::SeqCst);
            if over.load(Ordering::SeqCst) && given_up.swap(false, Ordering::SeqCst) {
                GIVEN_UP.fetch_sub(1, Ordering::Relaxed);
            }
            Err(DbError::Stuck)
        }
    }
}

/// Says that a call is over.
struct End((Arc<AtomicBool>, Arc<AtomicBool>));

impl Drop for End {
    fn drop(&mut self) {
        let (over, given_up) = &self.0;
        over.store(true, Ordering::SeqCst);
        if given_up.swap(false, Ordering::SeqCst) {
            GIVEN_UP.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The database is discarded after a panic, so what a panic left half done is not seen.
fn guard<T>(f: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(Err(DbError::Panicked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_given_up_and_a_late_end_counts_for_the_next_one() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let hang = within::<()>(Duration::from_millis(20), move || {
            let _ = wait.recv();
            Ok(())
        });
        assert!(matches!(hang, Err(DbError::Stuck)));
        assert!(GIVEN_UP.load(Ordering::SeqCst) > 0);
        drop(go);
        for _ in 0..1000 {
            if GIVEN_UP.load(Ordering::SeqCst) == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it stays counted");
    }

    #[test]
    fn a_panic_on_the_threads_own_is_an_error_of_the_call() {
        let result = within::<()>(DEADLINE, || panic!("as sled does"));
        assert!(matches!(result, Err(DbError::Panicked)));
    }

    #[test]
    fn a_full_disk_or_no_answer_in_time_is_not_taken_for_damage() {
        let io = |errno: Errno| DbError::Failed(sled::Error::Io(errno.into()));
        for (error, blame) in [
            (io(Errno::NOSPC), Blame::None),
            (io(Errno::ROFS), Blame::None),
            (io(Errno::MFILE), Blame::None),
            (DbError::NoThread(Errno::AGAIN.into()), Blame::None),
            (DbError::Stuck, Blame::Doubtful),
            (io(Errno::IO), Blame::Doubtful),
            (io(Errno::ISDIR), Blame::Damage),
            (DbError::Panicked, Blame::Damage),
            (DbError::Lost, Blame::Damage),
        ] {
            assert_eq!(error.blame(), blame, "{error}");
        }
    }

    #[test]
    fn a_panic_of_the_database_becomes_an_error() {
        let result = guard::<()>(|| panic!("as sled does"));
        assert!(matches!(result, Err(DbError::Panicked)));
    }
}
