//! Sealed tokens on disk, so that a restart during an outage is a non-event.
//!
//! Owns the store folder, the master key file and one thread that does all their input and output.
//! Promises that nothing outside this room waits for a disk, that whatever is wrong with the
//! files the process still starts, that a record opens only as the key, generation and format it
//! was sealed for, and that no token, resource or identity is on disk in clear. Leaves to others
//! when to write (`refresh`) and whether a restored token may still be served (`cache`).
//!
//! The store is a cache of a cache: losing it costs a cold start and nothing else. Files:
//!
//! | path | bytes |
//! |---|---|
//! | `<key>` | 32 random bytes, mode 0600 |
//! | `<path>/lock` | empty; flocked for the life of the process |
//! | `<path>/current` | `N\n`, or `N Q\n`: database `N` is in use, `Q` is kept as quarantine |
//! | `<path>/db-N/` | sled: 16-byte fingerprint → sealed record |
//!
//! A sealed record (version 1; integers are big-endian):
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 1 | format version |
//! | 1 | 32 | salt of the start that sealed it |
//! | 33 | 8 | generation |
//! | 41 | 12 | nonce |
//! | 53 | n | record ([`record`]), encrypted |
//! | 53 + n | 16 | tag over the record, version, fingerprint and generation |
//!
//! A removed record does not come back, but its sealed bytes may stay in the database's log until
//! the space is reused, and in a quarantined database: readable by nobody without the key file.

mod db;
mod disk;
mod folder;
pub mod keys;
mod queue;
pub mod record;
pub mod seal;
mod settings;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, UnixMs};
use crate::token::{AccessToken, TokenKey};

pub use settings::{Mode, Settings};

// sled panics on damaged files: without unwinding they would become a crash loop.
#[cfg(not(panic = "unwind"))]
compile_error!("the store catches panics of its database: build with panic = \"unwind\"");

/// How long a start waits for the disk before it goes on without stored tokens. A healthy folder
/// answers within 100 ms.
const OPEN_WAIT: Duration = Duration::from_secs(5);

/// A token that an earlier run stored.
pub struct Restored {
    /// What it is for.
    pub key: TokenKey,
    /// The token. By the clock at start it may be over, by two days at most.
    pub token: Arc<AccessToken>,
    /// Its generation; later ones must be at least as high to replace it.
    pub generation: u64,
    /// When it was last served, as far as the last write knew.
    pub last_used: UnixMs,
}

/// What [`Store::open`] found.
pub struct Opened {
    /// The store, ready to be written to.
    pub store: Store,
    /// Every record that opened, in no order.
    pub restored: Vec<Restored>,
    /// The records that did not.
    pub refused: Refused,
}

/// Stored records that were dropped and erased at start, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// Past their end.
    pub expired: u64,
    /// Damaged, swapped, of another format, or sealed under another master key.
    pub unreadable: u64,
}

/// The one reason not to start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder's lock: the operator started a second instance.
    #[error("another instance uses the store folder {}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// Whether tokens survive a restart at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// They do.
    Ok,
    /// They do not, by configuration.
    Off,
    /// They do not, for this reason; the store keeps trying.
    Degraded(String),
}

/// A handle to the store thread. Cheap to clone; dropping the last one without
/// [`close`](Self::close) lets the thread finish on its own.
#[derive(Clone)]
pub struct Store(Option<Arc<worker::Handle>>);

impl Store {
    /// Opens the folder, makes what is missing, and reads every record. Blocks for at most 5 s;
    /// called once, before anything is served.
    ///
    /// Whatever else is wrong (unwritable folder, refused key file, damage beyond repair, a disk
    /// that hangs) gives a degraded store, which recovers by itself once the cause is gone.
    ///
    /// # Errors
    /// Another instance uses the folder.
    pub fn open(settings: &Settings, clock: &Clock) -> Result<Opened, OpenError> {
        let (store, loaded) = match settings.mode {
            Mode::Off => (Self(None), disk::Loaded::default()),
            Mode::Sealed => {
                let (handle, loaded) = worker::start(settings, clock, OPEN_WAIT)?;
                (Self(Some(Arc::new(handle))), loaded)
            }
        };
        Ok(Opened {
            store,
            restored: loaded.restored,
            refused: loaded.refused,
        })
    }

    /// Queues a token to be sealed and written within about a second. Never waits for the disk.
    /// Of several generations queued for one key the newest is written.
    pub fn put(
        &self,
        key: &TokenKey,
        token: &Arc<AccessToken>,
        generation: u64,
        last_used: UnixMs,
    ) {
        if let Some(worker) = &self.0 {
            let put = queue::Put {
                token: Arc::clone(token),
                generation,
                last_used,
            };
            worker.queue(|queue| queue.put(key, put));
        }
    }

    /// Queues the removal of a key's stored token; it is carried out at once, not coalesced for a
    /// second. A `put` before it is undone, a `put` after it stands, whatever its generation.
    pub fn remove(&self, key: &TokenKey) {
        if let Some(worker) = &self.0 {
            worker.queue(|queue| queue.remove(key));
        }
    }

    /// Queues the removal of everything stored, also of records that were loaded too late for
    /// anybody to know of them. What is put afterwards stands.
    pub fn remove_all(&self) {
        if let Some(worker) = &self.0 {
            worker.queue(queue::Queue::remove_all);
        }
    }

    /// Queues the removal of records that were loaded too late for anybody to know of them, and
    /// that therefore no [`remove`](Self::remove) can name.
    pub fn remove_unclaimed(&self) {
        if let Some(worker) = &self.0 {
            worker.queue(queue::Queue::remove_unclaimed);
        }
    }

    /// Waits until everything queued so far is on disk, at most `deadline`; false if it is not.
    #[must_use]
    pub fn settle(&self, deadline: Duration) -> bool {
        self.0.as_ref().is_none_or(|worker| worker.settle(deadline))
    }

    /// Whether tokens survive a restart at the moment.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0
            .as_ref()
            .map_or(Health::Off, |worker| worker.health())
    }

    /// Writes what is queued, stops the thread and gives the folder up. Waits at most `deadline`.
    /// True if all of it is on disk. Later calls of other methods change nothing.
    #[must_use]
    pub fn close(&self, deadline: Duration) -> bool {
        self.0.as_ref().is_none_or(|worker| worker.close(deadline))
    }
}

#[cfg(test)]
mod tests;
