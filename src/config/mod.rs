//! The configuration: from one TOML file and a few facts about the process to the settings of
//! every room.
//!
//! Owns the names of all options, their defaults, and the words in which a mistake is told. Each
//! room defines the settings it needs; this room looks down at them and makes them.
//!
//! Promises: no file at all is a working configuration on an Azure VM. All mistakes of a file are
//! told at once, each with its place. Settings that come out of here need no second check, except
//! for what only the system knows: whether an address is free and a folder can be written.
//!
//! `source` reads · `raw` knows what was typed, `names` what can be · `value` and `endpoint` what
//! one value means · `rules` what several must not mean together · `check` settles every option
//! by these, `listener`, `client` and `upstream` those of their tables · `mistake` how it is told when they
//! mean nothing, `veil` what of the file is never shown · `effective` what came out, and from
//! where.

use std::path::Path;
use std::sync::Arc;

mod check;
mod client;
mod detect;
mod effective;
mod endpoint;
mod listener;
mod mistake;
mod names;
mod raw;
mod rules;
mod source;
mod upstream;
mod value;
mod veil;

#[cfg(test)]
mod golden;

pub use effective::Effective;
pub use mistake::{ConfigError, Mistake, Mistakes, Place};
pub(crate) use rules::is_of_this_machine;
pub use source::{Environment, Platform};

use crate::telemetry::log;
use crate::{admin, authz, cache, refresh, server, store};

/// The settings of the whole program. They hold the clients' secrets, which neither `Debug` nor
/// anything else here prints.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[[listener]]` and `[server]`.
    pub server: server::Settings,
    /// Every `[[client]]`, in the order of the file.
    pub clients: Arc<[authz::Client]>,
    /// `[admin]`.
    pub admin: admin::Settings,
    /// `[upstream]`.
    pub upstream: crate::upstream::Settings,
    /// `[refresh]`, and of `[limits]` what is kept there.
    pub refresh: refresh::Options,
    /// The rest of `[limits]`.
    pub limits: cache::Limits,
    /// `[store]`.
    pub store: store::Settings,
    /// `[log]`.
    pub log: log::Settings,
}

/// Reads a configuration file; without one, the defaults.
///
/// # Errors
/// The file cannot be read, or there are mistakes in it or in the environment.
pub fn load(file: Option<&Path>, env: &Environment) -> Result<Settings, ConfigError> {
    explain(file, env).map(|effective| effective.settings)
}

/// As [`load`], and remembers where each setting came from.
///
/// # Errors
/// As [`load`].
pub fn explain(file: Option<&Path>, env: &Environment) -> Result<Effective, ConfigError> {
    let text = file.map(source::read).transpose()?.unwrap_or_default();
    let file = file.unwrap_or(Path::new(""));
    Ok(check::check(&text, file, env, &source::secret)?)
}

/// The settings that a file's text means. `file` names it in mistakes, and relative paths start
/// at its folder; nothing is read, so a client's secret stands in the text itself.
///
/// # Errors
/// All mistakes in the text and in the environment.
pub fn parse(text: &str, file: &Path, env: &Environment) -> Result<Settings, Mistakes> {
    let files = &source::no_secret_files;
    check::check(text, file, env, files).map(|effective| effective.settings)
}

/// Every option as `table.key`, in the order of the reference, for checking documents against.
pub fn option_names() -> impl Iterator<Item = String> {
    names::OPTIONS
        .iter()
        .map(|(table, key, _)| format!("{table}.{key}"))
}
