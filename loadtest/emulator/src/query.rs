//! The query of a request target, decoded once.
//!
//! Names are compared without regard to case, as the web stack behind the real endpoint does: a
//! proxy that takes `Client_ID` for an unknown name must not get away with it here.

/// The decoded parameters in the order in which they were written.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes `a=b&c=d`; `None` if a percent sign is not followed by two hex digits or the
    /// result is not UTF-8.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Some(Self { pairs })
    }

    /// The first value of a name; `None` if the name is absent.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let pair = self
            .pairs
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(&pair.1)
    }

    /// The first value of a name, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// A name that stands there twice.
    pub(crate) fn duplicate(&self) -> Option<&str> {
        let names = || self.pairs.iter().map(|(name, _)| name.as_str());
        names()
            .enumerate()
            .find(|(at, name)| {
                names()
                    .take(*at)
                    .any(|seen| seen.eq_ignore_ascii_case(name))
            })
            .map(|(_, name)| name)
    }
}

/// Decodes `%41` to `A` and `+` to a space.
fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_once() {
        let query = Query::parse("resource=https%3A%2F%2Fa%252Fb&x=1+2&flag").unwrap();
        assert_eq!(query.value("resource"), Some("https://a%2Fb"));
        assert_eq!(query.value("x"), Some("1 2"));
        assert_eq!((query.value("flag"), query.text("flag")), (Some(""), None));
    }

    #[test]
    fn broken_encodings_are_refused() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Query::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn duplicates_are_found_whatever_their_case() {
        assert_eq!(Query::parse("a=1&b=2&A=1").unwrap().duplicate(), Some("A"));
        assert_eq!(Query::parse("a=1&b=1").unwrap().duplicate(), None);
    }
}
