//! The settings in force and where each came from, for `foretoken check`.
//!
//! Owns the text of that report: one line for each setting, `name = value  # origin`, with the
//! value as it would be typed; only of a secret it says no more than that there is one.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Settings;
use super::listener::expires_on_name;
use super::mistake::line_of;
use super::names::REMOTE;
use super::value::outage_name;
use crate::authz::Client;
use crate::protocol::Dialect;
use crate::server::Listener;
use crate::upstream::{Federation, Source};

/// Columns, beyond which a setting's origin stands out of line.
const MAX_WIDTH: usize = 100;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nobody asked for anything else.
    Default,
    /// The default, in a folder that this environment variable names.
    Environment(&'static str),
    /// These bytes of the file.
    File(Range<usize>),
    /// These bytes of the file left the choice to these facts.
    Found(Range<usize>, &'static str),
}

impl Origin {
    /// The bytes of the file, if it is from there.
    pub fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::File(span) | Self::Found(span, _) => Some(span.clone()),
            Self::Default | Self::Environment(_) => None,
        }
    }

    /// "default", a file and line, or a variable.
    fn told(&self, text: &str, file: &str) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Environment(variable) => format!("${variable}"),
            Self::File(span) => format!("{file}:{}", line_of(text, span.start)),
            Self::Found(span, why) => format!("{file}:{}: {why}", line_of(text, span.start)),
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
        // One long list does not push every origin off the screen.
        let width = widths.filter(|width| *width <= MAX_WIDTH).max();
        let width = width.unwrap_or_default();
        for (row, origin) in rows {
            writeln!(f, "{row:width$}  # {origin}")?;
        }
        Ok(())
    }
}

fn rows(settings: &Settings) -> Vec<(String, String)> {
    let Settings {
        server,
        clients,
        admin,
        upstream,
        refresh,
        limits,
        store,
        log,
    } = settings;
    let path = |path: &PathBuf| quoted(path);
    let listeners = server.listeners.iter().enumerate();
    let mut rows: Vec<_> = listeners
        .flat_map(|(nth, listener)| listener_rows(nth, listener))
        .collect();
    let clients = clients.iter().enumerate();
    rows.extend(clients.flat_map(|(nth, client)| client_rows(nth, client)));
    let socket = admin.socket.as_ref().map_or("\"off\"".to_owned(), path);
    let others = [
        ("admin.address", format!("\"{}\"", admin.address)),
        ("admin.socket", socket),
    ];
    rows.extend(others.map(|(name, value)| (name.to_owned(), value)));
    rows.extend(source_rows(&upstream.source));
    let others = [
        ("upstream.max_in_flight", upstream.max_in_flight.to_string()),
        (
            "upstream.max_per_second",
            upstream.max_per_second.to_string(),
        ),
        (
            "refresh.outage_to_survive",
            format!("{:?}", outage_name(refresh.outage_to_survive_ms)),
        ),
        ("refresh.time_scale", refresh.time_scale.to_string()),
        ("limits.max_keys", limits.max_keys.to_string()),
        ("limits.max_waiters", limits.max_waiters.to_string()),
        ("limits.max_negatives", refresh.max_negatives.to_string()),
        ("store.mode", format!("{:?}", mode_name(store.mode))),
        ("store.engine", format!("{:?}", engine_name(store.engine))),
        ("store.path", path(&store.path)),
        ("store.key", path(&store.key)),
        ("server.workers", server.workers.to_string()),
        ("server.pin_workers", server.pin_workers.to_string()),
        (
            &format!("server.{REMOTE}"),
            server.remote_callers.to_string(),
        ),
        ("log.level", format!("{:?}", log.level.as_str())),
        ("log.format", format!("{:?}", log.format.as_str())),
    ];
    rows.extend(others.map(|(name, value)| (name.to_owned(), value)));
    rows
}

/// Options of a dialect are told where it is spoken.
fn listener_rows(nth: usize, listener: &Listener) -> Vec<(String, String)> {
    let dialects = listener.dialects.iter().copied().map(Dialect::as_str);
    let dialects: Vec<_> = dialects.collect();
    let address = listener.address.to_string();
    let mut rows = vec![
        ("address", format!("{address:?}")),
        ("dialects", format!("{dialects:?}")),
    ];
    if listener.dialects.contains(&Dialect::AppService2017) {
        let form = expires_on_name(listener.expires_on_2017);
        rows.push(("expires_on_2017", format!("{form:?}")));
    }
    if listener.dialects.contains(&Dialect::Imds) {
        rows.push(("without_metadata", listener.without_metadata.to_string()));
    }
    rows.extend(listener.tls.as_ref().map(|tls| ("tls", quoted(tls))));
    if let Some(arc) = &listener.arc {
        rows.push(("arc_folder", quoted(&arc.folder)));
        rows.extend(
            arc.group
                .iter()
                .map(|group| ("arc_group", format!("{group:?}"))),
        );
        rows.push(("arc_allow_agent", arc.allow_agent.to_string()));
    }
    let rows = rows.into_iter();
    rows.map(|(key, value)| (listener_option(nth, key), value))
        .collect()
}

