//! Taking connections in, each to the worker that should have it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::connection::{Connection, Context};
use super::listener::Open;
use super::room::Seat;
use crate::authz::Caller;

/// How long a stopping server still takes connections that were on their way, and their requests.
pub(super) const LAST_CALL: Duration = Duration::from_millis(150);
/// After an accept that failed for want of descriptors: the socket stays readable, so trying again
/// at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// To each worker, connections that others took.
pub(super) type Hands = Arc<[UnboundedSender<Handed>]>;

/// A connection for another worker.
pub(super) struct Handed {
    /// The number of the listener.
    gate: u32,
    stream: std::net::TcpStream,
    peer: SocketAddr,
}

/// Accepts until the server stops and the last call is over.
pub(super) async fn accept(
    socket: Open,
    context: Rc<Context>,
    hands: Hands,
    drain: watch::Receiver<bool>,
) {
    let accepted = match socket {
        Open::Tcp(socket) => accept_tcp(socket, &context, &hands, drain).await,
        Open::Unix(socket) => accept_unix(socket, &context, drain).await,
    };
    if let Err(error) = accepted {
        tracing::error!(%error, "listener lost");
    }
}

/// Takes what other workers hand over, as long.
pub(super) async fn accept_handed(
    mut handed: UnboundedReceiver<Handed>,
    contexts: Vec<Rc<Context>>,
    drain: watch::Receiver<bool>,
) {
    let take = |Handed { gate, stream, peer }: Handed| {
        let context = contexts.iter().find(|context| context.gate.id == gate);
        let context = context.expect("all workers have the same listeners");
        let seat = Seat::take_counted(&context.room);
        // Without descriptors it would not have been accepted.
        match TcpStream::from_std(stream) {
            Ok(stream) => serve_tcp(stream, peer, context, seat),
            Err(error) => tracing::warn!(%error, "a connection was lost on its way"),
        }
    };
    let accepting = async {
        while let Some(one) = handed.recv().await {
            take(one);
        }
    };
    until_last_call(accepting, drain).await;
    // What came with the last call.
    handed.close();
    while let Ok(one) = handed.try_recv() {
        take(one);
    }
}

async fn accept_tcp(
    socket: std::net::TcpListener,
    context: &Rc<Context>,
    hands: &Hands,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let room = &context.room;
    let take = |stream: TcpStream, peer: SocketAddr| {
        serve_tcp(stream, peer, context, Seat::take(room));
    };
    let socket = TcpListener::from_std(socket)?;
    let accepting = async {
        let mut trouble = false;
        loop {
            while room.loads.taker(room.worker).is_none() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            match socket.accept().await {
                Ok((stream, peer)) => {
                    trouble = false;
                    match room.loads.taker(room.worker) {
                        Some(other) if other != room.worker && !room.is_draining() => {
                            let handed = hand_over(stream, peer, context, &hands[other], other);
                            if let Err(error) = handed {
                                tracing::warn!(%error, "a connection was lost on its way");
                            }
                        }
                        _ => take(stream, peer),
                    }
                }
                Err(error) => pause(&error, &mut trouble).await,
            }
        }
    };
    until_last_call(accepting, drain).await;
    // Closing a socket resets whoever waits in its queue, so that is emptied first.
    let socket = socket.into_std()?;
    while let Ok((stream, peer)) = socket.accept() {
        stream.set_nonblocking(true)?;
        take(TcpStream::from_std(stream)?, peer);
    }
    Ok(())
}

/// It counts as the other's from here on, so that a herd is spread and not passed on whole. If the
/// other has ended, as it may in a stop, it stays here.
fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    context: &Rc<Context>,
    hand: &UnboundedSender<Handed>,
    other: usize,
) -> io::Result<()> {
    let handed = Handed {
        gate: context.gate.id,
        stream: stream.into_std()?,
        peer,
    };
    let loads = &context.room.loads;
    loads.add(other);
    if let Err(SendError(back)) = hand.send(handed) {
        loads.take(other);
        let stream = TcpStream::from_std(back.stream)?;
        serve_tcp(stream, peer, context, Seat::take(&context.room));
    }
    Ok(())
}

async fn accept_unix(
    socket: std::os::unix::net::UnixListener,
    context: &Rc<Context>,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let take = |stream: UnixStream| match stream.peer_cred() {
        Ok(peer) => {
            let caller = Caller::Unix {
                uid: peer.uid(),
                gid: peer.gid(),
            };
            let seat = Seat::take(&context.room);
            let serving = Connection::new(stream, caller, Rc::clone(context), seat);
            tokio::task::spawn_local(serving);
        }
        Err(error) => tracing::debug!(%error, "caller without credentials"),
    };
    let socket = UnixListener::from_std(socket)?;
    let accepting = async {
        let mut trouble = false;
        loop {
            while !context.room.loads.has_place(context.room.worker) {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            match socket.accept().await {
                Ok((stream, _)) => {
                    trouble = false;
                    take(stream);
                }
                Err(error) => pause(&error, &mut trouble).await,
            }
        }
    };
    until_last_call(accepting, drain).await;
    let socket = socket.into_std()?;
    while let Ok((stream, _)) = socket.accept() {
        stream.set_nonblocking(true)?;
        take(UnixStream::from_std(stream)?);
    }
    Ok(())
}

fn serve_tcp(stream: TcpStream, peer: SocketAddr, context: &Rc<Context>, seat: Seat) {
    let caller = Caller::Tcp(peer.ip());
    let context = Rc::clone(context);
    let Some(tls) = &context.tls else {
        tokio::task::spawn_local(Connection::new(stream, caller, context, seat));
        return;
    };
    let handshake = tls.accept(stream);
    tokio::task::spawn_local(async move {
        // A handshake that fails is the client's: it does not know the certificate.
        if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
            Connection::new(stream, caller, context, seat).await;
        }
    });
}

/// Goes on with it until the last call is over.
async fn until_last_call(accepting: impl Future<Output = ()>, mut drain: watch::Receiver<bool>) {
    let last_call = async {
        let _ = drain.wait_for(|on| *on).await;
        tokio::time::sleep(LAST_CALL).await;
    };
    tokio::select! {
        () = accepting => {}
        () = last_call => {}
    }
}

/// Said once for each run of failures: while descriptors are short, there are many a second.
async fn pause(error: &io::Error, trouble: &mut bool) {
    if !std::mem::replace(trouble, true) {
        tracing::warn!(%error, "accept failed");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
