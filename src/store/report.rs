//! What is in the store, in numbers: nothing here is a token, or tells whose it is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::keys::KeySource;
use super::machine::BindingKind;
use super::record::VERSION;
use super::seal::{Found, Header, Unreadable};
use crate::clock::UnixMs;

/// What to tell of the master keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyFacts {
    /// Where the key that seals is from.
    pub source: KeySource,
    /// Its name, in hexadecimal.
    pub id: String,
    /// The names of those that only open.
    pub older: Vec<String>,
    /// Records that one of these is needed for; 0 means that they can go.
    pub under_older: usize,
    /// Records that do not open with the keys that are here, or as this user; they are kept.
    pub locked: usize,
    /// A new key file waits to take the place of the one before.
    pub rotating: bool,
}

/// The store, looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The master keys.
    pub key: KeyFacts,
    /// What new records are bound to.
    pub binding: BindingKind,
    /// Records in memory.
    pub held: usize,
    /// Of these, how many are not on disk as they are in memory.
    pub waiting: usize,
    /// Why reading the database ended early, if it did.
    pub damage: Option<String>,
    /// The number of the database in use.
    pub database: Option<u64>,
    /// That of a damaged one, kept for whoever wants to look.
    pub quarantine: Option<u64>,
    /// What the folder takes on disk, bytes.
    pub disk_bytes: u64,
    /// The records on disk.
    pub stored: Tally,
}

/// Records on disk, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All of them.
    pub records: u64,
    /// They open, and the token is good.
    pub good: u64,
    /// They open, and the token is over.
    pub expired: u64,
    /// They are bound to something that this user may not read.
    pub locked: u64,
    /// They are under a master key that is not here.
    pub other_key: u64,
    /// They are damaged, moved, or from another machine.
    pub refused: u64,
    /// They are of another format.
    pub other_format: u64,
    /// How many are of which format.
    pub by_format: BTreeMap<u8, u64>,
    /// How many are under which master key.
    pub by_key: BTreeMap<String, u64>,
    /// How many are bound to what.
    pub by_binding: BTreeMap<BindingKind, u64>,
    /// Sealed bytes in all, and of the largest.
    pub bytes: u64,
    /// Of the largest record.
    pub largest_bytes: u64,
    /// Since the oldest good token was received, seconds.
    pub oldest_age_s: Option<u64>,
    /// Since the newest.
    pub newest_age_s: Option<u64>,
    /// Until the first of the good tokens ends, seconds.
    pub first_end_s: Option<u64>,
    /// Until the last.
    pub last_end_s: Option<u64>,
}

impl Report {
    /// For programs; `sound` as [`is_sound`](Self::is_sound) has it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut told = serde_json::json!(self);
        told["sound"] = self.is_sound().into();
        told
    }

    /// Whether every record opens and nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Tally {
            other_key,
            refused,
            other_format,
            locked,
            ..
        } = self.stored;
        self.damage.is_none() && other_key + refused + other_format + locked == 0
    }
}

impl Tally {
    /// Counts a record.
    pub fn add(&mut self, sealed: &[u8], opened: Result<Found, Unreadable>, now: UnixMs) {
        let bytes = sealed.len() as u64;
        self.records += 1;
        self.bytes += bytes;
        self.largest_bytes = self.largest_bytes.max(bytes);
        let format = sealed.first().copied().unwrap_or(0);
        *self.by_format.entry(format).or_default() += 1;
        if let Ok((header, _)) = Header::read(sealed) {
            *self.by_key.entry(header.key.to_string()).or_default() += 1;
            *self.by_binding.entry(header.binding).or_default() += 1;
        }
        let count = match opened {
            Ok(found) => {
                let life = found.record.token.lifetime;
                if life.expires_at() <= now {
                    &mut self.expired
                } else {
                    let age = Some(now.since(life.received_at) / 1000);
                    let left = Some(life.expires_at().since(now) / 1000);
                    self.oldest_age_s = self.oldest_age_s.max(age);
                    self.newest_age_s = self.newest_age_s.map_or(age, |old| age.min(Some(old)));
                    self.first_end_s = self.first_end_s.map_or(left, |old| left.min(Some(old)));
                    self.last_end_s = self.last_end_s.max(left);
                    &mut self.good
                }
            }
            Err(Unreadable::Binding) => &mut self.locked,
            Err(Unreadable::Master) => &mut self.other_key,
            Err(Unreadable::Format) if format != VERSION => &mut self.other_format,
            Err(_) => &mut self.refused,
        };
        *count += 1;
    }
}
