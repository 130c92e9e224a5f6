//! Tokens in memory: which slot a key has, and what the slot holds now.
//!
//! Owns the index (key to [`Slot`]), the slots with their flights, the entries, and each worker's
//! [`View`]. Promises that a hit takes no lock, waits for nothing, allocates nothing and writes to
//! no cache line that another worker writes: a worker keeps a pointer to the entry it served last
//! and checks it with one atomic load of the slot's generation. Promises too that an entry's bytes
//! leave only if the entry's echo is that of the key asked for, and that after [`Cache::purge`] has
//! returned no worker holds what was purged. Leaves filling slots to `refresh`.

mod capacity;
mod echo;
mod entry;
#[cfg(test)]
mod fixtures;
mod flight;
mod freshness;
mod index;
#[cfg(all(test, feature = "loom"))]
mod models;
mod slot;
mod view;

pub use capacity::Limits;
pub use echo::{Echo, EchoKey};
pub use entry::Entry;
pub use flight::{Landing, Waiter};
pub use freshness::{is_expired, margin_ms, serve_until};
pub use index::{Cache, Freshness, Full, PurgeTicket};
pub use slot::{Joined, KeyId, Leader, Slot};
pub use view::{Asked, Found, Place, Turn, View};
