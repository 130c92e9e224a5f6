//! The strict door: a request's head and the framing of its body, read as bytes.
//!
//! HTTP libraries accept much that two readers could understand differently: bare line feeds, two
//! lengths, a length beside chunks, folded lines. Whoever guards credentials must not be one of
//! two such readers, so whatever is not plainly one request is refused here and ends its
//! connection. The syntax is `httparse`'s; what stands here is what it lets through.

use std::mem::MaybeUninit;

use memchr::{memchr, memchr_iter};

use crate::authz::guard::Header;

/// Bytes of a head, its empty line included. Real clients send up to 800.
pub const MAX_HEAD_BYTES: usize = 8192;
/// Header lines. The longest recorded list has 11.
pub const MAX_HEADERS: usize = 64;
/// Bytes of a form. The longest recorded has 220.
pub const MAX_FORM_BYTES: usize = 8192;
/// Bytes of a form with its chunk framing: a chunk of one byte takes six.
const MAX_CHUNKED_BYTES: usize = 2 * MAX_FORM_BYTES;

/// A head whose framing is beyond doubt.
#[derive(Debug)]
pub struct Head<'a> {
    /// In capitals.
    pub method: &'a [u8],
    /// A path with its query: visible ASCII, no fragment.
    pub target: &'a [u8],
    /// Bytes of the head in the buffer.
    pub len: usize,
    /// How the body is framed.
    pub body: Framing,
    /// Whether the connection goes on after the answer.
    pub keep_alive: bool,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a head or a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHead {
    /// Not HTTP/1.0 or 1.1, or not its syntax.
    Syntax,
    /// A line that does not end in CR LF, a bare CR, or an empty line in front.
    LineEnd,
    /// The method is not in capitals.
    Method,
    /// The target is not a path in visible ASCII, or has a fragment.
    Target,
    /// The target is longer than any client's.
    TargetTooLong,
    /// Too many headers, or too many bytes of them.
    TooLarge,
    /// Two lengths, a length beside chunks, an unknown coding, or one that is not a plain number.
    Framing,
    /// A body longer than any form.
    BodyTooLarge,
    /// A POST that says nothing of its body's length.
    LengthRequired,
    /// The head or the body did not arrive in time.
    TooSlow,
}

impl BadHead {
    /// The metric's label.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::LineEnd => "line_end",
            Self::Method => "bad_method",
            Self::Target => "not_a_path",
            Self::TargetTooLong => "target_too_long",
            Self::TooLarge => "head_too_large",
            Self::Framing => "framing",
            Self::BodyTooLarge => "body_too_large",
            Self::LengthRequired => "length_required",
            Self::TooSlow => "too_slow",
        }
    }

    /// What the caller is told.
    #[must_use]
    pub fn status_and_text(self) -> (u16, &'static str) {
        match self {
            Self::Syntax => (400, "The request is not HTTP/1.1"),
            Self::LineEnd => (400, "Lines end in CR LF"),
            Self::Method => (400, "The method is not written as methods are"),
            Self::Target => (400, "The request target is not a path"),
            Self::TargetTooLong => (414, "The request target is too long"),
            Self::TooLarge => (431, "The request's head is too large"),
            Self::Framing => (400, "The length of the body is not plain"),
            Self::BodyTooLarge => (413, "The body is too large"),
            Self::LengthRequired => (411, "A POST needs a Content-Length"),
            Self::TooSlow => (408, "The request did not arrive in time"),
        }
    }
}

