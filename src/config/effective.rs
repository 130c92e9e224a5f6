//! The settings in force and where each came from, for `foretoken check`.
//!
//! Owns the text of that report: one line for each setting, `name = value  # origin`, with the
//! value as it would be typed.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Settings;
use super::mistake::line_of;
use crate::protocol::Dialect;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nobody asked for anything else.
    Default,
    /// The default, in a folder that this environment variable names.
    Environment(&'static str),
    /// These bytes of the file.
    File(Range<usize>),
}

impl Origin {
    /// The bytes of the file, if it is from there.
    pub fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::File(span) => Some(span.clone()),
            Self::Default | Self::Environment(_) => None,
        }
    }

    /// "default", a file and line, or a variable.
    fn told(&self, text: &str, file: &str) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Environment(variable) => format!("${variable}"),
            Self::File(span) => format!("{file}:{}", line_of(text, span.start)),
        }
    }
}

/// What an option means, and why.
#[derive(Debug, Clone)]
pub(super) struct Meant<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Meant<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Meant<U> {
        Meant {
            value: f(self.value),
            origin: self.origin,
        }
    }
}

impl<T> Meant<Option<T>> {
    pub fn transpose(self) -> Option<Meant<T>> {
        let Self { value, origin } = self;
        value.map(|value| Meant { value, origin })
    }
}

/// Settings with their origins. Displays as one line for each setting.
#[derive(Debug, Clone)]
pub struct Effective {
    /// What is in force.
    pub settings: Settings,
    /// By the setting's name, in words.
    origins: Vec<(String, String)>,
}

impl Effective {
    pub(super) fn new(
        settings: Settings,
        origins: Vec<(String, Origin)>,
        text: &str,
        file: &Path,
    ) -> Self {
        let file = file.display().to_string();
        let origins = origins.into_iter();
        let told = origins.map(|(name, origin)| (name, origin.told(text, &file)));
        Self {
            settings,
            origins: told.collect(),
        }
    }

    fn origin(&self, name: &str) -> &str {
        let found = self.origins.iter().find(|(known, _)| known == name);
        found.map_or("default", |(_, origin)| origin)
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = rows(&self.settings)
            .into_iter()
            .map(|(name, value)| (format!("{name} = {value}"), self.origin(&name).to_owned()))
            .collect();
        let widths = rows.iter().map(|(row, _)| row.chars().count());
        let width = widths.max().unwrap_or_default();
        for (row, origin) in rows {
            writeln!(f, "{row:width$}  # {origin}")?;
        }
        Ok(())
    }
}

fn rows(settings: &Settings) -> Vec<(String, String)> {
    let Settings {
        server,
        clients: _,
        admin,
        upstream,
        store,
        log,
    } = settings;
    let path = |path: &PathBuf| format!("{:?}", path.display().to_string());
    let mut rows = Vec::new();
    for (nth, listener) in server.listeners.iter().enumerate() {
        let name = |key| listener_option(nth, key);
        let dialects: Vec<_> = listener
            .dialects
            .iter()
            .copied()
            .map(Dialect::as_str)
            .collect();
        let address = listener.address.to_string();
        rows.push((name("address"), format!("{address:?}")));
        rows.push((name("dialects"), format!("{dialects:?}")));
    }
    let socket = admin.socket.as_ref().map_or("\"off\"".to_owned(), path);
    let others = [
        ("admin.address", format!("\"{}\"", admin.address)),
        ("admin.socket", socket),
        ("upstream.kind", format!("{:?}", upstream.kind.as_str())),
        (
            "upstream.endpoint",
            format!("\"http://{}\"", upstream.endpoint),
        ),
        ("upstream.max_in_flight", upstream.max_in_flight.to_string()),
        (
            "upstream.max_per_second",
            upstream.max_per_second.to_string(),
        ),
        ("store.mode", format!("{:?}", mode_name(store.mode))),
        ("store.path", path(&store.path)),
        ("store.key", path(&store.key)),
        ("server.workers", server.workers.to_string()),
        ("log.level", format!("{:?}", log.level.as_str())),
        ("log.format", format!("{:?}", log.format.as_str())),
    ];
    rows.extend(others.map(|(name, value)| (name.to_owned(), value)));
    rows
}

/// A listener's option by name; listeners are counted from 1.
pub(super) fn listener_option(nth: usize, key: &str) -> String {
    format!("listener[{}].{key}", nth + 1)
}

/// The name of a store mode in the configuration.
pub(super) fn mode_name(mode: crate::store::Mode) -> &'static str {
    match mode {
        crate::store::Mode::Sealed => "sealed",
        crate::store::Mode::Off => "off",
    }
}
