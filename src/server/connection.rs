//! One connection, served by hyper: takes heads apart for the handler and sends what it says.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::handler::{self, Gate, Outcome, Worker};
use super::reject::Refusal;
use crate::authz::Caller;
use crate::authz::guard::Header;
use crate::cache::Landing;
use crate::clock::Clock;

/// How long a caller is held while its token is fetched. The SDKs wait longer than this, and some
/// replay an error for 5 s, so holding costs them less than a quick refusal.
const MAX_WAIT_MS: u64 = 20_000;
/// More headers than any recorded client sends; the longest list has 11.
const MAX_HEADERS: usize = 64;
/// Bytes of a head. A longer one is refused by hyper with 431.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// A head must be complete within this time, and an idle connection sends its next one in it.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// What a connection needs beside its socket.
#[derive(Clone)]
pub(super) struct Context {
    pub worker: Rc<RefCell<Worker>>,
    pub gate: Rc<Gate>,
    pub clock: Clock,
    /// Becomes `true` when the server drains.
    pub draining: watch::Receiver<bool>,
}

/// Serves one connection until it closes. Once the server drains, each answer ends its connection,
/// and one that is still idle after the last call is closed.
pub(super) async fn serve<I>(io: I, caller: Caller, context: Context, last_call: Duration)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut draining = context.draining.clone();
    let service = service_fn(|request| {
        let (caller, context) = (caller.clone(), context.clone());
        async move {
            let mut response = answer(&request, &caller, &context).await;
            if *context.draining.borrow() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD_BYTES)
            .half_close(false)
            .serve_connection(TokioIo::new(io), service)
    );
    // Errors here are the client's: it hung up, or sent what is not HTTP and was told so.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = async {
            let _ = draining.wait_for(|on| *on).await;
            tokio::time::sleep(last_call).await;
        } => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn answer(
    request: &Request<Incoming>,
    caller: &Caller,
    context: &Context,
) -> Response<Full<Bytes>> {
    let mut headers: [Header<'_>; MAX_HEADERS] = [(b"", b""); MAX_HEADERS];
    let turn_away = |refusal: &Refusal| {
        context.worker.borrow().turn_away(refusal);
        refuse(refusal)
    };
    let Some(headers) = collect(request, &mut headers) else {
        return turn_away(&Refusal::TooManyHeaders);
    };
    let uri = request.uri();
    let target = match uri.path_and_query() {
        // The asterisk form comes as a path of its own; the absolute form has an authority.
        Some(target) if uri.authority().is_none() && target.as_str().starts_with('/') => {
            target.as_str()
        }
        _ => return turn_away(&Refusal::NotAPath),
    };
    let mut request = handler::Request {
        gate: &context.gate,
        caller,
        method: request.method().as_str().as_bytes(),
        target: target.as_bytes(),
        headers,
        waited: false,
    };
    let deadline = context.clock.now().plus(MAX_WAIT_MS);
    loop {
        let now = context.clock.now();
        let waiter = match handler::handle(&mut context.worker.borrow_mut(), &request, now) {
            Outcome::Answer(parts) => return send(parts),
            Outcome::Refuse(refusal) => return refuse(&refusal),
            Outcome::Wait(waiter) => waiter,
        };
        request.waited = true;
        let refusal = match wait(waiter, deadline.since(now)).await {
            Some(Landing::Arrived | Landing::Gone) => continue,
            Some(Landing::Failed(error)) => Refusal::Upstream(error),
            Some(Landing::Lost) => Refusal::Lost,
            None => Refusal::TimedOut,
        };
        context.worker.borrow().give_up(&refusal);
        return refuse(&refusal);
    }
}

async fn wait(waiter: crate::cache::Waiter, ms: u64) -> Option<Landing> {
    tokio::time::timeout(Duration::from_millis(ms), waiter)
        .await
        .ok()
}

fn collect<'a, 'r>(
    request: &'r Request<Incoming>,
    out: &'a mut [Header<'r>; MAX_HEADERS],
) -> Option<&'a [Header<'r>]> {
    let mut count = 0;
    for (name, value) in request.headers() {
        *out.get_mut(count)? = (name.as_str().as_bytes(), value.as_bytes());
        count += 1;
    }
    Some(&out[..count])
}

/// The body is copied once, into a buffer that is wiped when hyper is done with it.
fn send(parts: [&[u8]; 5]) -> Response<Full<Bytes>> {
    let mut body = Zeroizing::new(Vec::with_capacity(parts.iter().map(|p| p.len()).sum()));
    parts.iter().for_each(|part| body.extend_from_slice(part));
    response(200, Bytes::from_owner(body))
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    let rejection = refusal.render();
    let mut response = response(rejection.status, rejection.body.into());
    let headers = response.headers_mut();
    if let Some(seconds) = rejection.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if rejection.allow_get {
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
    }
    if rejection.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn response(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
