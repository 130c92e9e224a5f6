//! What the connections of one worker share: buffers, and the counts of who holds what.
//!
//! Promises that a buffer is wiped before another connection has it, and that what nobody used for
//! a second is freed.

use std::cell::{Cell, RefCell};

use zeroize::Zeroize as _;

use super::wire;
use crate::clock::UnixMs;

/// Bytes taken at once of a long request: the largest head with the largest form.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// The smallest buffer: a slow client holds one for as long as it may.
const MIN_BUFFER_BYTES: usize = 1024;
/// Callers of one worker that may wait unwatched: behind a side that they ended, or behind more bytes
/// than are taken early. They may have left, and hold no descriptor of their own, so they must not
/// take all of our room while the upstream hangs.
const MAX_UNWATCHED: usize = 64;
/// Buffers that a worker keeps for its connections, for a second without use; more are freed.
const MAX_SPARE_BUFFERS: usize = 64;
/// Of a buffer that is kept.
const MAX_SPARE_BYTES: usize = READ_BYTES;

/// What the connections of one worker share.
pub(super) struct Desk {
    pub scratch: RefCell<Box<[u8]>>,
    spare: RefCell<Vec<Vec<u8>>>,
    /// The fewest spare buffers since the last tick: so many were of no use.
    fewest: Cell<usize>,
    date: Cell<(u64, wire::Date)>,
    unwatched: Cell<usize>,
    pub answered: Cell<bool>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            scratch: RefCell::new(vec![0; READ_BYTES].into()),
            spare: RefCell::default(),
            fewest: Cell::new(0),
            date: Cell::new((0, wire::date(0))),
            unwatched: Cell::new(0),
            answered: Cell::new(false),
        }
    }
}

impl Desk {
    fn take(&self) -> Vec<u8> {
        let mut spare = self.spare.borrow_mut();
        let buffer = spare.pop().unwrap_or_default();
        self.fewest.set(self.fewest.get().min(spare.len()));
        buffer
    }

    /// Keeps a wiped buffer for the next connection.
    fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MAX_SPARE_BUFFERS
            && buffer.capacity() > 0
            && buffer.capacity() <= MAX_SPARE_BYTES
        {
            spare.push(buffer);
        }
    }

    /// Frees the buffers that nobody needed since the last tick, the longest unused ones.
    pub fn tick(&self) {
        let mut spare = self.spare.borrow_mut();
        spare.drain(..self.fewest.get());
        self.fewest.set(spare.len());
    }

    /// Whether anybody was answered since this was last asked.
    pub fn has_answered(&self) -> bool {
        self.answered.take()
    }

    pub fn date(&self, now: UnixMs) -> wire::Date {
        let (second, date) = self.date.get();
        if second == now.as_secs() {
            return date;
        }
        let date = wire::date(now.as_secs());
        self.date.set((now.as_secs(), date));
        date
    }
}

/// A buffer that may hold secrets: it is wiped before it is used again, or freed.
pub(super) struct Lease<'a> {
    desk: &'a Desk,
    pub bytes: Vec<u8>,
}

impl<'a> Lease<'a> {
    /// Without memory until something is put into it.
    pub fn new(desk: &'a Desk) -> Self {
        Self {
            desk,
            bytes: Vec::new(),
        }
    }

    /// Adds bytes. A buffer that is too small is replaced, not grown: growing would leave its
    /// bytes behind.
    pub fn extend(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes.extend_from_slice(more);
    }

    pub fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() == 0 {
            self.bytes = self.desk.take();
        }
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let mut larger = Vec::with_capacity(needed.next_power_of_two().max(MIN_BUFFER_BYTES));
            larger.extend_from_slice(&self.bytes);
            std::mem::replace(&mut self.bytes, larger).zeroize();
        }
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.zeroize();
        self.desk.give_back(bytes);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The wait of a caller whose leaving would not be seen, counted as long as it lasts.
pub(super) struct Unwatched<'a>(&'a Desk);

impl<'a> Unwatched<'a> {
    pub fn take(desk: &'a Desk) -> Option<Self> {
        let count = desk.unwatched.get();
        (count < MAX_UNWATCHED).then(|| {
            desk.unwatched.set(count + 1);
            Self(desk)
        })
    }
}

impl Drop for Unwatched<'_> {
    fn drop(&mut self) {
        self.0.unwatched.set(self.0.unwatched.get() - 1);
    }
}
