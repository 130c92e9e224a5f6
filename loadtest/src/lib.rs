//! The load driver: asks a managed identity endpoint for tokens, at a pace and in the words of
//! real clients, checks every answer, and tells how long they took.
//!
//! It shares no code with the proxy it drives; what is right is for `check` to say, from the
//! token itself.
//!
//! - `plan` says what is asked; `heads` has the requests of real clients, `keys` which key is next,
//!   `pace` when.
//! - `driver` starts the threads, and a `worker` is one: its `link`s, its `clock`, and the
//!   `answer`s on them, each judged by `check`.
//! - `outcome` counts what became of requests, `latency` how long they took.
//! - `timeline` keeps a load in intervals, `story` what happened around it, `refreshes` what callers
//!   felt of renewals; `processes` are clients of their own, `beside` the loads run `slow` ones.
//! - `measure` puts loads together with the server's `process`, and `ask`s before and after;
//!   `report` is what comes out, `html` shows it. A `scenario` has all of it in a file, and what it is
//!   to `expect`.
//! - `compare` sets servers side by side; `peer` has those that it brings itself.

#![allow(
    clippy::similar_names,
    reason = "names end in their unit: `ends_s` beside `ends_ms`"
)]

mod answer;
mod ask;
mod beside;
mod check;
mod clock;
pub mod compare;
mod driver;
mod expect;
mod heads;
mod html;
mod idle;
mod keys;
mod latency;
mod life;
mod link;
mod measure;
mod outcome;
mod pace;
mod peer;
mod plan;
mod process;
mod processes;
mod refreshes;
mod report;
mod scenario;
mod scenario_file;
mod slow;
mod span;
mod story;
mod timeline;
mod waits;
mod worker;

pub use driver::{Driven, Moment, drive};
pub use expect::Expected;
pub use heads::Client;
pub use html::html;
pub use latency::{Latency, Percentiles};
pub use life::LifeLeft;
pub use measure::{Around, Source, measure};
pub use outcome::{Counts, Failed, Outcome, Wrong};
pub use peer::{Own, hyper_version};
pub use plan::{Keep, Length, Pace, Plan, Target};
pub use process::Server;
pub use processes::{COMMAND as CLIENT_COMMAND, client};
pub use refreshes::{Felt, Lag, PhaseRefreshes, Refreshes};
pub use report::{ClientUse, Idle, Load, Planned, Report, ServerUse, Upstream};
pub use scenario::Scenario;
pub use slow::{Slow, SlowAt, SlowUse};
pub use span::span;
pub use story::{PhaseSpan, Seconds, Story};
pub use timeline::Columns;
