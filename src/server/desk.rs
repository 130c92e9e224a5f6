//! What the connections of one worker share: buffers, and the counts of who holds what.
//!
//! Promises that a buffer is wiped before another connection has it, and that what nobody used for
//! a second is freed.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::wiped::{Wiped, wipe};
use super::wire;
use crate::clock::UnixMs;

/// Bytes taken at once of a long request: the largest head with the largest form.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// Buffers that a worker keeps for its connections, for a second without use; more are freed.
const MAX_SPARE_BUFFERS: usize = 64;
/// Of a buffer that is kept.
const MAX_SPARE_BYTES: usize = READ_BYTES;

/// What the connections of one worker share.
pub(super) struct Desk {
    scratch: RefCell<Box<[u8]>>,
    outbox: RefCell<Wiped>,
    spare: RefCell<Vec<Wiped>>,
    /// The fewest spare buffers since the last tick: so many were of no use.
    fewest: Cell<usize>,
    date: Cell<(u64, wire::Date)>,
    /// Callers who wait behind a side that they ended, or behind more bytes than are taken early.
    pub unwatched: Count,
    /// Clients who have not taken all that is written to them.
    pub slow_clients: Count,
    pub answered: Cell<bool>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            scratch: RefCell::new(vec![0; READ_BYTES].into()),
            outbox: RefCell::default(),
            spare: RefCell::default(),
            fewest: Cell::new(0),
            date: Cell::new((0, wire::date(0))),
            unwatched: Count::default(),
            slow_clients: Count::default(),
            answered: Cell::new(false),
        }
    }
}

impl Desk {
    /// Into which is read.
    pub fn scratch(&self) -> Scratch<'_> {
        Scratch {
            bytes: self.scratch.borrow_mut(),
            used: 0,
        }
    }

    /// From which is written what can be answered at once.
    pub fn outbox(&self) -> Outbox<'_> {
        Outbox(self.outbox.borrow_mut())
    }

    fn take(&self) -> Wiped {
        let mut spare = self.spare.borrow_mut();
        let buffer = spare.pop().unwrap_or_default();
        self.fewest.set(self.fewest.get().min(spare.len()));
        buffer
    }

    /// Keeps a wiped buffer for the next connection.
    fn give_back(&self, buffer: Wiped) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MAX_SPARE_BUFFERS
            && buffer.capacity() > 0
            && buffer.capacity() <= MAX_SPARE_BYTES
        {
            spare.push(buffer);
        }
    }

    /// Frees the buffers that nobody needed since the last tick, the longest unused ones, and what a
    /// pipeline has made of the outbox.
    pub fn tick(&self) {
        let mut outbox = self.outbox.borrow_mut();
        if outbox.capacity() > MAX_SPARE_BYTES {
            *outbox = Wiped::default();
        }
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

/// The scratch of the worker, and what is in it: gone when it is let go of, whatever happens in between.
pub(super) struct Scratch<'a> {
    bytes: RefMut<'a, Box<[u8]>>,
    used: usize,
}

impl Scratch<'_> {
    /// Takes out what is in it, and gives room for other bytes.
    pub fn empty(&mut self, room: usize) -> &mut [u8] {
        self.wipe();
        &mut self.bytes[..room]
    }

    /// So many were put in.
    pub fn filled(&mut self, count: usize) {
        self.used = count;
    }

    fn wipe(&mut self) {
        wipe(&mut self.bytes[..self.used]);
        self.used = 0;
    }
}

impl Deref for Scratch<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// The outbox of the worker. What one connection puts into it is gone before another has it, whatever
/// happens in between.
pub(super) struct Outbox<'a>(RefMut<'a, Wiped>);

impl Deref for Outbox<'_> {
    type Target = Wiped;

    fn deref(&self) -> &Wiped {
        &self.0
    }
}

impl DerefMut for Outbox<'_> {
    fn deref_mut(&mut self) -> &mut Wiped {
        &mut self.0
    }
}

impl Drop for Outbox<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// A buffer of one connection, from the desk and back to it. Without memory until something is put
/// into it.
pub(super) struct Lease {
    desk: Rc<Desk>,
    bytes: Wiped,
}

impl Lease {
    pub fn new(desk: &Rc<Desk>) -> Self {
        Self {
            desk: Rc::clone(desk),
            bytes: Wiped::default(),
        }
    }

    pub fn extend(&mut self, more: &[u8]) {
        if !more.is_empty() {
            self.buffer().extend(more);
        }
    }

    /// The buffer, to put something into it.
    pub fn buffer(&mut self) -> &mut Wiped {
        if self.bytes.capacity() == 0 {
            self.bytes = self.desk.take();
        }
        &mut self.bytes
    }

    pub fn consume(&mut self, count: usize) {
        self.bytes.consume(count);
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.desk.give_back(bytes);
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How many of something there are now.
#[derive(Default)]
pub(super) struct Count(Cell<usize>);

/// One of them, counted as long as it lasts.
pub(super) struct Counted<'a>(&'a Count);

impl Count {
    pub fn get(&self) -> usize {
        self.0.get()
    }

    pub fn one_more(&self) -> Counted<'_> {
        self.0.set(self.0.get() + 1);
        Counted(self)
    }

    /// Unless there are so many already.
    pub fn one_more_of(&self, most: usize) -> Option<Counted<'_>> {
        (self.get() < most).then(|| self.one_more())
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}
