//! The closed set of wire formats that callers speak.

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Azure's Instance Metadata Service, `docs/protocols.md`.
    Imds,
}

impl Dialect {
    /// Every dialect, in the order of the configuration reference.
    pub const ALL: [Dialect; 1] = [Dialect::Imds];

    /// The name used in the configuration, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
        }
    }
}
