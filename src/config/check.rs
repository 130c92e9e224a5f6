//! A configuration as meant: every option settled, by what was typed or by its default.
//!
//! Owns the defaults and the limits of numbers. Promises that a mistake in one option does not
//! hide those in others. Leaves what one value means to `value.rs`, what several mean together to
//! `rules.rs`, the tables that come again to `listener.rs` and `client.rs`, and where tokens come
//! from to `upstream.rs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::effective::{Effective, Meant, Origin, engine_name, mode_name};

use super::mistake::{At, Complaint, Mistake, Mistakes, without_echoes};
use super::names::REMOTE;
use super::raw::{Document, Table, Typed};
use super::rules::Rules;
use super::source::{Environment, Platform, SecretFiles};
use super::{Settings, value};
use crate::server::Address;
use crate::store::{Engine, Mode};
use crate::telemetry::log::{self, Format, Level};
use crate::{admin, cache, refresh, server, store};

/// Below 32768, where Linux begins to hand out ports by itself; `listener.rs` has the one below.
const ADMIN_PORT: u16 = 16926;

/// Each worker costs a thread and a view of the cache; more than this is a slip of the finger.
const WORKERS_LIMITS: RangeInclusive<usize> = 1..=256;

/// Fewer would not do for a machine with many identities; more is memory that no VM has.
const MAX_KEYS_LIMITS: RangeInclusive<usize> = 100..=1_000_000;
const MAX_WAITERS_LIMITS: RangeInclusive<usize> = 100..=1_000_000;
const MAX_NEGATIVES_LIMITS: RangeInclusive<usize> = 10..=1_000_000;
/// Of `refresh.time_scale`.
const TIME_SCALES: RangeInclusive<usize> = 1..=1000;

/// What a configuration means, or everything that is wrong with it.
pub(super) fn check(
    text: &str,
    file: &Path,
    env: &Environment,
    secret_files: &SecretFiles,
) -> Result<Effective, Mistakes> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (document, slips) = Document::parse(text);
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut check = Check {
        folder: env.working_directory.join(folder),
        state: env.state(),
        credentials: env.credentials(),
        platform: &env.platform,
        secret_files,
        stateless: false,
        whole: slips.is_empty(),
        found: document.misplaced(),
        origins: Vec::new(),
        rules: Rules::default(),
    };
    let settings = check.settings(&document, env.cpus);
    check.found.extend(check.rules.broken());

    let found = without_echoes(check.found, &slips, text);
    let placed = slips.into_iter().chain(found);
    let placed = placed.map(|complaint| Mistake::placed(complaint, text, file));
    let stateless = check.stateless.then(no_state);
    let mut mistakes: Vec<_> = placed.chain(stateless).collect();
    mistakes.sort_by_key(|m| m.place.as_ref().map(|place| (place.line, place.column)));
    match settings {
        Some(settings) if mistakes.is_empty() => {
            Ok(Effective::new(settings, check.origins, text, file))
        }
        _ => Err(Mistakes(mistakes)),
    }
}

/// Work under way.
pub(super) struct Check<'e> {
    /// Where relative paths start.
    pub folder: PathBuf,
    /// The folder for what outlives a restart, and the variable that names it.
    state: Option<(PathBuf, &'static str)>,
    /// systemd's folder of credentials.
    credentials: Option<PathBuf>,
    /// What the platform tells about its source of tokens.
    pub platform: &'e Platform,
    /// Reads what `secret_file` names.
    pub secret_files: &'e SecretFiles,
    /// A default needs a folder for state, and there is none.
    stateless: bool,
    /// The text is all TOML, so what is not there was not typed.
    pub whole: bool,
    pub found: Vec<At<Complaint>>,
    origins: Vec<(String, Origin)>,
    pub rules: Rules,
}

