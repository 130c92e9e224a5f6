//! What is stored, and the way back when storing fails.
//!
//! Owns the opened folder, the keys and the current database, and holds every record in memory: what
//! an earlier start left, sealed, and what was put since as the cache has it, which shares the one copy
//! of the token and is sealed each time that it is written. So the database is never asked again after
//! the start: when it fails or grows, a new one is written from memory under the next number, and the
//! old one is left behind.

mod load;
mod rotation;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::database::{self, Database, DbError};
use super::folder::{Folder, FolderError, Pointer, sync_folder};
use super::keys::{KeyError, Keyring, RotateError};
use super::machine::Machine;
use super::master::SealError;
use super::queue::{Change, Queue};
use super::record::Record;
use super::report::{Report, Tally};
use super::seal::{Fingerprint, Opener, Sealer, sealed_len};
use super::{Engine, Refused, Restored, Settings};
use crate::clock::UnixMs;
use crate::token::{AccessToken, TokenKey};

/// Records kept; the least recently used makes room. About 20 MB at 2 kB each.
const MAX_RECORDS: usize = 8192;

/// A machine may start with a clock that is so far ahead, and nobody has said yet what time it is:
/// what ended within that time is kept until somebody has.
const MAX_AHEAD_MS: u64 = 2 * 24 * 3_600_000;
/// Longer records are not stored. The longest tokens seen are some 10 kB.
const MAX_RECORD_BYTES: usize = 256 << 10;
/// A database below this size is not worth rewriting.
pub(super) const SMALL_BYTES: u64 = 16 << 20;
/// sled settles at about 10 times the live data; well above that it has lost track.
pub(super) const MAX_GROWTH: u64 = 20;
/// Saves between two looks at the size.
pub(super) const SAVES_PER_LOOK: u32 = 256;

/// Or so many bytes written.
pub(super) const LOOK_BYTES: u64 = 8 << 20;

/// The generation of a record that was loaded and not handed out: below every other.
const UNCLAIMED: u64 = 0;

/// The store, opened.
pub struct Disk {
    folder: Folder,
    key_file: PathBuf,
    engine: Engine,
    sealer: Sealer,
    pointer: Option<Pointer>,
    /// None while it has to be written anew.
    db: Option<Box<dyn Database>>,
    live: HashMap<Fingerprint, Kept>,
    /// Names whose record in `db` differs from `live`.
    dirty: HashSet<Fingerprint>,
    /// Somebody's removal is not on disk yet.
    purging: bool,
    saves: u32,
    /// Bytes written since the last look at the size.
    written: u64,
    /// When it was last changed; enters the salts under which it seals.
    now: UnixMs,
}

struct Kept {
    generation: u64,
    expires_at: UnixMs,
    last_used: UnixMs,
    /// It cannot be opened now, and perhaps by another user of this machine.
    is_locked: bool,
    content: Content,
}

enum Content {
    /// As an earlier start left it.
    Sealed(Arc<[u8]>),
    /// The key's canonical bytes, and the token that the cache holds, too.
    Shared(Box<[u8]>, Arc<AccessToken>),
}

impl Kept {
    /// Its end is not known: it is kept as long as one that has just ended, since whatever is
    /// served later takes its place.
    fn locked(sealed: Arc<[u8]>, now: UnixMs) -> Self {
        Self {
            generation: UNCLAIMED,
            expires_at: now,
            last_used: UnixMs(0),
            is_locked: true,
            content: Content::Sealed(sealed),
        }
    }

    /// What of it belongs on disk.
    fn seal(
        &self,
        sealer: &mut Sealer,
        name: Fingerprint,
        now: UnixMs,
    ) -> Result<Arc<[u8]>, SealError> {
        match &self.content {
            Content::Sealed(bytes) => Ok(Arc::clone(bytes)),
            Content::Shared(key, token) => {
                let record = Record {
                    key,
                    token,
                    last_used: self.last_used,
                };
                Ok(sealer.seal(name, self.generation, &record, now)?.into())
            }
        }
    }

    /// Its bytes, if they were sealed by an earlier start.
    fn sealed(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Sealed(sealed) => Some(sealed),
            Content::Shared(..) => None,
        }
    }

    /// The bytes that it takes on disk.
    fn len(&self) -> usize {
        match &self.content {
            Content::Sealed(sealed) => sealed.len(),
            Content::Shared(key, token) => sealed_len(&Record {
                key,
                token,
                last_used: self.last_used,
            }),
        }
    }
}

/// What the last run left.
#[derive(Default)]
pub struct Loaded {
    pub restored: Vec<Restored>,
    pub refused: Refused,
    /// The database was, and is set aside.
    pub is_damaged: bool,
}

