//! Hyper as it comes: one runtime on one thread, a task for each connection.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::LocalSet;

use super::Listener;

pub(super) fn serve(listener: Listener, body: Vec<u8>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let body = Bytes::from(body);
    LocalSet::new().block_on(&runtime, async {
        match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    connection(stream, &body);
                }
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                let listener = UnixListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    connection(stream, &body);
                }
            }
        }
    })
}

fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, body: &Bytes) {
    let body = body.clone();
    let service = service_fn(move |_: Request<Incoming>| {
        let mut answer = Response::new(Full::new(body.clone()));
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(CONTENT_TYPE, json);
        async { Ok::<_, Infallible>(answer) }
    });
    tokio::task::spawn_local(async move {
        // How a link ends is for the driver to say.
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
}
