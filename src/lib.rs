//! Foretoken: one local proxy in front of a managed identity endpoint.

pub mod admin;
pub mod authz;
pub mod cache;
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
