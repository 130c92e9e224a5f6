//! What the store needs to know.

use std::path::PathBuf;

/// Whether and where sealed tokens are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Keep tokens on disk or in memory only.
    pub mode: Mode,
    /// The folder that holds the database, the lock file and the pointer file.
    pub path: PathBuf,
    /// What keeps the records there.
    pub engine: Engine,
    /// The master key's file; outside `path`, so that a copied store is useless without it.
    pub key: PathBuf,
    /// systemd's folder of credentials (`$CREDENTIALS_DIRECTORY`), which may hold the key instead.
    pub credentials: Option<PathBuf>,
}

/// `store.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Sealed records on disk.
    Sealed,
    /// Memory only: a restart starts cold.
    Off,
}

/// `store.engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A database of sled's.
    Sled,
    /// One file to which changes are appended.
    Log,
}
