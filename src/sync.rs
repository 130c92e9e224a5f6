//! The atomics, locks and wakers that `cache/slot.rs`, `cache/flight.rs` and the clock are built from.
//!
//! The cargo feature `loom` points them at loom's models of the same types, so that the code the
//! models explore is the code that ships.

#[cfg(not(feature = "loom"))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

#[cfg(feature = "loom")]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

pub use std::task::Waker;

/// Locks, and goes on after another holder's panic: every critical section here leaves its data
/// whole at each step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
