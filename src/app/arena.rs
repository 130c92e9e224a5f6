//! One arena of the C library's allocator for all threads.
//!
//! It would give each thread one of its own, and what is free in one is of no use to the others: a
//! fifth of the memory of a server with 10,000 keys. A hit does not allocate, so there is little to
//! wait for.

#![allow(
    unsafe_code,
    reason = "the C library's call has no safe wrapper in any crate that is kept well"
)]

use nix::libc::{M_ARENA_MAX, mallopt};

/// To be called while there is one thread. Where the library refuses, there are more arenas.
pub fn share_arena() {
    // SAFETY: it takes two numbers and no pointer, and moves nothing that is in use (mallopt(3)).
    unsafe { mallopt(M_ARENA_MAX, 1) };
}