/// Reads the head at the start of `bytes`; `Ok(None)` if more bytes are needed. Headers are put
/// into `headers`, of which the returned number are used.
///
/// # Errors
/// Whatever is not plainly one request.
pub fn read<'a>(
    bytes: &'a [u8],
    headers: &mut [Header<'a>; MAX_HEADERS],
) -> Result<Option<(Head<'a>, usize)>, BadHead> {
    let end = find_end(bytes)?;
    let Some(len) = end else {
        check_so_far(bytes)?;
        return Ok(None);
    };
    // Bytes beyond ASCII are legal in values, and nobody who asks for tokens sends them.
    if !bytes[..len].is_ascii() {
        return Err(refine(&bytes[..len]));
    }
    let mut parsed = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&bytes[..len], &mut parsed) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
        Ok(httparse::Status::Partial) | Err(_) => return Err(refine(&bytes[..len])),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(BadHead::Syntax);
    };
    check_method(method.as_bytes())?;
    check_target(target.as_bytes())?;
    let mut facts = FramingFacts::default();
    let count = request.headers.len();
    for (out, header) in headers.iter_mut().zip(request.headers.iter()) {
        facts.note(header.name.as_bytes(), header.value)?;
        if header.name.eq_ignore_ascii_case("host") && has_tab_around(bytes, header.value) {
            return Err(BadHead::Syntax);
        }
        *out = (header.name.as_bytes(), header.value);
    }
    let body = facts.framing(version)?;
    let head = Head {
        method: method.as_bytes(),
        target: target.as_bytes(),
        len,
        body,
        keep_alive: version == 1 && !facts.close,
    };
    Ok(Some((head, count)))
}

/// Where the head ends; refuses line ends that are not CR LF on the way.
fn find_end(bytes: &[u8]) -> Result<Option<usize>, BadHead> {
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(BadHead::LineEnd);
    }
    let window = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
    let mut line_start = 0;
    for at in memchr_iter(b'\n', window) {
        let line = &window[line_start..at];
        if line.is_empty() || memchr(b'\r', line) != Some(line.len() - 1) {
            return Err(BadHead::LineEnd);
        }
        if line.len() == 1 {
            return Ok(Some(at + 1));
        }
        line_start = at + 1;
    }
    // A CR is followed by its LF, which may not have arrived yet.
    let line = &window[line_start..];
    match memchr(b'\r', line) {
        Some(at) if at + 1 < line.len() => Err(BadHead::LineEnd),
        _ => Ok(None),
    }
}

/// Whether an unfinished head may still become a good one.
fn check_so_far(bytes: &[u8]) -> Result<(), BadHead> {
    let first_line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    if bytes.len() >= MAX_HEAD_BYTES {
        let in_first_line = first_line.len() >= super::handler::MAX_TARGET_BYTES;
        return Err(if in_first_line {
            BadHead::TargetTooLong
        } else {
            BadHead::TooLarge
        });
    }
    // Told early, so that garbage is not waited for.
    if first_line.iter().any(|b| *b < b' ' || *b == 0x7f) {
        return Err(BadHead::Syntax);
    }
    Ok(())
}

/// What is wrong with a request line that the parser refused, as far as it can be told.
fn refine(head: &[u8]) -> BadHead {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let target = words.nth(1).unwrap_or_default();
    let versioned = words
        .next()
        .is_some_and(|word| word.starts_with(b"HTTP/1."));
    if versioned && check_target(target).is_err() {
        BadHead::Target
    } else {
        BadHead::Syntax
    }
}

/// Whether a tab stands beside a value that the parser has trimmed. Readers differ on whether it
/// belongs to a host.
fn has_tab_around(bytes: &[u8], value: &[u8]) -> bool {
    let at = value.as_ptr() as usize - bytes.as_ptr() as usize;
    let around = [at.checked_sub(1), Some(at + value.len())];
    around
        .into_iter()
        .flatten()
        .any(|at| bytes.get(at) == Some(&b'\t'))
}

fn check_method(method: &[u8]) -> Result<(), BadHead> {
    let plain = !method.is_empty() && method.len() <= 16;
    if plain && method.iter().all(u8::is_ascii_uppercase) {
        Ok(())
    } else {
        Err(BadHead::Method)
    }
}

/// What may stand in a target as it is. What RFC 3986 has no place for is escaped by every client; a
/// raw one is read in many ways.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        plain[byte as usize] = !matches!(
            byte,
            b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        );
        byte += 1;
    }
    plain
};

fn check_target(target: &[u8]) -> Result<(), BadHead> {
    if target.first() != Some(&b'/') || !target.iter().all(|b| PLAIN[usize::from(*b)]) {
        return Err(BadHead::Target);
    }
    if target.len() > super::handler::MAX_TARGET_BYTES {
        return Err(BadHead::TargetTooLong);
    }
    Ok(())
}

