//! Log set-up. Messages are constant lower-case sentences; facts are fields.

use tracing_subscriber::fmt::format::FmtSpan;

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The least urgent level that is written.
    pub level: Level,
    /// The shape of a line.
    pub format: Format,
}

/// `log.level`, from urgent to chatty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed that an operator has to act on.
    Error,
    /// Something is off, and Foretoken copes.
    Warn,
    /// Starts, stops and changes of state.
    Info,
    /// Single upstream calls and connections.
    Debug,
    /// Everything there is.
    Trace,
}

impl Level {
    /// Every level, in the order of the configuration reference.
    pub const ALL: [Self; 5] = [
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// The name used in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl Format {
    /// Every format, in the order of the configuration reference.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The name used in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Starts logging to standard error. Later calls change nothing, so that tests may call it freely.
pub fn start(settings: Settings) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(settings.level))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE);
    // An error here means that a subscriber is already set, which is what was wanted.
    let _ = match settings.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}
