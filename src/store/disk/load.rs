//! What the last run left: read, opened, and taken over into memory.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use super::{Content, Disk, Kept, Loaded, MAX_AHEAD_MS, MAX_RECORDS, Trouble};
use crate::clock::UnixMs;
use crate::store::Restored;
use crate::store::database::{self, Blame, DbError};
use crate::store::folder::Pointer;
use crate::store::master::SealError;
use crate::store::seal::{Fingerprint, Found, Opener, Sealer, Unreadable};

/// Threads that open records at a start. Where there are fewer processors they take turns.
const OPENERS: usize = 4;
/// Records for which a thread of their own is worth while.
const MIN_PART: usize = 128;

impl Disk {
    /// Reads the current database, or sets it aside.
    pub(super) fn load(&mut self, now: UnixMs, give_up: bool) -> Result<Loaded, Trouble> {
        let mut loaded = Loaded::default();
        let Some(pointer) = self.pointer else {
            return Ok(loaded);
        };
        self.folder.sweep(pointer);
        let path = self.folder.db_path(pointer.current);
        let engine = database::engine_of(&path);
        let damage = match database::open(engine, &path) {
            Ok((db, repaired)) => {
                let scan = db.scan(MAX_RECORDS);
                if let Some(error) = scan.cut_short {
                    if !is_damage(&error, give_up) {
                        db.discard();
                        return Err(error.into());
                    }
                    self.admit(scan.records, now, &mut loaded)?;
                    db.discard();
                    Some(error)
                } else {
                    let records = scan.records.len();
                    let anew = self.admit(scan.records, now, &mut loaded)?;
                    if let Some(error) = repaired {
                        tracing::warn!(%error, records, "store database repaired by removing its snapshots");
                    }
                    if anew || self.sealer.keys().is_rotating() || engine != self.engine {
                        // Nothing under the key before is to stay, not even in the database's log.
                        db.discard();
                    } else {
                        self.db = Some(db);
                    }
                    None
                }
            }
            Err(error) if !is_damage(&error, give_up) => return Err(error.into()),
            Err(error) => Some(error),
        };
        if let Some(error) = damage {
            let kept = loaded.restored.len();
            tracing::warn!(%error, kept, "stored tokens are damaged, starting a new database");
            loaded.is_damaged = true;
            self.pointer = Some(Pointer {
                quarantine: Some(pointer.current),
                ..pointer
            });
        }
        Ok(loaded)
    }

    /// Says whether any was sealed anew.
    fn admit(
        &mut self,
        mut records: Vec<(Fingerprint, Arc<[u8]>)>,
        now: UnixMs,
        loaded: &mut Loaded,
    ) -> Result<bool, SealError> {
        let mut any_anew = false;
        // What is sealed anew takes no place that a later record has.
        records.sort_by_key(|(_, sealed)| self.is_older(sealed));
        let opened = open_all(&self.sealer, &records);
        for ((name, sealed), opened) in records.into_iter().zip(opened) {
            let found = match opened {
                Ok(found) => found,
                // The right key or user may come back.
                Err(Unreadable::Binding | Unreadable::Master) => {
                    loaded.refused.locked += 1;
                    self.live.insert(name, Kept::locked(sealed, now));
                    continue;
                }
                Err(_) => {
                    loaded.refused.unreadable += 1;
                    self.dirty.insert(name);
                    continue;
                }
            };
            let expires_at = found.record.token.lifetime.expires_at();
            if expires_at.plus(MAX_AHEAD_MS) <= now {
                loaded.refused.expired += 1;
                self.dirty.insert(name);
                continue;
            }
            let (name, sealed) = if found.is_older {
                any_anew = true;
                self.dirty.insert(name);
                self.seal_anew(&found, now)?
            } else {
                (name, sealed)
            };
            if self.live.contains_key(&name) {
                continue;
            }
            if found.is_older {
                self.dirty.insert(name);
            }
            let Found {
                generation, record, ..
            } = found;
            let kept = Kept {
                generation,
                expires_at,
                last_used: record.last_used,
                is_locked: false,
                content: Content::Sealed(sealed),
            };
            self.live.insert(name, kept);
            loaded.restored.push(Restored {
                key: record.key,
                token: Arc::new(record.token),
                generation,
                last_used: record.last_used,
            });
        }
        Ok(any_anew)
    }
}

/// Opens records, in their order, on several threads: a start waits for it.
fn open_all(
    sealer: &Sealer,
    records: &[(Fingerprint, Arc<[u8]>)],
) -> Vec<Result<Found, Unreadable>> {
    let open = |part: &[(Fingerprint, Arc<[u8]>)]| {
        let mut opener = Opener::default();
        let found = part.iter();
        let found = found.map(|(name, sealed)| opener.open(sealer, *name, sealed));
        found.collect::<Vec<_>>()
    };
    let part = records.len().div_ceil(OPENERS).max(MIN_PART);
    let (first, others) = records.split_at(part.min(records.len()));
    thread::scope(|scope| {
        let others: Vec<_> = others
            .chunks(part)
            .map(|part| {
                let thread = thread::Builder::new().name("store-open".into());
                (part, thread.spawn_scoped(scope, move || open(part)))
            })
            .collect();
        let mut all = open(first);
        for (part, thread) in others {
            all.extend(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // There are no more threads: it only takes longer.
                Err(_) => open(part),
            });
        }
        all
    })
}

fn is_damage(error: &DbError, give_up: bool) -> bool {
    match error.blame() {
        Blame::None => false,
        Blame::Doubtful => give_up,
        Blame::Damage => true,
    }
}
