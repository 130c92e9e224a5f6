//! What a database of the store is: fingerprint → sealed bytes, on disk under one number.
//!
//! Owns the way of calling one: every call runs on a thread of its own, its panics end there, and
//! nobody waits for it longer than a deadline. Two engines are behind it, [`db`] and [`log`], and
//! this is the only place that chooses; whichever it is, the seal would tell a wrong value.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::seal::Fingerprint;
use super::{Engine, db, log};

/// A disk that takes 5 s for a flush still keeps what it is given.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Calls that were given up and may never return; each has a thread and a database. With so many
/// of them no further one is made until one returns.
const MAX_GIVEN_UP: usize = 4;
static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);

/// What to write: a record's sealed bytes, or `None` where it goes.
pub type Change = (Fingerprint, Option<Arc<[u8]>>);

/// An open database, and what was wrong with it if it had to be repaired.
pub type Opened = (Box<dyn Database>, Option<DbError>);

/// An open database. Dropping closes it, in time or not at all.
pub trait Database: Send {
    /// Reads records until the end, an error, or `limit`. It is an error if nothing is left of a
    /// database that was written to.
    fn scan(&self, limit: usize) -> Scan;

    /// Writes or removes records and returns once they are on disk. `total` is how many there are
    /// then: fewer found by a later scan are damage.
    ///
    /// # Errors
    /// The disk. The database takes no more writes after that: discard it.
    fn write(&self, changes: Vec<Change>, total: usize) -> Result<(), DbError>;

    /// The bytes that its files take.
    fn size_bytes(&self) -> u64;

    /// Lets go of a database that failed, without waiting for it.
    fn discard(self: Box<Self>);
}

/// Opens or makes the database in the folder `path`, and repairs it if that loses nothing; what a
/// repair brought back, a [`scan`](Database::scan) tells.
///
/// # Errors
/// The disk, or damage beyond such a repair.
pub fn open(engine: Engine, path: &Path) -> Result<Opened, DbError> {
    match engine {
        Engine::Sled => db::open(path),
        Engine::Log => log::open(path),
    }
}

/// The engine whose files are there.
#[must_use]
pub fn engine_of(path: &Path) -> Engine {
    if path.join(log::NAME).exists() {
        Engine::Log
    } else {
        Engine::Sled
    }
}

/// What went wrong inside the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The disk said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its files are not as it left them.
    #[error("{0}")]
    Damaged(String),
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
    /// The records that were read, in no order.
    pub records: Vec<(Fingerprint, Arc<[u8]>)>,
    /// Set if there may be more.
    pub cut_short: Option<DbError>,
}

impl From<Result<Scan, DbError>> for Scan {
    fn from(scan: Result<Scan, DbError>) -> Self {
        scan.unwrap_or_else(|error| Scan {
            records: Vec::new(),
            cut_short: Some(error),
        })
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
        match self {
            Self::NoThread(_) | Self::Closed => Blame::None,
            Self::Stuck => Blame::Doubtful,
            Self::Io(error) => of_errno(error.raw_os_error()),
            Self::Damaged(_) | Self::Panicked | Self::Lost => Blame::Damage,
        }
    }
}

fn of_errno(errno: Option<i32>) -> Blame {
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

/// Asks the database something, unless too many calls hang in it already.
pub(super) fn ask<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, DbError> + Send + 'static,
) -> Result<T, DbError> {
    if GIVEN_UP.load(Ordering::Relaxed) >= MAX_GIVEN_UP {
        return Err(DbError::Stuck);
    }
    within(DEADLINE, call)
}

/// Runs a call on a thread of its own, and gives up waiting for it after the deadline.
pub(super) fn within<T: Send + 'static>(
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
pub(super) fn guard<T>(f: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
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
        let io = |errno: Errno| DbError::Io(errno.into());
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
            (DbError::Damaged(String::new()), Blame::Damage),
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
