//! The last requests on the token path, byte for byte, secrets and all.
//!
//! Only the handle shows them, to the program that started the emulator; the control path does
//! not.

use std::collections::VecDeque;

/// How many requests are kept.
const CAPACITY: usize = 64;

#[derive(Default)]
pub(crate) struct Journal {
    requests: VecDeque<Vec<u8>>,
}

impl Journal {
    pub(crate) fn note(&mut self, raw: &[u8]) {
        if self.requests.len() == CAPACITY {
            self.requests.pop_front();
        }
        self.requests.push_back(raw.to_vec());
    }

    pub(crate) fn last(&self) -> Option<Vec<u8>> {
        self.requests.back().cloned()
    }

    /// Oldest first.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        self.requests.iter().cloned().collect()
    }

    pub(crate) fn clear(&mut self) {
        self.requests.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_64_requests_are_kept() {
        let mut journal = Journal::default();
        for number in 0..70 {
            journal.note(&[number]);
        }
        assert_eq!(journal.last(), Some(vec![69]));
        assert_eq!((journal.all().len(), &journal.all()[0]), (64, &vec![6]));
        journal.clear();
        assert_eq!(journal.last(), None);
    }
}