/// What the headers say of the body and the connection.
#[derive(Default)]
struct FramingFacts {
    length: Option<usize>,
    chunked: bool,
    close: bool,
}

impl FramingFacts {
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadHead> {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            14 if is(b"content-length") => {
                let length = plain_number(value).ok_or(BadHead::Framing)?;
                if self.length.replace(length).is_some() {
                    return Err(BadHead::Framing);
                }
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead::Framing);
                }
                self.chunked = true;
            }
            10 if is(b"connection") => {
                let mut options = value.split(|b| *b == b',');
                self.close |= options.any(|o| o.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, version: u8) -> Result<Framing, BadHead> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(BadHead::Framing),
            // HTTP/1.0 has no chunks: a proxy in between could not have understood them.
            (None, true) if version == 0 => Err(BadHead::Framing),
            (None, true) => Ok(Framing::Chunked),
            (Some(length), false) if length > MAX_FORM_BYTES => Err(BadHead::BodyTooLarge),
            (Some(length), false) => Ok(Framing::Length(length)),
            (None, false) => Ok(Framing::None),
        }
    }
}

/// Digits without a sign, a list or leading zeros.
fn plain_number(value: &[u8]) -> Option<usize> {
    let plain = value == b"0" || (!value.is_empty() && value[0] != b'0');
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|_| plain && value.len() <= 18)?;
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Reads a chunked body at the start of `bytes` into `form`: how many bytes it took, or `None` if
/// more are needed. Chunk extensions and trailers are refused: no client sends them.
///
/// # Errors
/// Anything but plain chunks, or too many bytes.
pub fn read_chunks(bytes: &[u8], form: &mut Vec<u8>) -> Result<Option<usize>, BadHead> {
    form.clear();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(line_end) = rest.iter().take(20).position(|b| *b == b'\n') else {
            return if rest.len() < 20 {
                Ok(None)
            } else {
                Err(BadHead::Framing)
            };
        };
        let line = rest[..line_end]
            .strip_suffix(b"\r")
            .ok_or(BadHead::Framing)?;
        let size = chunk_size(line).ok_or(BadHead::Framing)?;
        at += line_end + 1;
        if form.len() + size > MAX_FORM_BYTES || at > MAX_CHUNKED_BYTES {
            return Err(BadHead::BodyTooLarge);
        }
        let Some(data) = bytes.get(at..at + size + 2) else {
            let so_far = bytes.get(at + size..).unwrap_or_default();
            return if b"\r\n".starts_with(so_far) {
                Ok(None)
            } else {
                Err(BadHead::Framing)
            };
        };
        let data = data.strip_suffix(b"\r\n").ok_or(BadHead::Framing)?;
        form.extend_from_slice(data);
        at += size + 2;
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(line).ok()?;
    let plain = !text.is_empty() && text.len() <= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| usize::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(bytes: &[u8]) -> Result<Option<(String, String, Framing, bool)>, BadHead> {
        let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
        let found = read(bytes, &mut headers)?;
        Ok(found.map(|(head, _)| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (
                text(head.method),
                text(head.target),
                head.body,
                head.keep_alive,
            )
        }))
    }

    fn verdict(bytes: &str) -> Option<BadHead> {
        head(bytes.as_bytes()).err()
    }

    #[test]
    fn a_plain_request_is_read() {
        let found = head(b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\nrest")
            .unwrap()
            .unwrap();
        assert_eq!(found, ("GET".into(), "/a?b=c".into(), Framing::None, true));
        let closing = head(b"GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n")
            .unwrap()
            .unwrap();
        assert!(!closing.3);
        assert!(!head(b"GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().3);
    }

    #[test]
    fn an_unfinished_head_waits_for_more() {
        let whole = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
        for end in 0..whole.len() {
            assert!(matches!(head(&whole[..end]), Ok(None)), "{end}");
        }
    }

    #[test]
    fn line_ends_are_cr_lf_and_nothing_else() {
        for bytes in [
            "GET / HTTP/1.1\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\n\r\n",
            "\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(verdict(bytes), Some(BadHead::LineEnd), "{bytes:?}");
        }
    }

    #[test]
    fn targets_are_paths_in_visible_ascii_without_fragments() {
        for target in ["*", "http://h/", "h:80", "/a#b", "/\u{e9}", "/a\tb", "a"] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(verdict(&bytes), Some(BadHead::Target), "{target:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(4096));
        assert_eq!(verdict(&long), Some(BadHead::TargetTooLong));
        let fits = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(4095));
        assert_eq!(verdict(&fits), None);
    }

    #[test]
    fn what_is_not_http_1_is_refused() {
        for bytes in [
            "GET /\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: \0\r\n\r\n",
        ] {
            assert_eq!(verdict(bytes), Some(BadHead::Syntax), "{bytes:?}");
        }
        assert_eq!(verdict("get / HTTP/1.1\r\n\r\n"), Some(BadHead::Method));
        assert_eq!(verdict("G3T / HTTP/1.1\r\n\r\n"), Some(BadHead::Method));
        assert_eq!(verdict("\u{16}\u{3}\u{1}"), Some(BadHead::Syntax));
    }

    #[test]
    fn limits_hold() {
        let headers = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(n));
        assert_eq!(verdict(&headers(64)), None);
        assert_eq!(verdict(&headers(65)), Some(BadHead::TooLarge));
        let big = format!(
            "GET / HTTP/1.1\r\nA: {}\r\n\r\n",
            "b".repeat(MAX_HEAD_BYTES)
        );
        assert_eq!(verdict(&big), Some(BadHead::TooLarge));
    }

    #[test]
    fn a_body_is_framed_in_one_plain_way() {
        let framing = |lines: &str| {
            head(format!("POST / HTTP/1.1\r\n{lines}\r\n").as_bytes()).map(|h| h.unwrap().2)
        };
        assert_eq!(framing("Content-Length: 3\r\n"), Ok(Framing::Length(3)));
        assert_eq!(
            framing("Transfer-Encoding: Chunked\r\n"),
            Ok(Framing::Chunked)
        );
        for lines in [
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: 03\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: identity\r\n",
        ] {
            assert_eq!(framing(lines), Err(BadHead::Framing), "{lines:?}");
        }
        assert_eq!(
            framing("Content-Length: 8193\r\n"),
            Err(BadHead::BodyTooLarge)
        );
    }

    #[test]
    fn chunks_are_read_and_tricks_refused() {
        let mut form = Vec::new();
        let body = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nnext";
        assert_eq!(read_chunks(body, &mut form), Ok(Some(body.len() - 4)));
        assert_eq!(form, b"abcde");
        for end in 0..body.len() - 4 {
            assert_eq!(read_chunks(&body[..end], &mut form), Ok(None), "{end}");
        }
        for bad in [
            "3;x=y\r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "-1\r\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "0\r\nTrailer: x\r\n\r\n",
            "ffffffffffffffff\r\n",
            "\r\n",
        ] {
            assert_eq!(
                read_chunks(bad.as_bytes(), &mut form),
                Err(BadHead::Framing),
                "{bad:?}"
            );
        }
        let huge = format!("{:x}\r\n", MAX_FORM_BYTES + 1);
        assert_eq!(
            read_chunks(huge.as_bytes(), &mut form),
            Err(BadHead::BodyTooLarge)
        );
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_never_accepts_doubtful_lines(
            bytes in prop::collection::vec(prop::sample::select(
                b"GETPOS /ahH1.:\r\n\n\t0chunked-,x".to_vec()), 0..120),
        ) {
            let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
            if let Ok(Some((head, _))) = read(&bytes, &mut headers) {
                let head = &bytes[..head.len];
                let lone = |(at, b): (usize, &u8)| {
                    *b == b'\n' && (at == 0 || head[at - 1] != b'\r')
                };
                prop_assert!(!head.iter().enumerate().any(lone));
            }
            let _ = read_chunks(&bytes, &mut Vec::new());
        }
    }
}
