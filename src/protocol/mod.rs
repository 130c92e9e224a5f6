//! Wire formats of callers.

mod dialect;
pub use dialect::Dialect;
