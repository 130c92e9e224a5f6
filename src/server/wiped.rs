//! Bytes that may hold secrets: wiped before the memory is anybody else's.

use zeroize::optimization_barrier;

/// The smallest buffer: a slow client holds one for as long as it may.
const MIN_BYTES: usize = 1024;

/// A buffer whose bytes beyond its length never hold anything.
#[derive(Default)]
pub(super) struct Wiped(Vec<u8>);

impl Wiped {
    /// Adds bytes.
    pub fn extend(&mut self, more: &[u8]) {
        self.room_for(more.len()).extend_from_slice(more);
    }

    /// The buffer, with room for `more` bytes to be appended by who promises not to take any off.
    /// One that is too small is replaced, not grown: growing would leave its bytes behind.
    pub fn room_for(&mut self, more: usize) -> &mut Vec<u8> {
        let needed = self.0.len() + more;
        if needed > self.0.capacity() {
            let step = MIN_BYTES.max(self.0.capacity());
            let mut larger = Vec::with_capacity(needed.next_multiple_of(step));
            larger.extend_from_slice(&self.0);
            wipe(&mut std::mem::replace(&mut self.0, larger));
        }
        &mut self.0
    }

    /// Takes bytes off the front.
    pub fn consume(&mut self, count: usize) {
        self.0.copy_within(count.., 0);
        self.truncate(self.0.len() - count);
    }

    /// Takes off what is behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        wipe(&mut self.0[len..]);
        self.0.truncate(len);
    }

    /// Takes all bytes off and keeps the memory.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl std::ops::Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Overwrites with zeros, also where the compiler sees that nobody reads them. In words, not byte by
/// byte as `Zeroize` does it, which took a tenth of the time of a request.
pub(super) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    optimization_barrier(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_was_not_taken() {
        let mut buffer = Wiped::default();
        buffer.extend(b"first second");
        buffer.consume(6);
        assert_eq!(&*buffer, b"second");
        buffer.truncate(3);
        assert_eq!(&*buffer, b"sec");
        buffer.extend(&[b'x'; 5000]);
        assert_eq!(buffer.len(), 5003);
        assert!(buffer.starts_with(b"secx"));
        buffer.clear();
        assert!(buffer.is_empty() && buffer.capacity() >= 5003);
    }
}
