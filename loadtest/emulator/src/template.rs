//! Texts with placeholders for parts of the answer that they spoil.
//!
//! A placeholder is a name in braces, with an amount behind a sign or a space where it takes one:
//! `{length+100}`, `{pad 4096}`. Other braces stand for themselves, so that JSON can be written
//! as it is.

use crate::claims::random_bytes;
use crate::gzip::gzip;
use crate::identities::guid;
use crate::reply::Reply;
use crate::time;

/// Longest run of padding: 8 MiB, more than any client should read.
const LONGEST_PAD: i64 = 8 * 1024 * 1024;

/// What placeholders stand for.
pub(crate) struct Values<'a> {
    pub reply: &'a Reply,
    /// The value of the `Server` header.
    pub server: &'a str,
    /// Where the request went, as a URL.
    pub url: &'a str,
}

/// The placeholders, and whether each takes an amount. The README says what they stand for.
const NAMES: [(&str, Amount); 14] = [
    ("head", Amount::None),
    ("lines", Amount::None),
    ("date", Amount::Signed),
    ("length", Amount::Signed),
    ("hex_length", Amount::None),
    ("body", Amount::None),
    ("half", Amount::None),
    ("rest", Amount::None),
    ("members", Amount::None),
    ("gzip", Amount::None),
    ("gzip_length", Amount::Signed),
    ("url", Amount::None),
    ("pad", Amount::Spaced),
    ("byte", Amount::Spaced),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Amount {
    None,
    /// May be left out.
    Signed,
    Spaced,
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder(&'static str, i64),
    Unknown(&'a str),
}

/// What is wrong with a text, if something is.
pub(crate) fn mistake(text: &str) -> Option<String> {
    pieces(text).into_iter().find_map(|piece| match piece {
        Piece::Unknown(inner) => Some(format!("there is no placeholder `{{{inner}}}`")),
        Piece::Placeholder("pad", n) if n > LONGEST_PAD => {
            Some(format!("padding of {n} bytes; {LONGEST_PAD} is the most"))
        }
        Piece::Placeholder("byte", n) if n > 255 => Some(format!("{n} is not a byte")),
        Piece::Text(_) | Piece::Placeholder(..) => None,
    })
}

/// Whether something of the right answer's body is in it, or of its length.
pub(crate) fn uses_the_token(text: &str) -> bool {
    pieces(text).iter().any(|piece| {
        matches!(
            piece,
            Piece::Placeholder(
                "head"
                    | "length"
                    | "hex_length"
                    | "body"
                    | "half"
                    | "rest"
                    | "members"
                    | "gzip"
                    | "gzip_length",
                _
            )
        )
    })
}

/// The text with its placeholders filled in.
pub(crate) fn fill(text: &str, values: &Values<'_>) -> Vec<u8> {
    let body = &values.reply.body;
    let (half, rest) = body.split_at(body.len() / 2);
    let mut filled = Vec::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => filled.extend_from_slice(text.as_bytes()),
            Piece::Unknown(inner) => filled.extend_from_slice(format!("{{{inner}}}").as_bytes()),
            Piece::Placeholder(name, amount) => match name {
                "head" => {
                    let head = values.reply.head(values.server, true);
                    filled.extend_from_slice(head.trim_end_matches("\r\n").as_bytes());
                    filled.extend_from_slice(b"\r\n");
                }
                "lines" => filled.extend_from_slice(lines(values).as_bytes()),
                "date" => {
                    let now_s = time::unix_ms() / 1000;
                    let date = time::http_date(now_s.saturating_add_signed(amount));
                    filled.extend_from_slice(date.as_bytes());
                }
                "length" => filled.extend_from_slice(shifted(body.len(), amount).as_bytes()),
                "hex_length" => filled.extend_from_slice(format!("{:x}", body.len()).as_bytes()),
                "body" => filled.extend_from_slice(body),
                "half" => filled.extend_from_slice(half),
                "rest" => filled.extend_from_slice(rest),
                "members" => filled.extend_from_slice(members(body)),
                "gzip" => filled.extend_from_slice(&gzip(body)),
                "gzip_length" => {
                    filled.extend_from_slice(shifted(gzip(body).len(), amount).as_bytes());
                }
                "url" => filled.extend_from_slice(values.url.as_bytes()),
                "pad" => {
                    let length = usize::try_from(amount.clamp(0, LONGEST_PAD)).unwrap_or(0);
                    filled.resize(filled.len() + length, b'x');
                }
                _ => filled.push(u8::try_from(amount).unwrap_or(b'?')),
            },
        }
    }
    filled
}

/// The usual headers, without those that date and measure the answer.
fn lines(values: &Values<'_>) -> String {
    format!(
        "Content-Type: {}\r\nServer: {}\r\nx-ms-request-id: {}\r\n",
        values.reply.content_type,
        values.server,
        guid(random_bytes())
    )
}

fn shifted(length: usize, by: i64) -> String {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    length.saturating_add_signed(by).to_string()
}

/// What stands between the braces of a JSON object.
fn members(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"{")
        .and_then(|body| body.strip_suffix(b"}"))
        .unwrap_or(body)
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut from) = (0, 0);
    while let Some(open) = text[from..].find('{').map(|at| from + at) {
        let inner = text[open + 1..]
            .split_once('}')
            .map_or("", |(inner, _)| inner);
        if !inner.starts_with(|first: char| first.is_ascii_lowercase()) {
            from = open + 1;
            continue;
        }
        pieces.push(Piece::Text(&text[start..open]));
        pieces.push(placeholder(inner));
        start = open + inner.len() + 2;
        from = start;
    }
    pieces.push(Piece::Text(&text[start..]));
    pieces
}

