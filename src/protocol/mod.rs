//! Callers' wire formats, as pure functions: bytes to a [`TokenRequest`], a token to [`Rendered`]
//! bytes. No I/O and no clock.
//!
//! Only this room knows how callers spell things. It promises that no parameter which could change
//! the answer is dropped, and that anything it cannot read exactly is refused.

mod answer;
mod dialect;
mod parameters;
mod query;
mod refusal;
mod rendered;
mod request;

pub use answer::{Shape, render};
pub use dialect::{Dialect, Methods, Proof, recognise};
pub use parameters::{BadRequest, parse};
pub use query::{InvalidQuery, parse as parse_query};
pub use refusal::{Complaint, render as render_error, render_no_api_version};
pub use rendered::{Body, Digits, Rendered};
pub use request::{Force, TokenRequest};
