//! The driver against servers that are wrong on purpose: each fault is counted as what it is.

#![allow(
    clippy::disallowed_methods,
    reason = "a server that dates tokens and stands still at a given time reads the clocks"
)]

mod fake;
mod faults;
mod pace;
