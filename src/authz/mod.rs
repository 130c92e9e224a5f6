//! May this caller have this token?
//!
//! Owns who a caller is ([`Caller`]), which requests are turned away before anybody reads them
//! ([`guard`]), and the proof that policy was asked ([`Permit`]). A permit is made only here, and
//! the cache looks up nothing without one. What the kernel tells us of a caller is taken once per
//! connection. At present every caller on this machine may have every token, as with IMDS itself.

mod caller;
mod clients;
pub mod guard;
mod permit;
mod policy;
mod settings;

pub use caller::Caller;
pub use clients::{Clients, Proven};
pub use permit::Permit;
pub use policy::{Denial, Policy};
pub use settings::Client;
