//! One small HTTP client: one request on a fresh connection, with limits.
//!
//! A refresh happens a few times a day per key, so a kept-alive connection would save little and
//! bring the race in which the other side closes it while we write. No redirect is followed, and no
//! proxy is asked: neither is in here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::question::Question;
use super::{Class, FetchError};

/// Connecting to an address of this machine takes less than a millisecond or does not happen.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Entra is elsewhere, and its name is looked up first.
const CONNECT_BY_NAME_DEADLINE: Duration = Duration::from_secs(5);
/// Token answers are 2 to 5 KB; a token with very many groups or roles stays below this.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// More than any source's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const USER_AGENT: &str = concat!("foretoken/", env!("CARGO_PKG_VERSION"));

/// The other end.
#[derive(Clone)]
pub(super) struct Place {
    pub at: At,
    /// The value of `Host`.
    pub authority: Box<str>,
    /// For a source that is asked over TLS.
    pub tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

/// How to get there.
#[derive(Clone)]
pub(super) enum At {
    /// An address.
    Address(SocketAddr),
    /// A name and a port, looked up for each call: its owner moves it.
    Name(Box<str>, u16),
}

/// An answer whose body has arrived whole.
pub(super) struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers; only `Date`, `Retry-After`, Arc's challenge and the codings are ever read.
    pub headers: HeaderMap,
    /// It may hold a token, so it is wiped.
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// The body, if its bytes are what was meant: in no content coding, and in no transfer coding but
    /// `chunked`, which is undone. Of a coding that it does not know, hyper gives the bytes as they
    /// came.
    pub fn body(&self) -> Option<&[u8]> {
        let is = |value: &HeaderValue, coding: &str| {
            value.as_bytes().eq_ignore_ascii_case(coding.as_bytes())
        };
        let mut content = self.headers.get_all(header::CONTENT_ENCODING).iter();
        let mut transfer = self.headers.get_all(header::TRANSFER_ENCODING).iter();
        let plain = content.all(|coding| is(coding, "identity"))
            && transfer.next().is_none_or(|coding| is(coding, "chunked"))
            && transfer.next().is_none();
        plain.then_some(&*self.body)
    }
}

/// Sends one request and reads the answer.
///
/// # Errors
/// `Unreachable`, `Timeout` (of connecting), `Untrusted` or `TooLong`; whatever the status is, it
/// is an answer.
pub(super) async fn call(place: &Place, question: &Question) -> Result<Answer, FetchError> {
    let stream = match &place.at {
        At::Address(address) => connect(*address).await?,
        At::Name(name, port) => {
            let connecting = connect_by_name(name, *port);
            let within = tokio::time::timeout(CONNECT_BY_NAME_DEADLINE, connecting);
            within.await.map_err(|_| timeout())??
        }
    };
    let request = request(place, question)?;
    match &place.tls {
        None => exchange(stream, request).await,
        Some((name, config)) => {
            let connector = TlsConnector::from(Arc::clone(config));
            let stream = connector.connect(name.clone(), stream).await;
            exchange(stream.map_err(|error| distrust(&error))?, request).await
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, FetchError> {
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address));
    let swallowed = FetchError {
        unheard: true,
        ..timeout()
    };
    let stream = connecting.await.map_err(|_| swallowed)?;
    stream.map_err(|_| unreachable())
}

/// Tries each address that a name has, so that one that swallows packets does not hide the others.
async fn connect_by_name(name: &str, port: u16) -> Result<TcpStream, FetchError> {
    let addresses = tokio::net::lookup_host((name, port)).await;
    let mut error = unreachable();
    for address in addresses.map_err(|_| unreachable())? {
        match connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(this) => error = this,
        }
    }
    Err(error)
}

