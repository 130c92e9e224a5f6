//! Log set-up. Messages are constant lower-case sentences; facts are fields.

use std::any::Any;
use std::panic;
use std::thread;

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
        .with_span_events(FmtSpan::NONE)
        // It would be said on standard error, and if nobody reads that any more, by a panic.
        .log_internal_errors(false);
    // An error here means that a subscriber is already set, which is what was wanted.
    let _ = match settings.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}

/// Makes a panic one line of the log like any other: on which thread and where. For the program; tests
/// want to read why.
pub fn tell_panics() {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let thread = thread.name().unwrap_or_default();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let reason = shown(info.payload());
        tracing::error!(thread, place, reason, "panicked");
    }));
}

/// What a panic says, if it is always the same. Other texts quote what they were made of, which may
/// be a token.
fn shown(payload: &(dyn Any + Send)) -> &'static str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("withheld")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_of(panics: impl FnOnce() + panic::UnwindSafe) -> &'static str {
        shown(&*panic::catch_unwind(panics).unwrap_err())
    }

    #[test]
    fn a_panic_says_nothing_that_was_made_while_running() {
        let token = "eyJ\u{e9}.token".to_owned();
        assert_eq!(shown_of(|| panic!("always the same")), "always the same");
        assert_eq!(shown_of(|| panic!("no good: {token}")), "withheld");
        // The library's own messages quote the text that was cut.
        assert_eq!(shown_of(|| drop(token[..4].to_owned())), "withheld");
        assert_eq!(shown_of(|| panic::panic_any(token.clone())), "withheld");
    }
}
