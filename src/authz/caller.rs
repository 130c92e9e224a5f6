//! Who is on the other end of a connection.

use std::net::IpAddr;

/// The facts about a caller, taken once when its connection is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Connected over TCP. The address proves only that the caller runs on this machine, and only
    /// when it is a loopback one.
    Tcp(IpAddr),
    /// Connected over a Unix socket: ids as the kernel recorded them at `connect`.
    Unix {
        /// Effective user id.
        uid: u32,
        /// Effective group id.
        gid: u32,
    },
}

impl Caller {
    /// Whether the caller runs on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.to_canonical().is_loopback(),
            Self::Unix { .. } => true,
        }
    }
}
