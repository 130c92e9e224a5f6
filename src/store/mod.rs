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
//! The log-structured database overwrites a removed record only when it reuses the space; until
//! then its sealed bytes remain, readable by nobody without the key file.

mod folder;
pub mod keys;
pub mod record;
pub mod seal;
mod settings;

pub use settings::{Mode, Settings};

#[cfg(test)]
mod tests;
