//! Bytes in: reads one HTTP/1.1 request, over TCP or TLS alike.
//!
//! It knows nothing of tokens. Every size and wait has a limit, named below.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::body::Framing;

/// Largest request head: what common web servers allow.
const HEAD_LIMIT_BYTES: usize = 16 * 1024;
/// Most header lines in a request.
const HEADER_LIMIT: usize = 64;
/// How long a connection may stand idle, or take over one request.
const IDLE_LIMIT: Duration = Duration::from_mins(2);

/// A request, read to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    /// What follows the first `?`, still encoded.
    pub query: String,
    /// The body, its chunks put together.
    pub body: Vec<u8>,
    /// Head and body exactly as they arrived.
    pub raw: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    /// Whether the connection may serve another request.
    pub keep_alive: bool,
}

impl Request {
    /// Path and query as they were written.
    pub(crate) fn target(&self) -> String {
        match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }

    /// The values of a header, one for each line of that name.
    pub(crate) fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }
}

/// Why the next request could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The other side closed, was silent too long, or the network failed: nothing to say.
    Gone,
    /// What arrived is not a request this server takes; the status to refuse it with.
    Refused(u16),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads one request. Bytes of the next one stay in `buffer`. A chunked body is refused unless
/// `takes_chunked`.
pub(crate) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    takes_chunked: bool,
) -> Result<Request, ReadError> {
    let reading = async {
        let (mut request, head_length) = loop {
            if let Some(found) = parse_head(buffer)? {
                break found;
            }
            if buffer.len() >= HEAD_LIMIT_BYTES {
                return Err(ReadError::Refused(431));
            }
            read_more(stream, buffer).await?;
        };
        let framing = Framing::of(&request, takes_chunked)?;
        let (body, body_length) = loop {
            if let Some(found) = framing.body(&buffer[head_length..])? {
                break found;
            }
            read_more(stream, buffer).await?;
        };
        request.body = body;
        request.raw = buffer.drain(..head_length + body_length).collect();
        Ok(request)
    };
    tokio::time::timeout(IDLE_LIMIT, reading)
        .await
        .unwrap_or(Err(ReadError::Gone))
}

async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Result<(), ReadError> {
    buffer.reserve(4096);
    match stream.read_buf(buffer).await? {
        0 => Err(ReadError::Gone),
        _ => Ok(()),
    }
}

/// The request at the start of the bytes, without its body, and the length of its head. `None`
/// while the head is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize)>, ReadError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
    let mut head = httparse::Request::new(&mut headers);
    let head_length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ReadError::Refused(431)),
        Err(_) => return Err(ReadError::Refused(400)),
    };
    let (Some(method), Some(target), Some(minor_version)) = (head.method, head.path, head.version)
    else {
        return Err(ReadError::Refused(400));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: Vec::new(),
        raw: Vec::new(),
        headers: head
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), header.value.to_vec()))
            .collect(),
        keep_alive: false,
    };
    let says_close = request
        .header("connection")
        .any(|value| value.eq_ignore_ascii_case(b"close"));
    request.keep_alive = minor_version == 1 && !says_close;
    if minor_version == 1 && request.header("host").count() != 1 {
        return Err(ReadError::Refused(400));
    }
    Ok(Some((request, head_length)))
}
