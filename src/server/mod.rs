//! The front: sockets, connections, and the one function that answers.
//!
//! Owns listening sockets, worker threads, and what a refusal looks like. Promises that each
//! request is judged before it is read further, that a hit waits for nothing, and that a stopping
//! server breaks no answer. [`handler`] is the story of a request; everything around it only feeds
//! it plain values.

mod accept;
mod admin_front;
pub mod arc_keys;
mod connection;
mod desk;
mod exchange;
#[cfg(all(test, not(feature = "loom")))]
mod fixtures;
mod forward;
pub mod handler;
pub mod head;
mod known;
mod listener;
pub mod rehearsal;
mod reject;
mod room;
mod settings;
mod steering;
pub mod tls;
mod wiped;
mod wire;
mod workers;

pub use admin_front::AdminFront;
pub use listener::{BindError, Bound, bind_unix};
pub use reject::{Refusal, Rejection};
pub use settings::{Address, ArcSettings, ExpiresOn, Listener, Settings};
pub use steering::Cpus;
pub use workers::{DoorError, Doors, Parts, Running};
