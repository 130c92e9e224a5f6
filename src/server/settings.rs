//! What the server needs to know.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::protocol::Dialect;

/// The listeners and the threads behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where callers connect.
    pub listeners: Vec<Listener>,
    /// Serving threads; each has a runtime and a cache view of its own.
    pub workers: usize,
}

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// The wire formats it speaks.
    pub dialects: Vec<Dialect>,
    /// Skip this listener where the machine has no such address family. Only the built-in
    /// default `[::1]` listener is optional.
    pub optional: bool,
}

/// `IP:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A loopback TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
