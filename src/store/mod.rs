//! Sealed records on disk.

mod settings;
pub use settings::{Mode, Settings};
