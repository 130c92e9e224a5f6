//! Whether threads that must turn still do: each beats as its loop goes round, at least once a
//! second, and somebody looks now and then. A thread that hangs neither ends nor panics; this is
//! the only thing that shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One thread's pulse. Cheap to clone; all clones are the same pulse.
#[derive(Clone)]
pub struct Pulse {
    name: Arc<str>,
    beats: Arc<AtomicU64>,
}

impl Pulse {
    /// The pulse of a thread of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            beats: Arc::default(),
        }
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says that the thread's loop has gone round.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }
}

/// The pulses of several threads, and what was seen of them.
pub struct Pulses(Vec<(Pulse, u64)>);

impl Pulses {
    /// Nothing was seen of any of these yet.
    #[must_use]
    pub fn new(pulses: impl IntoIterator<Item = Pulse>) -> Self {
        Self(pulses.into_iter().map(|pulse| (pulse, 0)).collect())
    }

    /// The threads whose loops have not gone round since this was last empty.
    pub fn hanging(&mut self) -> Vec<&str> {
        let beats = |pulse: &Pulse| pulse.beats.load(Ordering::Relaxed);
        if self.0.iter().all(|(pulse, seen)| beats(pulse) != *seen) {
            for (pulse, seen) in &mut self.0 {
                *seen = beats(pulse);
            }
            return Vec::new();
        }
        let hanging = self.0.iter().filter(|(pulse, seen)| beats(pulse) == *seen);
        hanging.map(|(pulse, _)| pulse.name()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_have_to_turn_between_two_looks() {
        let (a, b) = (Pulse::new("a"), Pulse::new("b"));
        let mut pulses = Pulses::new([a.clone(), b.clone()]);
        assert_eq!(pulses.hanging(), ["a", "b"]);
        a.beat();
        assert_eq!(pulses.hanging(), ["b"]);
        // What `a` did before still counts; it need not turn again for `b`'s sake.
        b.beat();
        assert!(pulses.hanging().is_empty());
        b.beat();
        b.beat();
        assert_eq!(pulses.hanging(), ["a"]);
    }
}
