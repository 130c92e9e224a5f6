//! Changes that wait for the store thread: at most one per token key, newest generation first.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::UnixMs;
use crate::token::{AccessToken, TokenKey};

/// How many keys may wait. A healthy disk empties the queue each second; this bounds what a stuck
/// one can hold back.
pub const MAX_QUEUED: usize = 8192;

/// A token to be stored.
pub struct Put {
    pub token: Arc<AccessToken>,
    pub generation: u64,
    pub last_used: UnixMs,
}

/// What is to happen to one key, in this order.
#[derive(Default)]
pub struct Change {
    pub remove: bool,
    pub put: Option<Put>,
}

/// The waiting changes; taken whole by the store thread.
#[derive(Default)]
pub struct Queue {
    /// Everything stored goes, before any of the changes. Set when there are too many removals to
    /// remember: a cold start is better than a purged token that comes back.
    pub remove_all: bool,
    /// Records that were never handed out go.
    pub remove_unclaimed: bool,
    pub changes: HashMap<TokenKey, Change>,
    /// A removal waits: it is not held back to be coalesced.
    pub urgent: bool,
    /// Puts that found the queue full.
    pub dropped: u64,
}

impl Queue {
    pub fn put(&mut self, key: &TokenKey, put: Put) {
        let full = self.changes.len() >= MAX_QUEUED;
        match self.changes.get_mut(key) {
            Some(change) => {
                let newest = change.put.as_ref().map_or(0, |queued| queued.generation);
                if put.generation >= newest {
                    change.put = Some(put);
                }
            }
            None if full => self.dropped += 1,
            None => {
                let change = Change {
                    remove: false,
                    put: Some(put),
                };
                self.changes.insert(key.clone(), change);
            }
        }
    }

    pub fn remove(&mut self, key: &TokenKey) {
        self.urgent = true;
        if self.changes.len() >= MAX_QUEUED && !self.changes.contains_key(key) {
            self.changes.clear();
            self.remove_all = true;
        }
        let removed = Change {
            remove: true,
            put: None,
        };
        self.changes.insert(key.clone(), removed);
    }

    /// Everything stored goes, and whatever waits to be stored.
    pub fn remove_all(&mut self) {
        self.urgent = true;
        self.changes.clear();
        self.remove_all = true;
    }

    /// Records go that were loaded too late for anybody to know of them.
    pub fn remove_unclaimed(&mut self) {
        self.urgent = true;
        self.remove_unclaimed = true;
    }

    pub fn is_empty(&self) -> bool {
        !self.remove_all && !self.remove_unclaimed && self.changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{key, token};

    fn put(generation: u64) -> Put {
        Put {
            token: Arc::new(token("t")),
            generation,
            last_used: UnixMs(0),
        }
    }

    fn queued(queue: &Queue) -> (bool, Option<u64>) {
        let change = &queue.changes[&key("a")];
        (change.remove, change.put.as_ref().map(|p| p.generation))
    }

    #[test]
    fn the_newest_generation_of_a_key_waits() {
        let mut queue = Queue::default();
        for generation in [2, 3, 1] {
            queue.put(&key("a"), put(generation));
        }
        assert_eq!(queued(&queue), (false, Some(3)));
        assert!(!queue.urgent);
    }

    #[test]
    fn a_removal_undoes_earlier_puts_and_lets_later_ones_stand() {
        let mut queue = Queue::default();
        queue.put(&key("a"), put(5));
        queue.remove(&key("a"));
        assert_eq!(queued(&queue), (true, None));
        assert!(queue.urgent);
        queue.put(&key("a"), put(1));
        assert_eq!(queued(&queue), (true, Some(1)));
    }

    #[test]
    fn a_full_queue_drops_puts_but_never_a_removal() {
        let mut queue = Queue::default();
        for i in 0..MAX_QUEUED {
            queue.put(&key(&i.to_string()), put(1));
        }
        queue.put(&key("a"), put(1));
        assert_eq!((queue.changes.len(), queue.dropped), (MAX_QUEUED, 1));
        queue.remove(&key("a"));
        assert!(queue.remove_all);
        assert_eq!(queued(&queue), (true, None));
    }
}
