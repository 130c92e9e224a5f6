//! Foretoken: one local proxy in front of a managed identity endpoint.
//!
//! A room imports only rooms above it in this list; `docs/architecture.md` says why, and
//! `tests/tidy.rs` keeps it so.
//!
//! - [`token`]: the words everybody uses. [`clock`]: the only place that reads time. [`sync`]: the
//!   locks and atomics that loom can model.
//! - [`telemetry`]: metrics and logs.
//! - [`protocol`]: callers' wire formats. [`authz`]: may this caller have this token?
//!   [`store`]: sealed records on disk. [`upstream`]: the sources of tokens.
//! - [`cache`]: tokens in memory, and the hot path's data.
//! - [`refresh`]: keeping them fresh; the only writer.
//! - [`admin`]: what operators look at.
//! - [`server`]: sockets, connections, and the handler.
//! - [`config`]: settings from a file.
//! - [`app`]: start and stop. [`cli`]: commands.

pub mod admin;
pub mod app;
pub mod authz;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod protocol;
pub mod refresh;
pub mod server;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod token;
pub mod upstream;
