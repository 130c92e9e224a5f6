//! The other engine: one file to which changes are appended.
//!
//! Integers are big-endian. The file begins with [`HEAD`]; a change is
//!
//! | bytes | |
//! |---|---|
//! | 4 | length n of the sealed record; 0 where it goes |
//! | 16 | fingerprint |
//! | n | sealed record |
//! | 4 | CRC-32 of all of these |
//!
//! A kill leaves an unfinished change at the end, which is passed over and written over. Whatever
//! else does not fit is damage: what is before it counts. The checksum finds damage, not malice;
//! that is the seal's.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

use super::database::{Change, Database, DbError, Opened, Scan, ask};
use super::seal::Fingerprint;

const HEAD: &[u8; 8] = b"ftk log1";
/// The file's name.
pub(super) const NAME: &str = "records.log";
/// No change is longer: records are 256 KiB at most.
const MAX_CHANGE_BYTES: usize = 512 << 10;
/// The file is rewritten long before.
const MAX_FILE_BYTES: u64 = 1 << 30;

struct Log {
    path: PathBuf,
    /// At the end of the last whole change.
    file: Arc<Mutex<File>>,
}

/// Opens or makes a log.
///
/// # Errors
/// The disk. Damage is told by [`scan`](Database::scan).
pub fn open(path: &Path) -> Result<Opened, DbError> {
    let path = path.to_owned();
    let log = ask(move || {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let path = path.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)?;
        let found = read(&mut file)?;
        file.seek(SeekFrom::Start(found.end))?;
        let file = Arc::new(Mutex::new(file));
        Ok(Log { path, file })
    })?;
    Ok((Box::new(log), None))
}

impl Database for Log {
    fn scan(&self, limit: usize) -> Scan {
        let path = self.path.clone();
        Scan::from(ask(move || {
            let found = read(&mut File::open(path)?)?;
            Ok(Scan {
                records: found.records.into_iter().take(limit).collect(),
                cut_short: found.damage,
            })
        }))
    }

    fn write(&self, changes: Vec<Change>, _total: usize) -> Result<(), DbError> {
        let file = Arc::clone(&self.file);
        ask(move || {
            // A write that panicked was this database's last.
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let mut bytes = Vec::new();
            let at = file.stream_position()?;
            if at == 0 {
                bytes.extend_from_slice(HEAD);
            }
            for (name, sealed) in &changes {
                append(&mut bytes, *name, sealed.as_deref().unwrap_or_default());
            }
            // What a kill left unfinished is longer than what comes now, perhaps.
            file.set_len(at)?;
            file.write_all(&bytes)?;
            Ok(file.sync_data()?)
        })
    }

    fn size_bytes(&self) -> u64 {
        let path = self.path.clone();
        ask(move || Ok(fs::metadata(path)?.len())).unwrap_or(0)
    }

    // Closing a file waits for nobody: everything is on disk.
    fn discard(self: Box<Self>) {}
}

fn append(bytes: &mut Vec<u8>, name: Fingerprint, sealed: &[u8]) {
    let start = bytes.len();
    let len = u32::try_from(sealed.len()).expect("records are bounded");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&name.0);
    bytes.extend_from_slice(sealed);
    let sum = crc32fast::hash(&bytes[start..]);
    bytes.extend_from_slice(&sum.to_be_bytes());
}

struct Found {
    records: HashMap<Fingerprint, Arc<[u8]>>,
    /// Where the last whole change ends.
    end: u64,
    damage: Option<DbError>,
}

fn read(file: &mut File) -> Result<Found, DbError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Found {
    let mut found = Found {
        records: HashMap::new(),
        end: 0,
        damage: None,
    };
    let Some(mut rest) = bytes.strip_prefix(HEAD) else {
        // Nobody is led to a log before its first write is on disk.
        found.damage = Some(DbError::Lost);
        return found;
    };
    while let Some((name, sealed, after)) = first(rest) {
        if sealed.is_empty() {
            found.records.remove(&name);
        } else {
            found.records.insert(name, sealed.into());
        }
        rest = after;
    }
    found.end = (bytes.len() - rest.len()) as u64;
    if !is_unfinished(rest) {
        found.damage = Some(DbError::Damaged(
            "a change in the log is damaged".to_owned(),
        ));
    }
    found
}

/// The first change, and what follows it.
fn first(bytes: &[u8]) -> Option<(Fingerprint, &[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = u32::from_be_bytes(*len) as usize;
    let (name, rest) = rest.split_first_chunk()?;
    let (sealed, rest) = rest.split_at_checked(len)?;
    let (sum, after) = rest.split_first_chunk()?;
    let whole = bytes.len() - rest.len();
    let good = u32::from_be_bytes(*sum) == crc32fast::hash(&bytes[..whole]);
    good.then_some((Fingerprint(*name), sealed, after))
}

/// Whether a write that was cut off would leave this: a change that says it is longer than what is
/// there, by no more than a change can be.
fn is_unfinished(bytes: &[u8]) -> bool {
    let Some((len, _)) = bytes.split_first_chunk() else {
        return true;
    };
    let whole = (u32::from_be_bytes(*len) as usize).saturating_add(4 + Fingerprint::BYTES + 4);
    whole > bytes.len() && whole <= MAX_CHANGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(byte: u8) -> Fingerprint {
        Fingerprint([byte; Fingerprint::BYTES])
    }

    fn log_of(changes: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        for (byte, sealed) in changes {
            append(&mut bytes, name(*byte), sealed);
        }
        bytes
    }

    #[test]
    fn the_last_change_of_a_record_counts() {
        let found = parse(&log_of(&[(1, b"a"), (2, b"b"), (1, b"c"), (2, b"")]));
        assert!(found.damage.is_none());
        assert_eq!(found.records.len(), 1);
        assert_eq!(&*found.records[&name(1)], b"c");
    }

    #[test]
    fn wherever_a_write_was_cut_off_what_was_whole_before_counts() {
        let all: [(u8, &[u8]); 3] = [(1, b"first"), (2, b"second"), (3, b"third")];
        let bytes = log_of(&all);
        let whole = [1, 2, 3].map(|count| log_of(&all[..count]).len());
        for len in 0..=bytes.len() {
            let found = parse(&bytes[..len]);
            assert_eq!(found.damage.is_some(), len < HEAD.len(), "cut at {len}");
            let count = whole.iter().filter(|end| **end <= len).count();
            assert_eq!(found.records.len(), count, "cut at {len}");
            let end = whole[..count].last().map_or(0, |end| *end as u64);
            assert!(found.end == end || count == 0, "cut at {len}");
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_or_a_shorter_log_and_never_another_record() {
        let bytes = log_of(&[(1, b"first"), (2, b"second")]);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = parse(&bad);
            assert!(found.records.len() < 2, "bit {bit}");
            let first = found.records.get(&name(1)).map(|sealed| &**sealed);
            assert!(first.is_none_or(|sealed| sealed == b"first"));
        }
    }

    #[test]
    fn what_a_kill_left_unfinished_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let write = |byte: u8, sealed: &[u8]| {
            let (log, _) = open(dir.path()).unwrap();
            log.write(vec![(name(byte), Some(sealed.into()))], 1)
                .unwrap();
        };
        write(1, b"first");
        let path = dir.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        let unfinished = &log_of(&[(2, &[7; 300])])[HEAD.len()..200];
        bytes.extend_from_slice(unfinished);
        fs::write(&path, bytes).unwrap();
        write(3, b"third");
        let scan = open(dir.path()).unwrap().0.scan(usize::MAX);
        assert!(scan.cut_short.is_none());
        assert_eq!(scan.records.len(), 2);
    }
}
