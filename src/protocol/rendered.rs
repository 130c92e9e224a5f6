//! Finished response bodies, with the place of the fields that move with time.

use crate::token::AccessToken;

/// A finished body, in the order in which it goes out.
pub type Body<'a> = [&'a [u8]; 7];

/// What stands before the token, in every body.
const OPENING: &[u8] = b"{\"access_token\":\"";

/// What follows the token in a body, finished but for one number, which may stand in it twice
/// (`expires_in` and `ext_expires_in`). Shared by all workers; each writes the number beside it.
///
/// The token is not in it: there is one copy of that, however many shapes are rendered.
pub struct Rendered {
    rest: Box<[u8]>,
    cuts: Option<[u32; 2]>,
}

impl Rendered {
    /// Joins three parts between which the number goes.
    ///
    /// # Panics
    /// If they have 4 GiB.
    #[must_use]
    pub fn moving(parts: [&str; 3]) -> Self {
        let cuts = [parts[0].len(), parts[0].len() + parts[1].len()];
        Self {
            rest: parts.concat().into_bytes().into(),
            cuts: Some(cuts.map(|cut| u32::try_from(cut).expect("a body is some kilobytes"))),
        }
    }

    /// One in which nothing moves.
    #[must_use]
    pub fn still(rest: String) -> Self {
        Self {
            rest: rest.into_bytes().into(),
            cuts: None,
        }
    }

    /// The body of an answer with this token, the one that it was rendered for.
    #[must_use]
    pub fn with<'a>(&'a self, token: &'a AccessToken, digits: &'a Digits) -> Body<'a> {
        let (token, rest) = (token.secret.expose(), &*self.rest);
        let Some([a, b]) = self.cuts.map(|cuts| cuts.map(|cut| cut as usize)) else {
            return [OPENING, token, rest, b"", b"", b"", b""];
        };
        let digits = digits.as_bytes();
        [
            OPENING,
            token,
            &rest[..a],
            digits,
            &rest[a..b],
            digits,
            &rest[b..],
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
    use crate::clock::UnixMs;
    use crate::token::{Lifetime, Secret};

    #[test]
    fn digits_are_those_of_the_number() {
        for value in [0, 7, 10, 86_399, u64::MAX] {
            assert_eq!(Digits::new(value).as_bytes(), value.to_string().as_bytes());
        }
    }

    #[test]
    fn the_token_comes_first_and_the_number_stands_in_both_places() {
        let token = AccessToken {
            secret: Secret::new(b"t".to_vec()),
            lifetime: Lifetime {
                received_at: UnixMs(0),
                expires_on_s: 1,
                not_before_s: None,
                refresh_in_s: None,
            },
            client_id: None,
        };
        let digits = Digits::new(12);
        let body = |rendered: Rendered| rendered.with(&token, &digits).concat();
        let moving = Rendered::moving(["a", "b", "c"]);
        assert_eq!(body(moving), b"{\"access_token\":\"ta12b12c");
        let still = Rendered::still("ab".to_owned());
        assert_eq!(body(still), b"{\"access_token\":\"tab");
    }
}
