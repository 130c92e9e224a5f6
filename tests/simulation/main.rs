//! Days and months of the real cache, flights, writer and worker, on virtual time and by a seed.
//!
//! One thread, no sleeping: the world goes from event to event. Upstream, store, callers and faults
//! are drawn from the seed; the checker holds the invariants on every step and, when one breaks,
//! says the seed, the time and the last events. `FORETOKEN_SEED=n` replays.

mod checker;
mod runs;
mod upstream;
mod world;
