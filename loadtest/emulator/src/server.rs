//! The loop of one connection, and the loops that accept them.
//!
//! A loop of its own, rather than a server library, because faults need the raw socket: to reset
//! it, to leave it hanging, or to stop within a body.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::answer;
use crate::control;
use crate::delivery::{After, Wire};
use crate::door::{self, Door};
use crate::http::{ReadError, read_request};
use crate::reply::Reply;
use crate::route::Route;
use crate::time;
use crate::world::World;

/// Most connections at once; the next ones wait in the backlog.
const CONNECTION_LIMIT: usize = 4096;
/// Pause after a failed accept on the control listener, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Most connections to the control listener at once.
const CONTROL_LIMIT: usize = 64;

/// How long a caller may take over its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// Accepts for ever. The connections end when the runtime is dropped.
pub(crate) async fn serve(mut door: Door, world: Arc<World>) {
    let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (mut stream, peer) = door.accept(&world).await;
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let door_state = world.plan().door_state();
            let met = world.plan().next_connection(time::steady());
            if let Some((how, name)) = &met {
                world.tally().spoilt_connection(name);
                if door::meet(&mut stream, how).await.is_some() {
                    return;
                }
            }
            // An error here is a caller that went away: nothing to tell anyone.
            let _ = greet(stream, peer.ip(), &world, met.is_some(), door_state).await;
            drop(place);
        });
    }
}

/// Accepts for ever on the control listener, which no fault gets at.
pub(crate) async fn serve_control(listener: TcpListener, world: Arc<World>) {
    let places = Arc::new(Semaphore::new(CONTROL_LIMIT));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let _ = serve_connection(stream, peer.ip(), &world, Reach::Apart, 0).await;
            drop(place);
        });
    }
}

/// What may be asked for on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Everything,
    /// Plain HTTP where TLS is spoken: enough to steer, and no tokens.
    ControlOnly,
    /// The same on the control listener.
    Apart,
}

/// Finds out whether a caller speaks TLS, where that is to be spoken.
async fn greet(
    stream: TcpStream,
    peer: IpAddr,
    world: &Arc<World>,
    other_certificate: bool,
    door_state: u64,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = &world.tls else {
        return serve_connection(stream, peer, world, Reach::Everything, door_state).await;
    };
    let mut first = [0];
    timeout(HANDSHAKE_LIMIT, stream.peek(&mut first)).await??;
    if first == [TLS_HANDSHAKE] {
        let other = other_certificate.then(|| world.other_tls()).flatten();
        let tls = other.unwrap_or(tls);
        let stream = timeout(HANDSHAKE_LIMIT, tls.acceptor.accept(stream)).await??;
        serve_connection(stream, peer, world, Reach::Everything, door_state).await
    } else {
        serve_connection(stream, peer, world, Reach::ControlOnly, door_state).await
    }
}

async fn serve_connection(
    mut stream: impl Wire,
    peer: IpAddr,
    world: &Arc<World>,
    reach: Reach,
    door_state: u64,
) -> io::Result<()> {
    let takes_chunked = world.kind.rules().forms;
    let server = world.kind.server_header();
    let mut buffer = Vec::new();
    loop {
        let reading = read_request(&mut stream, &mut buffer, takes_chunked);
        let read = if reach == Reach::Apart {
            reading.await
        } else {
            tokio::select! {
                // A request that comes after a fault of connecting was set is too late.
                biased;
                () = door::closing_time(world, door_state) => return Ok(()),
                read = reading => read,
            }
        };
        let request = match read {
            Ok(request) => request,
            Err(ReadError::Gone) => return Ok(()),
            Err(ReadError::Refused(status)) => return refuse(&mut stream, server, status).await,
        };
        if let Route::Control(action) = Route::of(&world.kind, &request.path) {
            let reply = control::answer(world, &request, action, peer, reach == Reach::Apart);
            reply.send(&mut stream, server, request.keep_alive).await?;
        } else if reach != Reach::Everything {
            return refuse(&mut stream, server, 400).await;
        } else {
            let answer = answer(world, &request).await;
            let after = answer
                .delivery
                .send(&mut stream, server, request.keep_alive)
                .await?;
            drop(answer.in_progress);
            match after {
                After::GoOn => {}
                After::Close => return Ok(()),
                After::CloseIn(pause) => {
                    tokio::time::sleep(pause).await;
                    return stream.shutdown().await;
                }
            }
        }
        if !request.keep_alive {
            return stream.shutdown().await;
        }
    }
}

/// Answers what is not a proper request, and closes.
async fn refuse(stream: &mut impl Wire, server: &str, status: u16) -> io::Result<()> {
    Reply::text(status, "Bad Request")
        .send(stream, server, false)
        .await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use crate::testing::{Asker, Connection, get, token_target, unlimited};
    use crate::{Kind, ServiceFabric};

    #[test]
    fn one_connection_serves_many_requests_good_and_bad() {
        let emulator = unlimited();
        let mut connection = Connection::open(&emulator);
        for target in [&token_target(""), "/nowhere", &token_target("&client_id=x")] {
            assert!(connection.get(target).is_ok(), "{target}");
        }
        assert_eq!(connection.get(&token_target("")).unwrap().status, 200);
    }

    #[test]
    fn requests_sent_ahead_are_answered_in_turn() {
        let emulator = unlimited();
        let mut connection = Connection::open(&emulator);
        let one = "GET /metadata/versions HTTP/1.1\r\nHost: t\r\nMetadata: true\r\n\r\n";
        let two = "GET /nowhere HTTP/1.1\r\nHost: t\r\n\r\n";
        connection.send(&format!("{one}{two}{one}")).unwrap();
        let statuses = [(); 3].map(|()| connection.read().unwrap().status);
        assert_eq!(statuses, [200, 404, 200]);
    }

    #[test]
    fn a_caller_that_asks_for_it_gets_its_connection_closed() {
        let emulator = unlimited();
        for request in [
            "GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
        ] {
            let mut connection = Connection::open(&emulator);
            connection.send(request).unwrap();
            let text = connection.read_to_end().unwrap();
            assert!(
                text.starts_with("HTTP/1.1 404 ") && text.contains("\r\nConnection: close\r\n")
            );
        }
    }

    #[test]
    fn plain_http_gets_no_token_where_tls_is_spoken() {
        let asker = Asker::new(Kind::ServiceFabric(ServiceFabric::default()));
        let mut connection = Connection::open_plain(&asker.emulator);
        let reply = connection.get("/metadata/identity/oauth2/token").unwrap();
        assert_eq!(reply.status, 400);
        assert_eq!(connection.read_to_end().unwrap(), "");
        assert_eq!(asker.emulator.last_request(), None);
    }

    #[test]
    fn what_is_not_a_proper_request_is_refused_and_the_connection_closed() {
        let emulator = unlimited();
        let too_long = format!("GET / HTTP/1.1\r\nHost: t\r\nX: {}", "x".repeat(16 * 1024));
        let many = format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(64));
        for (request, status) in [
            ("nonsense\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n",
                411,
            ),
            (
                "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999\r\n\r\n",
                413,
            ),
            (&too_long, 431),
            (&many, 431),
        ] {
            let mut connection = Connection::open(&emulator);
            connection.send(request).unwrap();
            let reply = connection.read().unwrap();
            assert_eq!(reply.status, status, "{request:.60}");
            assert_eq!(connection.read_to_end().unwrap(), "");
        }
        assert_eq!(get(&emulator, "/metadata/versions").status, 200);
    }
}