/// Why tokens are not being stored.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Rotate(#[from] RotateError),
    #[error("{0} stored tokens are bound to something that this user may not read")]
    Locked(usize),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the store database cannot be written: {0}")]
    Db(#[from] DbError),
    #[error("the store folder cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl Disk {
    /// Takes the folder, reads the keys and loads what is stored. Writes nothing into a database:
    /// the first [`save`](Self::save) does. `give_up`: a database that does not open is taken for
    /// damaged, although nothing says so, unless the disk is full or the like.
    pub fn open(
        settings: &Settings,
        machine: &Machine,
        now: UnixMs,
        give_up: bool,
    ) -> Result<(Self, Loaded), Trouble> {
        let folder = Folder::open(&settings.path)?;
        let keys = Keyring::load(settings)?;
        Self::with(folder, keys, settings, machine, now, give_up)
    }

    /// A store of which nothing is loaded yet.
    fn new(
        folder: Folder,
        keys: Keyring,
        settings: &Settings,
        machine: &Machine,
        now: UnixMs,
    ) -> Result<Self, SealError> {
        Ok(Self {
            pointer: folder.pointer(),
            folder,
            key_file: settings.key.clone(),
            engine: settings.engine,
            sealer: Sealer::new(keys, machine.clone(), now)?,
            db: None,
            live: HashMap::new(),
            dirty: HashSet::new(),
            purging: false,
            saves: 0,
            written: 0,
            now,
        })
    }

    /// As [`open`](Self::open), with a folder and keys that are had already.
    pub fn with(
        folder: Folder,
        keys: Keyring,
        settings: &Settings,
        machine: &Machine,
        now: UnixMs,
        give_up: bool,
    ) -> Result<(Self, Loaded), Trouble> {
        let mut disk = Self::new(folder, keys, settings, machine, now)?;
        let loaded = disk.load(now, give_up)?;
        Ok((disk, loaded))
    }

    /// What is in a folder, as [`report`](Self::report) tells it, with records that a start would
    /// drop.
    pub fn examine(
        folder: Folder,
        keys: Keyring,
        settings: &Settings,
        machine: &Machine,
        now: UnixMs,
    ) -> Result<Report, Trouble> {
        let mut disk = Self::new(folder, keys, settings, machine, now)?;
        let damage = disk.pointer.and_then(|pointer| {
            let path = disk.folder.db_path(pointer.current);
            let opened = database::open(database::engine_of(&path), &path);
            opened.map(|(db, _)| disk.db = Some(db)).err()
        });
        let mut report = disk.report(now);
        report.damage = report.damage.or(damage.map(|error| error.to_string()));
        Ok(report)
    }

    /// Reads what is on disk again, and tells what is there.
    pub fn report(&self, now: UnixMs) -> Report {
        let scan = self.db.as_ref().map(|db| db.scan(usize::MAX));
        let mut opener = Opener::default();
        let mut tally = Tally::default();
        let (records, cut_short) = match scan {
            Some(scan) => (scan.records, scan.cut_short.map(|error| error.to_string())),
            None => (Vec::new(), None),
        };
        for (name, sealed) in &records {
            tally.add(sealed, opener.open(&self.sealer, *name, sealed), now);
        }
        Report {
            key: self.key_facts(),
            binding: self.sealer.binding(),
            held: self.live.len(),
            waiting: self.dirty.len(),
            damage: cut_short,
            database: self.pointer.map(|pointer| pointer.current),
            quarantine: self.pointer.and_then(|pointer| pointer.quarantine),
            disk_bytes: self.folder.size_bytes(),
            stored: tally,
        }
    }

    /// For records that were loaded but not handed out: whoever counts generations starts afresh,
    /// so any put may replace them.
    pub fn forget_generations(&mut self) {
        self.live
            .values_mut()
            .for_each(|kept| kept.generation = UNCLAIMED);
    }

    /// Takes changes over into memory.
    pub fn apply(&mut self, queue: Queue, now: UnixMs) {
        self.now = now;
        if queue.remove_all {
            self.purging = true;
            self.dirty.extend(self.live.drain().map(|(name, _)| name));
            // Neither its log nor a damaged one kept for a look outlives this.
            if let Some(db) = self.db.take() {
                db.discard();
            }
            if let Some(pointer) = &mut self.pointer {
                pointer.quarantine = None;
            }
        }
        if queue.remove_unclaimed {
            let unclaimed = self.live.extract_if(|_, kept| kept.generation == UNCLAIMED);
            let gone: Vec<_> = unclaimed.map(|(name, _)| name).collect();
            self.purging |= !gone.is_empty();
            self.dirty.extend(gone);
        }
        for (key, change) in queue.changes {
            self.apply_one(&key, change);
        }
        let over = |kept: &mut Kept| kept.expires_at.plus(MAX_AHEAD_MS) <= now;
        let expired = self.live.extract_if(|_, kept| over(kept));
        self.dirty.extend(expired.map(|(name, _)| name));
    }

    fn apply_one(&mut self, key: &TokenKey, change: Change) {
        let key = key.canonical_bytes();
        let name = self.sealer.fingerprint(&key);
        if change.remove && self.live.remove(&name).is_some() {
            self.purging = true;
            self.dirty.insert(name);
        }
        let Some(put) = change.put else {
            return;
        };
        let newest = self.live.get(&name).map_or(0, |kept| kept.generation);
        if put.generation < newest {
            return;
        }
        self.dirty.insert(name);
        let record = Record {
            key: &key,
            token: &put.token,
            last_used: put.last_used,
        };
        if record.encoded_len() > MAX_RECORD_BYTES {
            self.live.remove(&name);
            return;
        }
        let kept = Kept {
            generation: put.generation,
            expires_at: put.token.lifetime.expires_at(),
            last_used: put.last_used,
            is_locked: false,
            content: Content::Shared(key.into(), put.token),
        };
        if self.live.len() >= MAX_RECORDS && !self.live.contains_key(&name) {
            self.make_room();
        }
        self.live.insert(name, kept);
    }

    fn make_room(&mut self) {
        let oldest = self.live.iter().min_by_key(|(_, kept)| kept.last_used);
        if let Some(name) = oldest.map(|(name, _)| *name) {
            self.live.remove(&name);
            self.dirty.insert(name);
        }
    }

    /// Brings the disk to what memory says. After an error everything is still in memory; call
    /// again later. The old files stay for a restart meanwhile, unless a removal could not be
    /// written: a purged token must not come back.
    ///
    /// # Errors
    /// The disk.
    pub fn save(&mut self) -> Result<(), Trouble> {
        let saved = match self.db.take() {
            // What is to be gone is to be gone from the database's log, too, and not to come back
            // should that be damaged.
            Some(db) if self.purging => {
                db.discard();
                self.rewrite()
            }
            None => self.rewrite(),
            Some(db) => self.update(db),
        };
        if saved.is_ok() {
            self.dirty.clear();
            self.purging = false;
            return self.finish_rotation();
        }
        if let (true, Some(pointer)) = (self.purging, self.pointer) {
            self.folder.remove_db(pointer.current);
            pointer
                .quarantine
                .iter()
                .for_each(|&n| self.folder.remove_db(n));
        }
        saved
    }

    /// Writes what changed. A database that fails is of no more use and is let go.
    fn update(&mut self, db: Box<dyn Database>) -> Result<(), Trouble> {
        if !self.dirty.is_empty() {
            let (live, sealer) = (&self.live, &mut self.sealer);
            let changes = self.dirty.iter().map(|name| {
                let kept = live.get(name);
                let bytes = kept.map(|kept| kept.seal(sealer, *name, self.now));
                Ok((*name, bytes.transpose()?))
            });
            let changes: Vec<database::Change> = match changes.collect() {
                Ok(changes) => changes,
                Err(error) => {
                    self.db = Some(db);
                    return Err(Trouble::Seal(error));
                }
            };
            let written = changes.iter().filter_map(|(_, bytes)| bytes.as_deref());
            self.written += written.map(|bytes| bytes.len() as u64).sum::<u64>();
            if let Err(error) = db.write(changes, self.live.len()) {
                db.discard();
                return Err(error.into());
            }
            self.saves += 1;
            if self.saves >= SAVES_PER_LOOK || self.written >= LOOK_BYTES {
                (self.saves, self.written) = (0, 0);
                if self.has_outgrown(db.size_bytes()) {
                    db.discard();
                    return self.rewrite();
                }
            }
        }
        self.db = Some(db);
        Ok(())
    }

    fn has_outgrown(&self, bytes: u64) -> bool {
        let live: usize = self.live.values().map(Kept::len).sum();
        bytes > SMALL_BYTES.max(MAX_GROWTH.saturating_mul(live as u64))
    }

    /// Writes everything into a database of the next number and makes that the current one.
    fn rewrite(&mut self) -> Result<(), Trouble> {
        let number = self.folder.take_number();
        match self.write_database(number) {
            Ok(db) => {
                self.db = Some(db);
                Ok(())
            }
            Err(trouble) => {
                self.folder.remove_db(number);
                Err(trouble)
            }
        }
    }

    fn write_database(&mut self, number: u64) -> Result<Box<dyn Database>, Trouble> {
        let path = self.folder.db_path(number);
        let (db, _) = database::open(self.engine, &path)?;
        let all = self.live.iter().map(|(name, kept)| {
            let sealed = kept.seal(&mut self.sealer, *name, self.now)?;
            Ok((*name, Some(sealed)))
        });
        let all: Result<Vec<database::Change>, SealError> = all.collect();
        let pointer = Pointer {
            current: number,
            quarantine: self.pointer.and_then(|pointer| pointer.quarantine),
        };
        let written = all
            .map_err(Trouble::from)
            .and_then(|all| Ok(db.write(all, self.live.len())?))
            .and_then(|()| Ok(sync_folder(&path)?))
            .and_then(|()| Ok(self.folder.point_at(pointer)?));
        match written {
            Ok(()) => {
                self.pointer = Some(pointer);
                Ok(db)
            }
            Err(trouble) => {
                db.discard();
                Err(trouble)
            }
        }
    }
}

impl Drop for Disk {
    /// Closes the database, and after that gives the folder's lock up, whatever the order of the
    /// fields.
    fn drop(&mut self) {
        self.db = None;
    }
}

#[cfg(test)]
mod tests;
