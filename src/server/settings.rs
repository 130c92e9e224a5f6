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
    /// Each worker is bound to a CPU of its own, and takes the connections that come from there.
    pub pin_workers: bool,
    /// Listeners may stand on addresses that other machines reach, and answer those machines:
    /// `server.i_understand_that_tokens_leave_this_machine`.
    pub remote_callers: bool,
}

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// The wire formats it speaks.
    pub dialects: Vec<Dialect>,
    /// How `expires_on` is written by the dialect `app-service-2017`.
    pub expires_on_2017: ExpiresOn,
    /// Answer token requests of the dialect `imds` that lack `Metadata: true`, for clients whose
    /// probe wants a token. Off unless asked for: the header is what keeps forged requests out.
    pub without_metadata: bool,
    /// The folder with certificate and key, for the dialect `service-fabric` and no other.
    pub tls: Option<PathBuf>,
    /// The key files of the challenge, for the dialect `arc` and no other.
    pub arc: Option<ArcSettings>,
    /// Skip this listener where the machine has no such address family. Only the built-in
    /// default `[::1]` listener is optional.
    pub optional: bool,
}

/// `listener.expires_on_2017`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpiresOn {
    /// Seconds since the epoch, as Azure ML writes it and current clients read it.
    #[default]
    Epoch,
    /// `06/20/2019 02:57:58 +00:00`, as App Service on Linux wrote it: the only form that
    /// `@azure/identity` 1 and 2 read.
    Date,
}

/// What the dialect `arc` needs of the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArcSettings {
    /// Where key files are put. Clients take them from `/var/opt/azcmagent/tokens` and nowhere
    /// else.
    pub folder: PathBuf,
    /// The group that may read the key files; `None` leaves them the group of the process.
    pub group: Option<Box<str>>,
    /// Work in the folder even though a real agent does.
    pub allow_agent: bool,
}

/// `IP:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address: a loopback one, unless [`Settings::remote_callers`].
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
