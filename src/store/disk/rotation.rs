//! From one master key to the next.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Content, Disk, Kept, Trouble};
use crate::clock::UnixMs;
use crate::store::master::SealError;
use crate::store::record::{Decoded, Record};
use crate::store::report::KeyFacts;
use crate::store::seal::{Fingerprint, Found, Header, Opener};

impl Disk {
    pub(super) fn is_older(&self, sealed: &[u8]) -> bool {
        let current = self.sealer.keys().current().id();
        Header::read(sealed).is_ok_and(|(header, _)| header.key != current)
    }

    /// Records that a key before is needed for.
    fn under_older(&self) -> usize {
        let keys = self.sealer.keys();
        let needs = |kept: &&Kept| {
            // What is not sealed yet will be under the key that seals now: with that came a new
            // database.
            let header = kept.sealed().and_then(|sealed| Header::read(sealed).ok());
            header.is_some_and(|(header, _)| keys.older().any(|id| id == header.key))
        };
        self.live.values().filter(needs).count()
    }

    /// The same record under the key that seals now, and its name under that.
    pub(super) fn seal_anew(
        &mut self,
        found: &Found,
        now: UnixMs,
    ) -> Result<(Fingerprint, Arc<[u8]>), SealError> {
        let Decoded {
            key,
            token,
            last_used,
        } = &found.record;
        let key = key.canonical_bytes();
        let name = self.sealer.fingerprint(&key);
        let record = Record {
            key: &key,
            token,
            last_used: *last_used,
        };
        let sealed = self.sealer.seal(name, found.generation, &record, now)?;
        Ok((name, sealed.into()))
    }

    /// Makes a new key and seals everything under it; the next [`save`](Self::save) writes all of
    /// it into a new database and then gives the key before up.
    ///
    /// # Errors
    /// The key is not ours to change, or some tokens cannot be opened now and would be lost with
    /// it: nothing is changed then. Or the new key cannot be written.
    pub fn rotate(&mut self, now: UnixMs) -> Result<(), Trouble> {
        // Those under a key that is not here lose nothing by it.
        let locked = self.live.values().filter(|kept| {
            let header = kept.sealed().and_then(|sealed| Header::read(sealed).ok());
            let ours = header.is_some_and(|(it, _)| self.sealer.keys().find(it.key).is_some());
            kept.is_locked && ours
        });
        let locked = locked.count();
        if locked > 0 {
            return Err(Trouble::Locked(locked));
        }
        self.now = now;
        let key_file = self.key_file.clone();
        self.sealer
            .rekey(now, |keys| Ok::<_, Trouble>(keys.rotate(&key_file)?))?;
        if let Some(db) = self.db.take() {
            db.discard();
        }
        // A damaged one that is kept for a look is under the key that is given up.
        if let Some(pointer) = &mut self.pointer
            && let Some(number) = pointer.quarantine.take()
        {
            tracing::info!(number, "the damaged database goes with the key before");
        }
        let mut opener = Opener::default();
        let mut live = HashMap::with_capacity(self.live.len());
        for (name, kept) in std::mem::take(&mut self.live) {
            if kept.is_locked {
                live.insert(name, kept);
                continue;
            }
            let sealed = match &kept.content {
                Content::Sealed(sealed) => sealed,
                Content::Shared(key, _) => {
                    live.insert(self.sealer.fingerprint(key), kept);
                    continue;
                }
            };
            // Opened at the start and never out of memory since.
            let Ok(found) = opener.open(&self.sealer, name, sealed) else {
                continue;
            };
            match self.seal_anew(&found, now) {
                Ok((name, sealed)) => {
                    let content = Content::Sealed(sealed);
                    live.insert(name, Kept { content, ..kept })
                }
                // Without random bytes it stays as it is, and so does the key before.
                Err(_) => live.insert(name, kept),
            };
        }
        self.live = live;
        Ok(())
    }

    /// What to tell of the keys.
    pub fn key_facts(&self) -> KeyFacts {
        let keys = self.sealer.keys();
        KeyFacts {
            source: keys.source(),
            id: keys.current().id().to_string(),
            older: keys.older().map(|id| id.to_string()).collect(),
            under_older: self.under_older(),
            locked: self.live.values().filter(|kept| kept.is_locked).count(),
            rotating: keys.is_rotating(),
        }
    }

    /// Gives the key before up once nothing is under it; called after everything is written.
    pub(super) fn finish_rotation(&mut self) -> Result<(), Trouble> {
        if self.sealer.keys().is_rotating() && self.under_older() == 0 {
            self.sealer.finish_rotation()?;
            let key = self.sealer.keys().current().id();
            tracing::info!(%key, "the store's key is a new one");
        }
        Ok(())
    }
}
