//! Finished response bodies, with the place of the fields that move with time.

use zeroize::Zeroizing;

/// A body that is finished but for one number, which may stand in it twice (`expires_in` and
/// `ext_expires_in`). Shared by all workers; each writes the number beside it.
///
/// Holds the token in clear, so it is wiped on drop and has no `Debug`.
pub struct Rendered {
    bytes: Zeroizing<Box<[u8]>>,
    cuts: Option<[usize; 2]>,
}

impl Rendered {
    /// Joins three parts between which the number goes.
    #[must_use]
    pub fn moving(parts: [&[u8]; 3]) -> Self {
        let cuts = [parts[0].len(), parts[0].len() + parts[1].len()];
        Self {
            bytes: join(&parts),
            cuts: Some(cuts),
        }
    }

    /// Joins two parts of a body in which nothing moves.
    #[must_use]
    pub fn still(parts: [&[u8]; 2]) -> Self {
        Self {
            bytes: join(&parts),
            cuts: None,
        }
    }

    /// The body in the order in which it goes out.
    #[must_use]
    pub fn with<'a>(&'a self, digits: &'a Digits) -> [&'a [u8]; 5] {
        let Some([a, b]) = self.cuts else {
            return [&self.bytes, b"", b"", b"", b""];
        };
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

/// Copies the parts once, into a buffer of their exact size.
fn join(parts: &[&[u8]]) -> Zeroizing<Box<[u8]>> {
    let mut whole = Zeroizing::new(Vec::with_capacity(parts.iter().map(|p| p.len()).sum()));
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    // The capacity is exact, so that the box takes the buffer over as it is.
    Zeroizing::new(std::mem::take(&mut *whole).into_boxed_slice())
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
        let rendered = Rendered::moving([b"a", b"b", b"c"]);
        assert_eq!(rendered.with(&Digits::new(12)).concat(), b"a12b12c");
    }
}
