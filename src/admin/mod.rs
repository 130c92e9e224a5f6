//! What operators look at.

mod settings;
pub use settings::Settings;
