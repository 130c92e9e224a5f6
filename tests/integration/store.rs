//! The store of the built program: what operators see of it, and what it survives.
//!
//! Sizes here are for every run of the tests; `./recipes store` sets the long ones by the
//! environment variables that the modules name. `docs/reliability.md` keeps what was seen.

mod commands;
mod damage;
mod full;
mod kills;
mod memory;
mod rotation;
mod shim;
mod site;
mod slow;
mod starts;
mod syscalls;
