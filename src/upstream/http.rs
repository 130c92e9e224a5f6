//! One small HTTP client: one GET on a fresh connection, with limits.
//!
//! A refresh happens a few times a day per key, so a kept-alive connection would save little and
//! bring the race in which the other side closes it while we write.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{self, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::{Class, FetchError};

/// The whole of one call, connecting included. IMDS answers within seconds when it answers.
const DEADLINE: Duration = Duration::from_secs(10);
/// Connecting to a link-local address takes less than a millisecond or does not happen.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Token answers are 2 to 5 KB; a token with very many groups or roles stays below this.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// An answer whose body has arrived whole.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers; only `Retry-After` is ever read.
    pub headers: HeaderMap,
    /// The body: it may hold a token, so it is wiped.
    pub body: Zeroizing<Vec<u8>>,
}

/// Sends `GET target` with `Metadata: true` to `endpoint` and reads the answer.
///
/// # Errors
/// `Unreachable`, `Timeout` or `TooLong`; whatever the status is, it is an answer.
pub async fn get(endpoint: SocketAddr, target: &str) -> Result<Answer, FetchError> {
    let deadline = tokio::time::timeout(DEADLINE, exchange(endpoint, target));
    deadline.await.map_err(|_| FetchError::of(Class::Timeout))?
}

/// As SDKs write it: the port is left out where it is HTTP's own.
fn host(endpoint: SocketAddr) -> String {
    match endpoint {
        SocketAddr::V4(v4) if v4.port() == 80 => v4.ip().to_string(),
        _ => endpoint.to_string(),
    }
}

async fn exchange(endpoint: SocketAddr, target: &str) -> Result<Answer, FetchError> {
    let unreachable = || FetchError::of(Class::Unreachable);
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(endpoint));
    let stream = connecting
        .await
        .map_err(|_| FetchError::of(Class::Timeout))?
        .map_err(|_| unreachable())?;
    let request = Request::get(target)
        .header(header::HOST, host(endpoint))
        .header("Metadata", "true")
        .header(header::CONNECTION, "close")
        .header(
            header::USER_AGENT,
            concat!("foretoken/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::of(Class::Malformed))?;

    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| unreachable())?;
    // The connection is driven here, beside the request, so that giving up closes both.
    let call = async move {
        let response = sender
            .send_request(request)
            .await
            .map_err(|_| unreachable())?;
        let (parts, body) = response.into_parts();
        // One buffer of the largest size from the start: growing would leave pieces of a token
        // behind.
        let mut whole = Zeroizing::new(Vec::with_capacity(MAX_BODY_BYTES));
        let mut body = Limited::new(body, MAX_BODY_BYTES);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let too_long = error.downcast_ref::<LengthLimitError>().is_some();
                FetchError::of(if too_long {
                    Class::TooLong
                } else {
                    Class::Unreachable
                })
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
