//! A reply, and how it is spelled on the wire.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::claims::random_bytes;
use crate::identities::guid;
use crate::time;

/// A reply before it is spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub status: u16,
    pub content_type: Cow<'static, str>,
    pub body: Vec<u8>,
    /// Header lines beside the usual ones, without their line ends.
    pub more_lines: Vec<String>,
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "application/json; charset=utf-8", body)
    }

    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    pub(crate) fn new(
        status: u16,
        content_type: impl Into<Cow<'static, str>>,
        body: impl Into<String>,
    ) -> Self {
        Self {
            status,
            content_type: content_type.into(),
            body: body.into().into_bytes(),
            more_lines: Vec::new(),
        }
    }

    pub(crate) fn with(self, name: &str, value: impl Display) -> Self {
        self.with_line(format!("{name}: {value}"))
    }

    /// With a header line exactly as given.
    pub(crate) fn with_line(mut self, line: String) -> Self {
        self.more_lines.push(line);
        self
    }

    /// The status line and headers, up to and with the empty line. `server` is the value of the
    /// `Server` header.
    pub(crate) fn head(&self, server: &str, keep_alive: bool) -> String {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nServer: {server}\r\nx-ms-request-id: {}\r\n\
             Date: {}\r\nContent-Length: {}\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            guid(random_bytes()),
            time::http_date(time::unix_ms() / 1000),
            self.body.len(),
        );
        for line in &self.more_lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if !keep_alive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        head
    }

    /// Sends the reply whole, in one write.
    pub(crate) async fn send(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        server: &str,
        keep_alive: bool,
    ) -> io::Result<()> {
        let mut bytes = self.head(server, keep_alive).into_bytes();
        bytes.extend_from_slice(&self.body);
        stream.write_all(&bytes).await?;
        stream.flush().await
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        201 => "Created",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
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
