//! What the C library's allocator keeps.
//!
//! It gives each thread an arena of its own, and what is free in one is of no use to the others: a
//! fifth of the memory of a server with 10,000 keys. And it keeps what is freed between what is still
//! in use, in the belief that it is needed again soon: after a herd of ten thousand connections that
//! is ten megabytes for good.

#![allow(
    unsafe_code,
    reason = "the C library's calls have no safe wrapper in any crate that is kept well"
)]

use nix::libc::{M_ARENA_MAX, malloc_trim, mallopt};

/// Has all threads share one arena; a hit does not allocate, so there is little to wait for. To be
/// called while there is one thread. Where the library refuses, there are more arenas.
pub fn share_arena() {
    // SAFETY: it takes two numbers and no pointer, and moves nothing that is in use (mallopt(3)).
    unsafe { mallopt(M_ARENA_MAX, 1) };
}

/// Connections that have closed, before it is worth the while.
const MIN_CLOSED: usize = 1000;

/// When to give back.
#[derive(Default)]
pub(super) struct Trim {
    /// The most connections since it was last done.
    peak: usize,
}

impl Trim {
    /// Whether half of the most connections that there were, and enough, have closed since. To be
    /// asked once a second, with the number of those that are open in the process.
    pub fn is_due(&mut self, open: usize) -> bool {
        self.peak = self.peak.max(open);
        let closed = self.peak - open;
        let due = closed >= MIN_CLOSED && closed >= self.peak / 2;
        if due {
            self.peak = open;
        }
        due
    }
}

/// Gives back what is free: some milliseconds, in which others wait who allocate. A hit on a known
/// head does not.
pub(super) fn give_back() {
    // SAFETY: it takes a number and no pointer, may be called by any thread at any time, and moves
    // nothing that is in use (malloc_trim(3): MT-Safe).
    unsafe { malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_most_of_many_connections_have_closed() {
        let mut trim = Trim::default();
        let due = [10_000, 6000, 5000, 5000, 4500, 0, 0, 900, 0, 1999, 1000];
        let due = due.map(|open| trim.is_due(open));
        let wanted = [2, 5].map(|at| due[at]);
        assert_eq!(wanted, [true, true]);
        assert_eq!(due.iter().filter(|due| **due).count(), 2, "{due:?}");
    }
}
