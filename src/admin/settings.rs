//! What the admin endpoints need to know.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where operators look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Read-only endpoints: `/livez`, `/readyz`, `/metrics`, `/status`.
    pub address: SocketAddr,
    /// The same plus whatever changes state, for root and the service's own user.
    pub socket: Option<PathBuf>,
}
