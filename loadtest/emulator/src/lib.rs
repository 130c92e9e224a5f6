//! An emulator of Azure's sources of managed identity tokens, with limits and faults.
//!
//! It owns the answers a program would get from the source it plays when it asks for a token: the
//! rules of the token endpoint, the refusals, the success body, RS256 tokens that any JWT library
//! verifies, the request limits, and the ways in which the real thing breaks. It promises to be
//! an independent second opinion on the wire format: it shares no code with the proxy it tests.
//! It leaves everything else about Azure to Azure.
//!
//! One request passes through the files in this order:
//!
//! - `server` accepts, over TCP or `tls`; `http` and `body` read a request.
//! - `route` says which part of the emulator is meant, and `answer` finds who answers: `rules` (is
//!   this a proper token request?), `throttle` (may it be served now?), `identities` and
//!   `identity_file` (whose token?).
//! - `kind` has a file for each source with all that is its own: rules, success body, words.
//! - `token_reply` makes the success: `issuer` (a new token or the last one again?), `claims` and
//!   `key` (what a token says, and who signs it), `fields` and `expiry_form` (how it is written).
//! - `refusals` words every error; `metadata` and `discovery` hold the few other documents.
//! - `faults` says what can go wrong, `plan` what goes wrong next, `modes` gives names to it.
//!   `delivery` sends an answer as a `reply`, whole or not, or as a `script` of steps, whose texts
//!   are a `template`, in `gzip` if need be. `door` has the faults that come before a request.
//! - `weather` makes answers slow and capacity short; a `scenario`, read by `scenario_file` with
//!   its `span`s, makes all of this happen in its `timeline`.
//! - `tally` counts, `journal` keeps requests, `control` lets a test steer over HTTP.
//! - `emulator` is the handle that embeds all this in a test or a demo; `settings` its options.
//!
//! ```no_run
//! use foretoken_emulator::{Emulator, Settings};
//!
//! let emulator = Emulator::start(Settings { lifetime_s: 10, ..Settings::default() })?;
//! println!("listening on {}", emulator.address());
//! println!("token calls so far: {}", emulator.counts().token_calls);
//! emulator.stop();
//! # Ok::<(), std::io::Error>(())
//! ```

#![allow(
    clippy::similar_names,
    reason = "names end in their unit: `now_s` beside `now_ms`"
)]

mod answer;
mod body;
mod claims;
mod control;
mod delivery;
mod discovery;
mod door;
mod emulator;
mod expiry_form;
mod faults;
mod fields;
mod gzip;
mod http;
mod identities;
mod identity_file;
mod issuer;
mod journal;
mod key;
mod kind;
mod metadata;
mod modes;
mod plan;
mod query;
#[cfg(test)]
mod recordings;
mod refusals;
mod reply;
mod route;
mod rules;
mod scenario;
mod scenario_file;
mod script;
mod server;
mod settings;
mod span;
mod tally;
mod template;
#[cfg(test)]
mod testing;
mod throttle;
mod time;
mod timeline;
mod tls;
mod token_reply;
mod weather;
mod world;

pub use emulator::Emulator;
pub use expiry_form::ExpiryForm;
pub use faults::{Accept, ExpirySpelling, Fault, FaultKind};
pub use identities::{Identities, Identity};
pub use identity_file::IdentityError;
pub use key::PUBLISHED_TEST_KEY_PEM;
pub use kind::{
    AppService, AppService2017, ArcAgent, AzureMl, DEFAULT_SECRET, Entra, Kind, ServiceFabric,
};
pub use modes::{Group, Keep, Mode, mode_table, modes};
pub use plan::{ModeError, Planned};
pub use scenario::{Phase, Scenario, ScenarioState};
pub use scenario_file::ScenarioError;
pub use script::Step;
pub use settings::{Limits, Settings, Tuning};
pub use tally::{CallCount, Counts, Second};
pub use weather::{Latency, Pressure};
