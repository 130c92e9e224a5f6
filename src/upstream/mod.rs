//! Token sources.

mod settings;
pub use settings::{Kind, Settings};
