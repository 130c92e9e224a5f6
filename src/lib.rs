//! Foretoken: one local proxy in front of a managed identity endpoint.

pub mod admin;
pub mod clock;
pub mod config;
pub mod protocol;
pub mod server;
pub mod store;
pub mod token;
pub mod upstream;
