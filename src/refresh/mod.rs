//! Keeping tokens fresh: the only writer of cache and store, and the only caller of the upstream.
//!
//! Owns when a token is renewed ([`schedule`]), how long to pause after a failure ([`backoff`]),
//! how many calls go out ([`budget`]), whether any does ([`breaker`]), how long each key would last
//! without them and which ones make room for others ([`runway`]), and the [`Worker`], a state
//! machine that puts these together without a timer, thread or socket: `step(now, event)` gives the
//! actions and the next time to wake. [`Writer`] performs its decisions on cache and store;
//! [`Driver`] is the thread that sleeps and asks the upstream. Promises one call per key at a time
//! (but for one that was purged while its call was under way), the budget at all times, and that a
//! failure never overwrites a token. Leaves what callers see to `server`.

pub mod backoff;
pub mod breaker;
pub mod budget;
mod driver;
mod rules;
pub mod runway;
pub mod schedule;
mod worker;
mod writer;

pub use driver::{Driver, Handle, Outcome, Renewal, Stopped, Which};
pub use rules::Rules;
pub use worker::{Action, Event, LastResult, Options, Settings, Step, Worker};
pub use writer::{Job, KeyStatus, Status, Work, Writer};
