//! Heads that were checked, served by hyper: one request, then the connection ends.
//!
//! Admin endpoints have bodies and paths of their own and no need for speed, so hyper serves them;
//! but it gets to see only what `head.rs` and the guard have let through, byte for byte.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::head::{self, BadHead, Framing, MAX_HEADERS};
use super::wire;
use crate::authz::guard::{Facts, Header};
use crate::clock::Clock;

/// A head must be complete within this time of the connection's start.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 4096;

/// Reads one head, refuses what is not plainly one request for us, and hands the rest to hyper.
///
/// # Errors
/// The client's: it hung up or was too slow.
pub(super) async fn serve<I, S>(mut io: I, service: S) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut bytes = Vec::new();
    let checked = tokio::time::timeout(HEAD_DEADLINE, read_checked(&mut io, &mut bytes)).await;
    let refusal = match checked {
        Ok(verdict) => verdict?,
        Err(_) => Some(BadHead::TooSlow.status_and_text()),
    };
    if let Some((status, text)) = refusal {
        let date = wire::date(Clock::system().now().as_secs());
        io.write_all(&wire::plain(status, text, &date)).await?;
        return io.shutdown().await;
    }
    let (reader, writer) = tokio::io::split(io);
    let whole = tokio::io::join(io::Cursor::new(bytes).chain(reader), writer);
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(whole), service);
    connection.await.map_err(io::Error::other)
}

/// Reads until the head is whole; says what is wrong with it, if anything is.
async fn read_checked<I: AsyncRead + Unpin>(
    io: &mut I,
    bytes: &mut Vec<u8>,
) -> io::Result<Option<(u16, &'static str)>> {
    let mut piece = [0; READ_BYTES];
    loop {
        let count = io.read(&mut piece).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..count]);
        let mut headers: [Header<'_>; MAX_HEADERS] = [(b"", b""); MAX_HEADERS];
        match head::read(bytes, &mut headers) {
            Ok(None) => {}
            Err(bad) => return Ok(Some(bad.status_and_text())),
            Ok(Some((head, count))) => {
                let admitted = Facts::read(headers[..count].iter().copied())
                    .admit()
                    .is_ok();
                let bodiless = matches!(head.body, Framing::None | Framing::Length(0));
                let end = head.len;
                // Whatever came behind the head is no part of this request, and the last.
                bytes.truncate(end);
                return Ok(if admitted && bodiless {
                    None
                } else {
                    Some((403, "not accepted"))
                });
            }
        }
    }
}
