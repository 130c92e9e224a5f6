//! Where the body of a request ends: by its announced length, or by its last chunk.
//!
//! Chunks are read strictly: plain hexadecimal sizes, CRLF at every line end, no extensions and
//! no trailers. Azure's own endpoints may be more lenient; a proxy has no reason to need it.

use crate::http::{ReadError, Request};

/// Largest request body, framing included.
const LIMIT_BYTES: usize = 64 * 1024;

/// How the body of a request is delimited.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes.
    Length(usize),
    Chunked,
}

impl Framing {
    /// What the headers say. Both kinds at once, or a length twice, is refused with 400; chunks
    /// with 411 where they are not taken; too much with 413.
    pub(crate) fn of(request: &Request, takes_chunked: bool) -> Result<Self, ReadError> {
        let mut lengths = request.header("content-length");
        let mut codings = request.header("transfer-encoding");
        match (
            codings.next(),
            codings.next(),
            lengths.next(),
            lengths.next(),
        ) {
            (None, None, None, None) => Ok(Self::Length(0)),
            (None, None, Some(length), None) => Ok(Self::Length(announced(length)?)),
            (Some(_), ..) if !takes_chunked => Err(ReadError::Refused(411)),
            (Some(coding), None, None, None) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Self::Chunked)
            }
            _ => Err(ReadError::Refused(400)),
        }
    }

    /// The body at the start of the bytes, and how many of them it takes up. `None` while it is
    /// incomplete.
    pub(crate) fn body(&self, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ReadError> {
        match self {
            Self::Length(length) => Ok(bytes.get(..*length).map(|body| (body.to_vec(), *length))),
            Self::Chunked => match join_chunks(bytes)? {
                None if bytes.len() >= LIMIT_BYTES => Err(ReadError::Refused(413)),
                found => Ok(found),
            },
        }
    }
}

fn announced(length: &[u8]) -> Result<usize, ReadError> {
    let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let length = str::from_utf8(length)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse().ok());
    match length {
        None => Err(ReadError::Refused(400)),
        Some(length) if length > LIMIT_BYTES => Err(ReadError::Refused(413)),
        Some(length) => Ok(length),
    }
}

fn join_chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ReadError> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(line_length) = line_length(&bytes[at..])? else {
            return Ok(None);
        };
        let size = chunk_size(&bytes[at..at + line_length])?;
        at += line_length + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        // The last chunk has no data: what follows it is the empty line that ends the body.
        if !chunk.ends_with(b"\r\n") {
            return Err(ReadError::Refused(400));
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// The length of the size line, without its CRLF; `None` while it is incomplete.
fn line_length(bytes: &[u8]) -> Result<Option<usize>, ReadError> {
    // Eight digits say more than the limit allows.
    let start = &bytes[..bytes.len().min(10)];
    match start.windows(2).position(|pair| pair == b"\r\n") {
        Some(length) => Ok(Some(length)),
        None if bytes.len() >= 10 => Err(ReadError::Refused(400)),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, ReadError> {
    let digits = !line.is_empty() && line.iter().all(u8::is_ascii_hexdigit);
    let size = str::from_utf8(line)
        .ok()
        .filter(|_| digits)
        .and_then(|text| usize::from_str_radix(text, 16).ok())
        .ok_or(ReadError::Refused(400))?;
    if size > LIMIT_BYTES {
        return Err(ReadError::Refused(413));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_what_follows_is_left() {
        let bytes = b"4\r\nres=\r\nA\r\n0123456789\r\n0\r\n\r\nGET /";
        let (body, length) = Framing::Chunked.body(bytes).unwrap().unwrap();
        assert_eq!(body, b"res=0123456789");
        assert_eq!(&bytes[length..], b"GET /");
    }

    #[test]
    fn an_incomplete_chunked_body_is_waited_for() {
        let bytes = b"4\r\nres=\r\n0\r\n\r\n";
        for length in 0..bytes.len() {
            assert!(matches!(Framing::Chunked.body(&bytes[..length]), Ok(None)));
        }
    }

    #[test]
    fn sloppy_chunks_are_refused() {
        for bytes in [
            "4;x=y\r\nres=\r\n0\r\n\r\n",
            "0x4\r\nres=\r\n0\r\n\r\n",
            "+4\r\nres=\r\n0\r\n\r\n",
            " 4\r\nres=\r\n0\r\n\r\n",
            "\r\nres=\r\n0\r\n\r\n",
            "4\nres=\n0\n\n0000000",
            "3\r\nres=\r\n0\r\n\r\n",
            "0\r\nX: y\r\n\r\n",
            "000000004\r\nres=\r\n0\r\n\r\n",
            "fffff\r\n",
        ] {
            assert!(
                matches!(
                    Framing::Chunked.body(bytes.as_bytes()),
                    Err(ReadError::Refused(400 | 413))
                ),
                "{bytes:?}"
            );
        }
    }
}
