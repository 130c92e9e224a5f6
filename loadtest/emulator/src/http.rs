//! Bytes in, bytes out: reads one HTTP/1.1 request, and spells one reply.
//!
//! It knows nothing of tokens. Every size and wait has a limit, named below.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::claims::random_bytes;
use crate::identities::guid;
use crate::time;

/// Largest request head: what common web servers allow.
const HEAD_LIMIT_BYTES: usize = 16 * 1024;
/// Largest request body; only the control path takes one.
const BODY_LIMIT_BYTES: usize = 64 * 1024;
/// Most header lines in a request.
const HEADER_LIMIT: usize = 64;
/// How long a connection may stand idle, or take over one request.
const IDLE_LIMIT: Duration = Duration::from_mins(2);

/// What the `Server` header says: the real name, its build number, and that this is not it.
const SERVER: &str = "IMDS/150.870.65.0-foretoken-emulator";

/// A request, read to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    /// What follows the first `?`, still encoded.
    pub query: String,
    pub body: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    /// Whether the connection may serve another request.
    pub keep_alive: bool,
}

impl Request {
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

/// Reads one request. Bytes of the next one stay in `buffer`.
pub(crate) async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Result<Request, ReadError> {
    let reading = async {
        let (mut request, body_length) = loop {
            if let Some((request, head_length, body_length)) = parse_head(buffer)? {
                buffer.drain(..head_length);
                break (request, body_length);
            }
            if buffer.len() >= HEAD_LIMIT_BYTES {
                return Err(ReadError::Refused(431));
            }
            read_more(stream, buffer).await?;
        };
        while buffer.len() < body_length {
            read_more(stream, buffer).await?;
        }
        request.body = buffer.drain(..body_length).collect();
        Ok(request)
    };
    tokio::time::timeout(IDLE_LIMIT, reading)
        .await
        .unwrap_or(Err(ReadError::Gone))
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), ReadError> {
    buffer.reserve(4096);
    match stream.read_buf(buffer).await? {
        0 => Err(ReadError::Gone),
        _ => Ok(()),
    }
}

/// The request at the start of the bytes, without its body; the length of its head; the length
/// of its body. `None` while the head is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, ReadError> {
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
    let body_length = body_length(&request)?;
    Ok(Some((request, head_length, body_length)))
}

/// The announced length of the body. Chunked bodies are refused: nothing here needs one.
fn body_length(request: &Request) -> Result<usize, ReadError> {
    if request.header("transfer-encoding").next().is_some() {
        return Err(ReadError::Refused(411));
    }
    let mut lengths = request.header("content-length");
    let (Some(length), None) = (lengths.next(), lengths.next()) else {
        let none_at_all = request.header("content-length").next().is_none();
        return if none_at_all {
            Ok(0)
        } else {
            Err(ReadError::Refused(400))
        };
    };
    let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let length = str::from_utf8(length)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse().ok());
    match length {
        None => Err(ReadError::Refused(400)),
        Some(length) if length > BODY_LIMIT_BYTES => Err(ReadError::Refused(413)),
        Some(length) => Ok(length),
    }
}

/// A reply before it is spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
    /// Headers beside the usual ones.
    pub extra: Vec<(&'static str, String)>,
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        let content_type = "application/json; charset=utf-8";
        Self {
            status,
            content_type,
            body: body.into(),
            extra: Vec::new(),
        }
    }

    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self {
            status,
            content_type,
            body: body.into(),
            extra: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// The status line and headers, up to and with the empty line.
    pub(crate) fn head(&self, keep_alive: bool) -> String {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nServer: {SERVER}\r\nx-ms-request-id: {}\r\n\
             Date: {}\r\nContent-Length: {}\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            guid(random_bytes()),
            time::http_date(time::unix_ms() / 1000),
            self.body.len(),
        );
        for (name, value) in &self.extra {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        if !keep_alive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        head
    }

    /// Sends the reply whole, in one write.
    pub(crate) async fn send(&self, stream: &mut TcpStream, keep_alive: bool) -> io::Result<()> {
        let mut bytes = self.head(keep_alive);
        bytes.push_str(&self.body);
        stream.write_all(bytes.as_bytes()).await
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
