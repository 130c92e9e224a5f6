//! What the process asks of the kernel for itself: no core files, and enough descriptors.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Descriptors that connections leave to the upstream, the store, the admin endpoints and the
/// listeners: an outage of any of these must not come from idle callers.
const RESERVED_DESCRIPTORS: usize = 128;
/// What the process holds itself at rest, and room for calls and the admin endpoints.
const OWN_DESCRIPTORS: usize = 36;
/// A worker's own: its poll, its wake-up and its listeners.
const DESCRIPTORS_PER_WORKER: usize = 6;

/// Forbids core files and reading this process's memory to other processes of the same user. Where
/// the kernel refuses, a warning: a start must not fail for it.
pub fn harden() {
    let no_core = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let not_dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = no_core.and(not_dumpable) {
        tracing::warn!(%error, "core files could not be forbidden");
    }
}

/// Raises the limit on descriptors as far as it goes and says how many connections fit into it.
/// Services are started with a soft limit of 1,024 for the sake of programs that use `select`.
#[must_use]
pub fn max_connections(workers: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    let limit = if raised.is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    let limit = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    places(limit, workers)
}

/// Of so many descriptors, those that callers may take: of few half, but never what the process
/// needs itself.
fn places(limit: usize, workers: usize) -> usize {
    let own = OWN_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers;
    let many = limit.saturating_sub(RESERVED_DESCRIPTORS.max(own));
    let few = limit.saturating_sub(own).min(limit / 2);
    many.max(few)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_take_no_descriptor_that_the_process_needs() {
        for (limit, workers, expected) in [
            (65_536, 2, 65_408),
            (1024, 2, 896),
            (1024, 32, 796),
            (256, 2, 128),
            (256, 32, 28),
            (96, 2, 48),
            (64, 2, 16),
            (32, 2, 0),
        ] {
            assert_eq!(places(limit, workers), expected, "{limit} {workers}");
        }
    }
}