fn placeholder(inner: &str) -> Piece<'_> {
    let end = inner
        .find(|it: char| !it.is_ascii_lowercase() && it != '_')
        .unwrap_or(inner.len());
    let (name, amount) = inner.split_at(end);
    let known = NAMES.iter().find(|(known, _)| *known == name);
    let Some((name, takes)) = known else {
        return Piece::Unknown(inner);
    };
    let number = match takes {
        Amount::None => amount.is_empty().then_some(0),
        Amount::Signed if amount.is_empty() => Some(0),
        Amount::Signed => amount.parse().ok(),
        Amount::Spaced => amount
            .strip_prefix(' ')
            .and_then(|digits| digits.parse::<u32>().ok())
            .map(i64::from),
    };
    number.map_or(Piece::Unknown(inner), |number| {
        Piece::Placeholder(name, number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> String {
        let reply = Reply::json(200, r#"{"a":"1234"}"#);
        let values = Values {
            reply: &reply,
            server: "s",
            url: "http://h/p",
        };
        String::from_utf8(fill(text, &values)).unwrap()
    }

    #[test]
    fn placeholders_stand_for_parts_of_the_answer() {
        assert_eq!(filled("[{body}]"), r#"[{"a":"1234"}]"#);
        assert_eq!(filled(r#"{"b":{},{members}}"#), r#"{"b":{},"a":"1234"}"#);
        assert_eq!(filled("{half}|{rest}"), r#"{"a":"|1234"}"#);
        assert_eq!(
            filled("{length} {length+5} {length-2} {hex_length}"),
            "12 17 10 c"
        );
        assert_eq!(filled("{pad 3}{byte 65}{url}"), "xxxAhttp://h/p");
        let head = filled("{head}\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(head.ends_with("Content-Length: 12\r\n\r\n"));
        assert!(filled("{date-5}").ends_with(" GMT"));
    }

    #[test]
    fn what_is_no_placeholder_is_told_and_other_braces_are_left() {
        for text in ["{", "{}", "{\"a\":{}}", "a{ b}", "{1}", "}{"] {
            assert_eq!(mistake(text), None, "{text}");
            assert_eq!(filled(text), text);
        }
        for text in [
            "{what}",
            "{pad}",
            "{length 5}",
            "{body+1}",
            "{date+x}",
            "{byte 256}",
        ] {
            assert!(mistake(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_text_uses_the_token_if_any_of_the_body_is_in_it() {
        assert!(uses_the_token("x{half}") && uses_the_token("{gzip}"));
        assert!(!uses_the_token("{date}{lines}{pad 4}{url}"));
    }
}