fn request(place: &Place, question: &Question) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut request = Request::builder()
        .method(&question.method)
        .uri(&question.target)
        .header(header::HOST, &*place.authority)
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, USER_AGENT);
    for (name, value) in &question.headers {
        request = request.header(name, value);
    }
    let body = match &question.form {
        None => Bytes::new(),
        Some(form) => {
            let kind = "application/x-www-form-urlencoded";
            request = request.header(header::CONTENT_TYPE, kind);
            form.clone()
        }
    };
    let request = request.body(Full::new(body));
    request.map_err(|_| FetchError::of(Class::Malformed))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| broken())?;
    // The connection is driven here, beside the request, so that giving up closes both.
    let call = async move {
        let response = sender.send_request(request).await.map_err(|_| broken())?;
        let (parts, body) = response.into_parts();
        // One buffer of the largest size from the start: growing would leave pieces of a token
        // behind.
        let mut whole = Zeroizing::new(Vec::with_capacity(MAX_BODY_BYTES));
        let mut body = Limited::new(body, MAX_BODY_BYTES);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let too_long = error.downcast_ref::<LengthLimitError>().is_some();
                if too_long {
                    FetchError::of(Class::TooLong)
                } else {
                    broken()
                }
            })?;
            if let Some(data) = frame.data_ref() {
                whole.extend_from_slice(data);
            }
        }
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: whole,
        })
    };
    let mut connection = std::pin::pin!(connection);
    let mut call = std::pin::pin!(call);
    tokio::select! {
        answer = &mut call => answer,
        // The connection may end first: the answer is then whatever the call makes of it.
        _ = &mut connection => call.await,
    }
}

fn timeout() -> FetchError {
    FetchError::of(Class::Timeout)
}

fn unreachable() -> FetchError {
    FetchError::of(Class::Unreachable)
}

/// The connection broke after the question went out, which may be about the question.
fn broken() -> FetchError {
    FetchError {
        unheard: false,
        ..unreachable()
    }
}

/// A certificate that is not trusted is told apart from a connection that broke.
fn distrust(error: &std::io::Error) -> FetchError {
    let inner = error.get_ref().and_then(|it| it.downcast_ref());
    FetchError::of(match inner {
        Some(rustls::Error::InvalidCertificate(_)) => Class::Untrusted,
        _ => Class::Unreachable,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What is read of an answer with these lines, before which nothing says where the body ends.
    async fn body_of(lines: &str, body: &str) -> Option<Vec<u8>> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}");
        let serve = async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                theirs.read_buf(&mut asked).await.unwrap();
            }
            theirs.write_all(answer.as_bytes()).await.unwrap();
        };
        let request = Request::get("/").body(Full::default()).unwrap();
        let (answer, ()) = tokio::join!(exchange(ours, request), serve);
        answer.ok().unwrap().body().map(<[u8]>::to_vec)
    }

    #[tokio::test]
    async fn a_body_in_a_coding_that_nobody_asked_for_is_none() {
        let chunks = "2\r\n{}\r\n0\r\n\r\n";
        for (lines, body) in [
            ("", "{}"),
            ("Content-Encoding: identity\r\n", "{}"),
            ("Transfer-Encoding: chunked\r\n", chunks),
            ("Transfer-Encoding: Chunked\r\n", chunks),
        ] {
            let read = body_of(lines, body).await;
            assert_eq!(read.as_deref(), Some(&b"{}"[..]), "{lines}");
        }
        for (lines, body) in [
            ("Content-Encoding: gzip\r\n", "{}"),
            ("Content-Encoding: identity, br\r\n", "{}"),
            (
                "Content-Encoding: identity\r\nContent-Encoding: br\r\n",
                "{}",
            ),
            ("Transfer-Encoding: squeezed\r\n", "{}"),
            ("Transfer-Encoding: identity\r\n", "{}"),
            ("Transfer-Encoding: squeezed, chunked\r\n", chunks),
            (
                "Transfer-Encoding: squeezed\r\nTransfer-Encoding: chunked\r\n",
                chunks,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                chunks,
            ),
        ] {
            assert_eq!(body_of(lines, body).await, None, "{lines}");
        }
    }
}
