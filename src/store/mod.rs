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
//! | `<key>` | 32 random bytes, mode 0600; a credential may take its place ([`keys`]) |
//! | `<path>/lock` | empty; flocked for the life of the process |
//! | `<path>/current` | `N\n`, or `N Q\n`: database `N` is in use, `Q` is kept as quarantine |
//! | `<path>/db-N/` | 16-byte fingerprint → sealed record: sled's files, or one log ([`log`]) |
//!
//! A sealed record (version 2; integers are big-endian):
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 1 | format version |
//! | 1 | 1 | what of the machine it is bound to ([`machine`]) |
//! | 2 | 8 | name of its master key |
//! | 10 | 32 | salt of the start that sealed it |
//! | 42 | 8 | generation |
//! | 50 | 12 | nonce |
//! | 62 | n | record ([`record`]), encrypted |
//! | 62 + n | 16 | tag over the record, version, name of the master key, fingerprint and generation |
//!
//! The sealing key is derived from the master key, the salt and the machine's binding.
//!
//! A removal writes the database anew, so that nothing of the record is left in it; a quarantined
//! database keeps its bytes until the next one: readable by nobody without the key.

mod database;
mod db;
mod disk;
mod folder;
pub mod keys;
mod log;
pub mod machine;
pub mod master;
pub mod offline;
mod queue;
pub mod record;
pub mod report;
pub mod seal;
mod settings;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::Disk;

use crate::clock::{Clock, UnixMs};
use crate::token::{AccessToken, TokenKey};

use machine::Machine;
use report::{KeyFacts, Report};
pub use settings::{Engine, Mode, Settings};

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
    /// Damaged, swapped, or of another format or machine.
    pub unreadable: u64,
    /// Sealed under a master key that is not here, or bound to something of the machine that this
    /// user may not read. These are kept.
    pub locked: u64,
}

impl Refused {
    fn tell(self) {
        if self.unreadable > 0 {
            let count = self.unreadable;
            tracing::warn!(count, "stored tokens could not be read and are dropped");
        }
        if self.locked > 0 {
            let count = self.locked;
            tracing::warn!(
                count,
                "stored tokens do not open with the keys that are here, or as this user; they are \
                 kept for two days"
            );
        }
    }
}

/// Why the store cannot be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// There is none, by configuration.
    #[error("`store.mode` is \"off\"")]
    Off,
    /// It is not open, or the disk does not answer.
    #[error("the store does not answer: {0}")]
    Degraded(String),
    /// It would not.
    #[error("{0}")]
    Refused(String),
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
    /// One that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the folder, makes what is missing, and reads every record. Blocks for at most 5 s;
    /// called once, before anything is served.
    ///
    /// Whatever else is wrong (unwritable folder, refused key file, damage beyond repair, a disk
    /// that hangs) gives a degraded store, which recovers by itself once the cause is gone.
    ///
    /// # Errors
    /// Another instance uses the folder.
    pub fn open(
        settings: &Settings,
        machine: &Machine,
        clock: &Clock,
    ) -> Result<Opened, OpenError> {
        let (store, loaded) = match settings.mode {
            Mode::Off => (Self::off(), disk::Loaded::default()),
            Mode::Sealed => {
                let (handle, loaded) = worker::start(settings, machine, clock, OPEN_WAIT)?;
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

    /// The master keys, as the last write that succeeded left them; `None` before the first.
    #[must_use]
    pub fn key_facts(&self) -> Option<KeyFacts> {
        self.0.as_ref().and_then(|worker| worker.key_facts())
    }

    /// Reads everything on disk again and tells what is there. Waits at most `deadline`.
    ///
    /// # Errors
    /// The store is off, not open, or takes longer; or something queued before cannot be written.
    pub fn report(&self, deadline: Duration) -> Result<Report, Unanswered> {
        let worker = self.0.as_ref().ok_or(Unanswered::Off)?;
        worker.ask(deadline, |disk, now| disk.report(now))
    }

    /// Seals everything under a new master key and gives the one before up. Waits at most
    /// `deadline`; what then goes on, goes on by itself, also after a restart.
    ///
    /// # Errors
    /// The store is off, not open or takes longer; the key is a credential; or stored tokens
    /// would be lost that cannot be opened now.
    pub fn rotate(&self, deadline: Duration) -> Result<Report, Unanswered> {
        let worker = self.0.as_ref().ok_or(Unanswered::Off)?;
        let each = deadline / 3;
        worker
            .ask(each, Disk::rotate)?
            .map_err(|trouble| Unanswered::Refused(trouble.to_string()))?;
        if !worker.settle(each) {
            return Err(worker.unanswered());
        }
        self.report(each)
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
