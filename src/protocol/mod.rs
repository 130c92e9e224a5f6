//! Callers' wire formats, as pure functions: bytes to a [`TokenRequest`], a token to [`Rendered`]
//! bytes. No I/O and no clock.
//!
//! Only this room knows how callers spell things. It promises that no parameter which could change
//! the answer is dropped, and that anything it cannot read exactly is refused.

mod dialect;
pub mod imds;
mod query;
mod rendered;
mod request;

pub use dialect::{Dialect, Methods, Proof};
pub use query::{InvalidQuery, parse as parse_query};
pub use rendered::{Digits, Rendered};
pub use request::TokenRequest;
