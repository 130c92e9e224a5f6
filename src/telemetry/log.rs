//! Log set-up. Messages are constant lower-case sentences; facts are fields.

use tracing::Level;
use tracing_subscriber::fmt::format::FmtSpan;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. Later calls change nothing, so that tests may call it freely.
pub fn start(level: Level, format: Format) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE);
    // An error here means that a subscriber is already set, which is what was wanted.
    let _ = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}
