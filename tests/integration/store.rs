//! The store of the built program: what operators see of it, and what it survives.

mod commands;
mod memory;
