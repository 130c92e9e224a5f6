//! Finished response bodies, with the place of the fields that move with time.

use zeroize::Zeroizing;

/// A body that is finished but for one number, which stands in it twice (`expires_in` and
/// `ext_expires_in`). Shared by all workers; each writes the number beside it.
///
/// Holds the token in clear, so it is wiped on drop and has no `Debug`.
pub struct Rendered {
    bytes: Zeroizing<Box<[u8]>>,
    cuts: [usize; 2],
}

impl Rendered {
    /// Joins the three parts between which the number goes. The parts are copied once into a
    /// buffer of their exact size.
    #[must_use]
    pub fn new(parts: [&[u8]; 3]) -> Self {
        let cuts = [parts[0].len(), parts[0].len() + parts[1].len()];
        let mut bytes = Zeroizing::new(vec![0; cuts[1] + parts[2].len()].into_boxed_slice());
        bytes[..cuts[0]].copy_from_slice(parts[0]);
        bytes[cuts[0]..cuts[1]].copy_from_slice(parts[1]);
        bytes[cuts[1]..].copy_from_slice(parts[2]);
        Self { bytes, cuts }
    }

    /// The body in the order in which it goes out.
    #[must_use]
    pub fn with<'a>(&'a self, digits: &'a Digits) -> [&'a [u8]; 5] {
        let [a, b] = self.cuts;
        let digits = digits.as_bytes();
        [
            &self.bytes[..a],
            digits,
            &self.bytes[a..b],
            digits,
            &self.bytes[b..],
        ]
    }
}

/// A number's decimal digits without an allocation.
#[derive(Clone, Copy)]
pub struct Digits {
    bytes: [u8; 20],
    start: u8,
}

impl Digits {
    /// Writes `value` out.
    #[must_use]
    pub fn new(mut value: u64) -> Self {
        let mut bytes = [b'0'; 20];
        let mut start = 20u8;
        loop {
            start -= 1;
            bytes[usize::from(start)] = b'0' + u8::try_from(value % 10).expect("a digit fits");
            value /= 10;
            if value == 0 {
                return Self { bytes, start };
            }
        }
    }

    /// The digits, most significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_number() {
        for value in [0, 7, 10, 86_399, u64::MAX] {
            assert_eq!(Digits::new(value).as_bytes(), value.to_string().as_bytes());
        }
    }

    #[test]
    fn the_number_stands_in_both_places() {
        let rendered = Rendered::new([b"a", b"b", b"c"]);
        assert_eq!(rendered.with(&Digits::new(12)).concat(), b"a12b12c");
    }
}
