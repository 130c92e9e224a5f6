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
use hyper::header::{self, HeaderMap};
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
    /// The headers; only `Date`, `Retry-After` and Arc's challenge are ever read.
    pub headers: HeaderMap,
    /// The body: it may hold a token, so it is wiped.
    pub body: Zeroizing<Vec<u8>>,
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
