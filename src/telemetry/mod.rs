//! What operators can see: metrics and logs; and what a supervisor can: whether threads turn.
//!
//! Owns every metric's name, unit and labels, and how log lines look. Promises bounded labels and
//! no secret in either. Leaves it to the rooms to say when something happened.

pub mod log;
pub mod metrics;
mod process;
pub mod pulse;
