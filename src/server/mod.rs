//! The front.

mod settings;
pub use settings::{Address, Listener, Settings};
