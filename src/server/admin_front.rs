//! The admin endpoints' sockets, on a thread of their own: they answer while workers are busy.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, PRAGMA};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::forward;
use super::listener::{BindError, bind_unix};
use crate::admin::{Access, Admin, Answer, Settings};

/// A scrape or a look at the keys is over in milliseconds; slow clients are cut.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);
/// On each of the two sockets: operators and scrapers are few.
const MAX_CONNECTIONS: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The running admin sockets.
pub struct AdminFront {
    address: SocketAddr,
    thread: JoinHandle<()>,
    socket: Option<PathBuf>,
    conflict: Option<BindError>,
}

impl AdminFront {
    /// Binds both sockets and starts answering. An admin socket that cannot be made is a warning:
    /// only the TCP address is needed to run.
    ///
    /// # Errors
    /// The TCP address is taken or cannot be had, or the thread cannot be made.
    pub fn start(settings: &Settings, admin: Admin) -> Result<Self, BindError> {
        let failed = |error: io::Error| {
            let address = settings.address.to_string();
            match error.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { address },
                _ => BindError::Other { address, error },
            }
        };
        let tcp = std::net::TcpListener::bind(settings.address).map_err(failed)?;
        tcp.set_nonblocking(true).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let (unix, conflict) = match settings.socket.as_deref().map(bind_socket).transpose() {
            Ok(unix) => (unix.flatten(), None),
            Err(error) => (None, Some(error)),
        };
        let socket = settings.socket.clone().filter(|_| unix.is_some());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
                let operators = Arc::new(Semaphore::new(MAX_CONNECTIONS));
                runtime.block_on(async move {
                    let tcp = accept_tcp(tcp, admin.clone(), seats);
                    tokio::join!(tcp, accept_unix(unix, admin, operators));
                });
            })
            .map_err(failed)?;
        Ok(Self {
            address,
            thread,
            socket,
            conflict,
        })
    }

    /// Another process answers on our admin socket: what is meant for us would reach it. Told apart
    /// from [`start`](Self::start), because a second instance on one store is said to be that.
    ///
    /// # Errors
    /// The socket is in use.
    pub fn check_socket(&mut self) -> Result<(), BindError> {
        self.conflict.take().map_or(Ok(()), Err)
    }

    /// Whether the thread has ended, which only a panic brings about.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Where the read-only endpoints are.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminFront {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

fn bind_socket(path: &Path) -> Result<Option<std::os::unix::net::UnixListener>, BindError> {
    match bind_unix(path, 0o600) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(BindError::InUse {
            address: format!("unix:{}", path.display()),
        }),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%error, %path, "no admin socket: state cannot be changed");
            Ok(None)
        }
    }
}

async fn accept_tcp(socket: std::net::TcpListener, admin: Admin, seats: Arc<Semaphore>) {
    let Ok(socket) = TcpListener::from_std(socket) else {
        return;
    };
    loop {
        let seat = Arc::clone(&seats).acquire_owned().await;
        match socket.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, admin.clone(), Access::ReadOnly, seat));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn accept_unix(
    socket: Option<std::os::unix::net::UnixListener>,
    admin: Admin,
    seats: Arc<Semaphore>,
) {
    let Some(Ok(socket)) = socket.map(UnixListener::from_std) else {
        return;
    };
    let own = rustix::process::geteuid().as_raw();
    loop {
        let seat = Arc::clone(&seats).acquire_owned().await;
        match socket.accept().await {
            Ok((stream, _)) => match stream.peer_cred().map(|peer| peer.uid()) {
                Ok(uid) if uid == 0 || uid == own => {
                    tokio::spawn(serve(stream, admin.clone(), Access::Operator, seat));
                }
                _ => tracing::warn!("caller on the admin socket turned away"),
            },
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one connection; its seat is given back when it ends.
async fn serve<I, S>(io: I, admin: Admin, access: Access, _seat: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(answer(&request, &admin, access).await) }
    });
    let _ = tokio::time::timeout(CONNECTION_DEADLINE, forward::serve(io, service)).await;
}

async fn answer(
    request: &Request<Incoming>,
    admin: &Admin,
    access: Access,
) -> Response<Full<Bytes>> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("", |target| target.as_str());
    let answer = admin
        .answer(request.method().as_str(), target, access)
        .await;
    response(answer)
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    if let Some(methods) = answer.allow {
        headers.insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}
