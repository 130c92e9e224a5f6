//! How much is kept.

/// What an operator may set: `[limits]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Token keys in memory. A dense VM has tens of identities and resources; at about 6 KB a key
    /// the default bounds the cache near 60 MB even if every key holds a large token.
    pub max_keys: usize,
    /// Callers that may wait on one flight.
    pub max_waiters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_keys: 10_000,
            // More than the connections a machine's processes hold.
            max_waiters: 20_000,
        }
    }
}

/// Request targets that one worker remembers for each key that there may be. A key has two or three
/// spellings in practice.
pub const MAX_TARGETS_PER_KEY: usize = 3;

/// Bytes of request targets and forms, with what stands beside each, that one worker remembers. One
/// key has endless spellings, of up to 12 KB each.
pub const MAX_REMEMBERED_BYTES_PER_WORKER: usize = 8 * 1024 * 1024;

/// Between two calls that callers force for one key, in milliseconds.
pub const MIN_FORCE_PAUSE_PER_KEY_MS: u64 = 60_000;

/// Between two calls that callers force for any keys, in milliseconds.
pub const MIN_FORCE_PAUSE_MS: u64 = 1000;
