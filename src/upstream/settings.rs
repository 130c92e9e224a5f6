//! What the upstream needs to know.

use std::net::SocketAddr;

/// Which source of tokens to ask, and how hard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The kind of source.
    pub kind: Kind,
    /// Where it listens. An address, never a name: asking DNS for the place that hands out
    /// credentials would let DNS choose it.
    pub endpoint: SocketAddr,
    /// Calls under way at once, for the whole machine. IMDS allows 5 per VM.
    pub max_in_flight: usize,
    /// Calls started in any one second, for the whole machine. IMDS allows 20 per VM.
    pub max_per_second: usize,
}

/// `upstream.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Azure's Instance Metadata Service.
    Imds,
}

impl Kind {
    /// The name used in the configuration, logs and token keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
        }
    }
}
