//! Token sources: the places that tokens come from.
//!
//! Owns outgoing sockets and what sources write: only this room knows their field names. Promises
//! that every answer is parsed and checked against the question, never relayed; that an error says
//! whether trying again makes sense; that nothing of the caller's request but checked values goes
//! out; no redirect, proxy variable or DNS. Leaves when to ask, and how often, to `refresh`.

mod error;
mod http;
mod imds;
mod settings;

use std::future::Future;

pub use error::{Class, FetchError, Retry};
pub use imds::Imds;
pub use settings::{Kind, Settings};

use crate::token::{AccessToken, TokenKey};

/// Where tokens come from. The second implementation is the tests' fake.
pub trait TokenSource: Send + 'static {
    /// Asks once for the token that `key` names. Ends within a deadline of its own.
    fn fetch(
        &self,
        key: &TokenKey,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static;
}
