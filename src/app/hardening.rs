//! What the process asks of the kernel for itself: no core files, and enough descriptors.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Descriptors that connections leave to the upstream, the store, the admin endpoints and the
/// listeners: an outage of any of these must not come from idle callers.
const RESERVED_DESCRIPTORS: u64 = 128;

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
pub fn max_connections() -> usize {
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
    let room = limit.unwrap_or(u64::MAX);
    let room = room.saturating_sub(RESERVED_DESCRIPTORS).max(room / 2);
    usize::try_from(room).unwrap_or(usize::MAX)
}
