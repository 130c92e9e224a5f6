//! Token sources: the places that tokens come from.
//!
//! Owns outgoing sockets and what sources write: only this room knows their field names. Promises
//! that every answer is parsed and checked against the question, never relayed; that an error says
//! whether trying again makes sense; that nothing of the caller's request but checked values goes
//! out; no redirect and no proxy variable; no name is looked up but Entra's, which has to prove
//! itself. Leaves when to ask, and how often, to `refresh`.
//!
//! `settings` names the sources · `question` is what goes out, `answer` what comes back, with
//! `expiry` and `retry_after` for the times in it · `secret_file` reads what a source has us show ·
//! `http` and `tls` carry it · `client` puts these together.

pub mod answer;
mod client;
mod error;
pub mod expiry;
mod http;
mod question;
pub mod retry_after;
mod secret_file;
mod settings;
mod tls;

use std::future::Future;

pub use client::Client;
pub use error::{Class, FetchError, Retry};
pub use settings::{Endpoint, Federation, Kind, Settings, Source, Thumbprint};
pub use tls::{TrustError, is_host};

use crate::token::{AccessToken, TokenKey};

/// What is asked of a source.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whose token, and for what.
    pub key: TokenKey,
    /// The SHA-256 of the token that a caller has no use for, if a call was forced.
    pub revoked: Option<[u8; 32]>,
}

/// Where tokens come from. The second implementation is the tests' fake.
pub trait TokenSource: Send + 'static {
    /// Asks once. Ends within a deadline of its own.
    fn fetch(
        &self,
        ask: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static;
}
