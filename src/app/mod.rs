//! The process: what is started in which order, and how it ends.
//!
//! Owns every long-lived thread. Promises: admin answers first; token sockets are bound early, so
//! that a taken port is said at once, and opened only when tokens of an earlier start are in
//! memory; readiness never depends on the upstream; a stop breaks no answer; a supervisor that
//! watches hears nothing from a process in which a thread hangs.

mod allocator;
mod hardening;
mod lifecycle;
mod systemd;
mod wiring;

pub use allocator::share_arena;
pub use hardening::{harden, max_connections};
pub use lifecycle::{Ended, Signals};
pub use wiring::{App, StartError};
