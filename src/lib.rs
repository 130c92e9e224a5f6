//! Foretoken: one local proxy in front of a managed identity endpoint.

pub mod clock;
pub mod token;