/// Each table gives `None` if one of its options is wrong; why is in `found`.
impl Check<'_> {
    fn settings(&mut self, document: &Document<'_>, cpus: usize) -> Option<Settings> {
        let server = document.table("server");
        let remote = self.remote(&server);
        let listeners = self.listeners(document.tables("listener"), remote);
        let clients = self.clients(&document.tables("client").unwrap_or_default());
        let admin = self.admin(&document.table("admin"));
        let upstream = self.upstream(&document.table("upstream"));
        let refresh = document.table("refresh");
        let (outage, time_scale) = (self.outage_to_survive(&refresh), self.time_scale(&refresh));
        let limits = self.limits(&document.table("limits"));
        let store = self.store(&document.table("store"));
        let workers = self.workers(&server, cpus);
        let pin_workers = self.pin_workers(&server);
        let log = self.log(&document.table("log"));
        let (limits, max_negatives) = limits?;
        Some(Settings {
            server: server::Settings {
                listeners: listeners?,
                workers: workers?,
                pin_workers: pin_workers?,
                remote_callers: remote?,
            },
            clients: clients?,
            admin: admin?,
            upstream: upstream?,
            refresh: refresh::Options {
                outage_to_survive_ms: outage?,
                max_negatives,
                time_scale: time_scale?,
            },
            limits,
            store: store?,
            log: log?,
        })
    }

    fn admin(&mut self, table: &Table<'_>) -> Option<admin::Settings> {
        let folder = self.folder.clone();
        let typed = table.string("address");
        let default = fixed(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)));
        let address = self.option("admin.address", typed, value::admin_address, default);
        let typed = table.string("socket");
        let meaning = |typed: &str| value::admin_socket(typed, &folder);
        let default = self.in_state("admin.sock", &typed);
        let default = default.map(|path| path.map(Some));
        let socket = self.option("admin.socket", typed, meaning, default);

        let tcp = address.clone().map(|address| address.map(Address::Tcp));
        self.rules.takes("admin.address", tcp);
        let unix = socket.clone().and_then(Meant::transpose);
        let unix = unix.map(|path| path.map(Address::Unix));
        self.rules.takes("admin.socket", unix);
        Some(admin::Settings {
            address: address?.value,
            socket: socket?.value,
        })
    }

    fn outage_to_survive(&mut self, table: &Table<'_>) -> Option<u64> {
        let typed = table.string("outage_to_survive");
        let default = fixed(refresh::Options::default().outage_to_survive_ms);
        let name = "refresh.outage_to_survive";
        Some(self.option(name, typed, value::outage, default)?.value)
    }

    fn time_scale(&mut self, table: &Table<'_>) -> Option<u64> {
        let typed = table.integer("time_scale");
        let meaning = |typed: &_| value::number(typed, &TIME_SCALES);
        let scale = self.option("refresh.time_scale", typed, meaning, fixed(1))?;
        u64::try_from(scale.value).ok()
    }

    fn limits(&mut self, table: &Table<'_>) -> Option<(cache::Limits, usize)> {
        let mut limit = |key, limits, default| {
            let typed = table.integer(key);
            let meaning = |typed: &_| value::number(typed, &limits);
            self.option(&format!("limits.{key}"), typed, meaning, fixed(default))
        };
        let cache::Limits {
            max_keys,
            max_waiters,
        } = cache::Limits::default();
        let keys = limit("max_keys", MAX_KEYS_LIMITS, max_keys);
        let waiters = limit("max_waiters", MAX_WAITERS_LIMITS, max_waiters);
        let negatives = refresh::Options::default().max_negatives;
        let negatives = limit("max_negatives", MAX_NEGATIVES_LIMITS, negatives);
        let limits = cache::Limits {
            max_keys: keys?.value,
            max_waiters: waiters?.value,
        };
        Some((limits, negatives?.value))
    }

    fn store(&mut self, table: &Table<'_>) -> Option<store::Settings> {
        let folder = self.folder.clone();
        let typed = table.string("mode");
        let meaning = |typed: &str| value::choice(typed, &[Mode::Sealed, Mode::Off], mode_name);
        let mode = self.option("store.mode", typed, meaning, fixed(Mode::Sealed));
        let typed = table.string("engine");
        let meaning = |typed: &str| value::choice(typed, &[Engine::Sled, Engine::Log], engine_name);
        let engine = self.option("store.engine", typed, meaning, fixed(Engine::Sled));
        let off = mode.as_ref().is_some_and(|mode| mode.value == Mode::Off);
        let mut place = |key, file| {
            let typed = table.string(key);
            // A store that is off needs no folder, so the lack of one is no mistake.
            let default = if off && self.state.is_none() {
                fixed(PathBuf::new())
            } else {
                self.in_state(file, &typed)
            };
            let meaning = |typed: &str| value::path(typed, &folder);
            self.option(&format!("store.{key}"), typed, meaning, default)
        };
        let path = place("path", "store");
        let key = place("key", "foretoken.key");
        self.rules.store.clone_from(&path);
        self.rules.key.clone_from(&key);
        Some(store::Settings {
            mode: mode?.value,
            engine: engine?.value,
            path: path?.value,
            key: key?.value,
            credentials: self.credentials.clone(),
        })
    }

    fn remote(&mut self, table: &Table<'_>) -> Option<bool> {
        let typed = table.boolean(REMOTE);
        let remote = self.option(&format!("server.{REMOTE}"), typed, Ok, fixed(false))?;
        Some(remote.value)
    }

    fn pin_workers(&mut self, table: &Table<'_>) -> Option<bool> {
        let typed = table.boolean("pin_workers");
        let pin = self.option("server.pin_workers", typed, Ok, fixed(true))?;
        Some(pin.value)
    }

    fn workers(&mut self, table: &Table<'_>, cpus: usize) -> Option<usize> {
        let typed = table.integer("workers");
        let meaning = |typed: &_| value::number(typed, &WORKERS_LIMITS);
        let default = cpus.clamp(*WORKERS_LIMITS.start(), *WORKERS_LIMITS.end());
        let workers = self.option("server.workers", typed, meaning, fixed(default))?;
        Some(workers.value)
    }

    fn log(&mut self, table: &Table<'_>) -> Option<log::Settings> {
        let typed = table.string("level");
        let meaning = |typed: &str| value::choice(typed, &Level::ALL, Level::as_str);
        let level = self.option("log.level", typed, meaning, fixed(Level::Info));
        let typed = table.string("format");
        let meaning = |typed: &str| value::choice(typed, &Format::ALL, Format::as_str);
        let format = self.option("log.format", typed, meaning, fixed(Format::Text));
        Some(log::Settings {
            level: level?.value,
            format: format?.value,
        })
    }

    /// An option without a default. That it is missing is known only of a text that is all TOML.
    pub fn required<T>(
        &self,
        table: &Table<'_>,
        typed: Typed<T>,
        missing: impl FnOnce() -> Complaint,
    ) -> Typed<T> {
        match typed {
            Ok(None) if self.whole => Err(missing().at(table.span.clone())),
            typed => typed,
        }
    }

    /// Settles an option whose value is right or wrong as a whole.
    pub fn option<V, T>(
        &mut self,
        name: &str,
        typed: Typed<V>,
        meaning: impl FnOnce(V) -> Result<T, Complaint>,
        default: Option<Meant<T>>,
    ) -> Option<Meant<T>> {
        let meaning = |at: At<V>| meaning(at.value).map_err(|wrong| vec![wrong.at(at.span)]);
        self.settle(name, typed, meaning, default)
    }

    /// Settles an option: what was typed, else the default, else nothing.
    pub fn settle<V, T>(
        &mut self,
        name: &str,
        typed: Typed<V>,
        meaning: impl FnOnce(At<V>) -> Result<T, Vec<At<Complaint>>>,
        default: Option<Meant<T>>,
    ) -> Option<Meant<T>> {
        let settled = match typed {
            Ok(None) => default,
            Ok(Some(at)) => {
                let origin = Origin::File(at.span.clone());
                match meaning(at) {
                    Ok(value) => Some(Meant { value, origin }),
                    Err(wrong) => {
                        self.found.extend(wrong);
                        None
                    }
                }
            }
            Err(wrong) => {
                self.found.push(wrong);
                None
            }
        };
        let origin = settled.as_ref().map(|meant| meant.origin.clone());
        self.origins
            .extend(origin.map(|origin| (name.to_owned(), origin)));
        settled
    }

    /// Says anew where a setting came from.
    pub fn retell(&mut self, name: &str, origin: Origin) {
        self.origins.retain(|(known, _)| known != name);
        self.origins.push((name.to_owned(), origin));
    }

    /// A default in the folder for state. That there is none matters only where it is needed.
    pub fn in_state<T>(&mut self, file: &str, typed: &Typed<T>) -> Option<Meant<PathBuf>> {
        self.stateless |= self.whole && self.state.is_none() && matches!(typed, Ok(None));
        let (folder, variable) = self.state.as_ref()?;
        Some(Meant {
            value: folder.join(file),
            origin: Origin::Environment(variable),
        })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "not every option has a default")]
pub(super) fn fixed<T>(value: T) -> Option<Meant<T>> {
    let origin = Origin::Default;
    Some(Meant { value, origin })
}

fn no_state() -> Mistake {
    Mistake {
        place: None,
        message: "there is no folder for what outlives a restart: none of $STATE_DIRECTORY, \
                  $XDG_STATE_HOME and $HOME is an absolute path"
            .to_owned(),
        hint: "set one of them, or set `admin.socket`, `store.path` and `store.key`; \"off\" for \
               `admin.socket` and `store.mode` needs no folder"
            .to_owned(),
    }
}