/// A client's name, what it may have, and that it has a secret.
fn client_rows(nth: usize, client: &Client) -> Vec<(String, String)> {
    let Client {
        name,
        secret: _,
        identities,
        resources,
        default_identity,
    } = client;
    let identities: Vec<_> = identities.iter().map(ToString::to_string).collect();
    let mut rows = vec![
        ("name", format!("{name:?}")),
        ("secret", "(set)".to_owned()),
        ("identities", format!("{identities:?}")),
    ];
    if !resources.is_empty() {
        rows.push(("resources", format!("{resources:?}")));
    }
    let default = default_identity.as_ref();
    rows.extend(default.map(|it| ("default_identity", format!("\"{it}\""))));
    let rows = rows.into_iter();
    rows.map(|(key, value)| (client_option(nth, key), value))
        .collect()
}

/// Where tokens come from: of secrets no more than that there is one, of an endpoint's query
/// nothing.
fn source_rows(source: &Source) -> Vec<(String, String)> {
    let text = |text: &str| format!("{text:?}");
    let mut rows = vec![("kind", text(source.kind().as_str()))];
    if let Some(endpoint) = source.endpoint() {
        let scheme = match source {
            Source::ServiceFabric { .. } => "https",
            _ => "http",
        };
        let path = match source {
            Source::Imds(_) => "",
            _ => endpoint.target.split('?').next().unwrap_or_default(),
        };
        let shown = match source {
            Source::Imds(_) => endpoint.address.to_string(),
            _ => endpoint.authority.to_string(),
        };
        let query = if endpoint.target.contains('?') {
            "?(hidden)"
        } else {
            ""
        };
        rows.push(("endpoint", format!("\"{scheme}://{shown}{path}{query}\"")));
    }
    let set = || ("secret", "(set)".to_owned());
    match source {
        Source::Imds(_) | Source::CloudShell(_) | Source::VmExtension(_) => {}
        Source::AppService(..) | Source::AppService2017(..) => rows.push(set()),
        Source::AzureMl {
            default_client_id, ..
        } => {
            rows.push(set());
            let id = default_client_id.as_ref();
            rows.extend(id.map(|id| ("default_client_id", text(id))));
        }
        Source::Arc { folder, .. } => rows.push(("arc_folder", quoted(folder))),
        Source::ServiceFabric { thumbprint, .. } => {
            rows.push(set());
            rows.push(("thumbprint", format!("\"{thumbprint}\"")));
        }
        Source::WorkloadIdentity(federation) => {
            let Federation {
                host,
                port,
                tenant,
                client_id,
                token_file,
                ca_file,
            } = federation;
            rows.push(("authority", format!("\"https://{host}:{port}\"")));
            rows.push(("tenant", text(tenant)));
            rows.push(("client_id", text(client_id)));
            rows.push(("token_file", quoted(token_file)));
            rows.extend(ca_file.as_ref().map(|file| ("ca_file", quoted(file))));
        }
    }
    let rows = rows.into_iter();
    rows.map(|(key, value)| (format!("upstream.{key}"), value))
        .collect()
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// A listener's option by name; listeners are counted from 1.
pub(super) fn listener_option(nth: usize, key: &str) -> String {
    format!("listener[{}].{key}", nth + 1)
}

/// A client's option by name; clients are counted from 1.
pub(super) fn client_option(nth: usize, key: &str) -> String {
    format!("client[{}].{key}", nth + 1)
}

/// The name of a store's engine in the configuration.
pub(super) fn engine_name(engine: crate::store::Engine) -> &'static str {
    match engine {
        crate::store::Engine::Sled => "sled",
        crate::store::Engine::Log => "log",
    }
}

/// The name of a store mode in the configuration.
pub(super) fn mode_name(mode: crate::store::Mode) -> &'static str {
    match mode {
        crate::store::Mode::Sealed => "sealed",
        crate::store::Mode::Off => "off",
    }
}
