//! One HTTP/1.1 answer at the start of the bytes that have arrived.

use std::borrow::Cow;
use std::mem::MaybeUninit;

/// Most headers of an answer.
const MAX_HEADERS: usize = 64;
/// An answer longer than this is none: no token is.
const MAX_BYTES: usize = 1 << 20;

/// What the bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<'a> {
    /// Not yet an answer.
    Part,
    /// Nothing that could become one.
    Bad,
    Whole(Answer<'a>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub status: u16,
    /// Without its framing.
    pub body: Cow<'a, [u8]>,
    /// How many bytes it took, head and framing included.
    pub length: usize,
    /// Whether the server says that it closes the link.
    pub last: bool,
}

/// Reads the first answer. Its body has a `Content-Length` or is chunked; one that ends with the
/// link is not read, since it cannot be told from one that was cut.
pub(crate) fn read(bytes: &[u8]) -> Read<'_> {
    // Left unset: writing all of them each time costs more than reading an answer's few.
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let head = match parsed {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_BYTES => return Read::Part,
        _ => return Read::Bad,
    };
    let status = response.code.unwrap_or_default();
    let (mut length, mut chunked, mut last) = (None, false, response.version == Some(0));
    for header in &*response.headers {
        // By length first: an answer has headers that concern nobody here.
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                length = str::from_utf8(header.value)
                    .ok()
                    .and_then(|text| text.trim().parse::<usize>().ok());
                if length.is_none_or(|length| length > MAX_BYTES) {
                    return Read::Bad;
                }
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                chunked = header.value.eq_ignore_ascii_case(b"chunked");
            }
            10 if header.name.eq_ignore_ascii_case("connection") => {
                last = header.value.eq_ignore_ascii_case(b"close");
            }
            _ => {}
        }
    }
    let whole = |body, length| {
        Read::Whole(Answer {
            status,
            body,
            length,
            last,
        })
    };
    if chunked {
        return match unchunk(&bytes[head..]) {
            Chunks::Part if bytes.len() < MAX_BYTES => Read::Part,
            Chunks::Part | Chunks::Bad => Read::Bad,
            Chunks::Whole(body, length) => whole(Cow::Owned(body), head + length),
        };
    }
    let length = match (status, length) {
        (204 | 304, _) => 0,
        (_, Some(length)) => length,
        (_, None) => return Read::Bad,
    };
    match bytes.get(head..head + length) {
        Some(body) => whole(Cow::Borrowed(body), head + length),
        None => Read::Part,
    }
}

enum Chunks {
    Part,
    Bad,
    /// The body, and how many bytes its framing and it took.
    Whole(Vec<u8>, usize),
}

fn unchunk(bytes: &[u8]) -> Chunks {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (line, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Chunks::Part,
            Err(_) => return Chunks::Bad,
        };
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= MAX_BYTES) else {
            return Chunks::Bad;
        };
        at += line;
        // Trailers would stand before the last line break: nobody sends any.
        let Some(end) = bytes.get(at + size..at + size + 2) else {
            return Chunks::Part;
        };
        if end != b"\r\n" {
            return Chunks::Bad;
        }
        body.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
        if size == 0 {
            return Chunks::Whole(body, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-Other: 1\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 429 Slow\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
          3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n";

    fn whole(bytes: &[u8]) -> Answer<'_> {
        match read(bytes) {
            Read::Whole(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_are_read_whatever_their_framing() {
        for (bytes, status, last) in [(PLAIN, 200, false), (CHUNKED, 429, true)] {
            let answer = whole(bytes);
            assert_eq!((answer.status, answer.last), (status, last));
            assert_eq!((&*answer.body, answer.length), (&b"hello"[..], bytes.len()));
        }
    }

    #[test]
    fn only_the_first_of_two_answers_is_read() {
        let both = [PLAIN, CHUNKED].concat();
        let first = whole(&both);
        assert_eq!(first.length, PLAIN.len());
        assert_eq!(whole(&both[first.length..]).status, 429);
    }

    #[test]
    fn an_answer_cut_anywhere_is_a_part() {
        for bytes in [PLAIN, CHUNKED] {
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Read::Part, "{cut}");
            }
        }
    }

    #[test]
    fn what_cannot_be_an_answer_is_bad() {
        let bad: [&[u8]; 5] = [
            b"<html>",
            b"HTTP/1.1 200 OK\r\n\r\nno length",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        ];
        for bytes in bad {
            assert_eq!(read(bytes), Read::Bad, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
