//! Query strings: split, decoded once, and refused where they are not exact.

/// Why a query string was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// `%` without two hexadecimal digits behind it.
    #[error("a percent sign is not followed by two hexadecimal digits")]
    BadEscape,
    /// The same name twice. Two readers could disagree on which one counts.
    #[error("a query parameter is given twice")]
    Duplicate,
    /// More parameters than any client sends.
    #[error("there are more than {MAX_PARAMETERS} query parameters")]
    TooMany,
}

/// Real clients send at most five.
const MAX_PARAMETERS: usize = 16;

/// A name and its value, both decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The decoded name.
    pub name: Vec<u8>,
    /// The decoded value.
    pub value: Vec<u8>,
    /// Whether the name was written with escapes.
    pub name_was_escaped: bool,
}

/// Splits at `&` and the first `=`, decodes `%XX` and `+` once, and keeps the order.
///
/// # Errors
/// A bad escape, a name given twice after decoding, or too many parameters.
pub fn parse(query: &[u8]) -> Result<Vec<Parameter>, InvalidQuery> {
    let mut parameters: Vec<Parameter> = Vec::new();
    for pair in query.split(|&b| b == b'&').filter(|pair| !pair.is_empty()) {
        if parameters.len() == MAX_PARAMETERS {
            return Err(InvalidQuery::TooMany);
        }
        let cut = pair.iter().position(|&b| b == b'=');
        let (name, value) = cut.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        let (raw, name) = (name, decode(name)?);
        if parameters.iter().any(|it| it.name == name) {
            return Err(InvalidQuery::Duplicate);
        }
        parameters.push(Parameter {
            name_was_escaped: raw != name,
            name,
            value: decode(value)?,
        });
    }
    Ok(parameters)
}

fn decode(text: &[u8]) -> Result<Vec<u8>, InvalidQuery> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        out.push(match first {
            b'+' => b' ',
            b'%' => {
                let [high, low, tail @ ..] = tail else {
                    return Err(InvalidQuery::BadEscape);
                };
                rest = tail;
                hex(*high)? << 4 | hex(*low)?
            }
            other => *other,
        });
    }
    Ok(out)
}

fn hex(digit: u8) -> Result<u8, InvalidQuery> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
        .ok_or(InvalidQuery::BadEscape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(query: &str) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        parse(query.as_bytes())
            .unwrap()
            .into_iter()
            .map(|it| (text(it.name), text(it.value)))
            .collect()
    }

    #[test]
    fn names_and_values_are_decoded_once() {
        assert_eq!(
            one("a=%2541&b%5F=x+y"),
            [("a".into(), "%41".into()), ("b_".into(), "x y".into())]
        );
        assert_eq!(
            one("a&b=&=c"),
            [("a", ""), ("b", ""), ("", "c")].map(|(n, v)| (n.into(), v.into()))
        );
        assert_eq!(
            one("r=https://h/?x=1"),
            [("r".into(), "https://h/?x=1".into())]
        );
    }

    #[test]
    fn a_name_that_was_escaped_says_so() {
        let all = parse(b"a_b=%5f&a%5fc&a+d=&%61=+").unwrap();
        let escaped: Vec<_> = all.iter().map(|it| it.name_was_escaped).collect();
        assert_eq!(escaped, [false, true, true, true]);
    }

    #[test]
    fn a_name_given_twice_is_refused_however_it_is_spelled() {
        assert_eq!(parse(b"a=1&a=1"), Err(InvalidQuery::Duplicate));
        assert_eq!(parse(b"a=1&%61=2"), Err(InvalidQuery::Duplicate));
    }

    #[test]
    fn broken_escapes_and_floods_are_refused() {
        for query in ["a=%", "a=%4", "a=%zz", "%=1", "a=%+1"] {
            assert_eq!(
                parse(query.as_bytes()),
                Err(InvalidQuery::BadEscape),
                "{query}"
            );
        }
        let flood: String = (0..17).map(|i| format!("p{i}=&")).collect();
        assert_eq!(parse(flood.as_bytes()), Err(InvalidQuery::TooMany));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(query in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&query);
        }
    }
}
