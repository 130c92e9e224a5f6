//! The serving threads: one runtime, one cache view and one set of sockets each.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::connection::{self, Context};
use super::handler::{Gate, Live, Worker};
use super::listener::{BindError, Bound, Open};
use crate::authz::Caller;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::refresh::Handle;
use crate::telemetry::metrics::Metrics;

/// Connections of one worker, if there are descriptors for them. Beyond it, new ones wait in the
/// kernel's queue.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a stopping server still takes connections that were on their way, and their requests.
const LAST_CALL: Duration = Duration::from_millis(150);
/// After an accept that failed for want of descriptors: the socket stays readable, so trying again
/// at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often workers add up and let go.
const TICK: Duration = Duration::from_secs(1);

/// What workers share.
#[derive(Clone)]
pub struct Parts {
    /// The cache.
    pub cache: Arc<Cache>,
    /// Settings that may change.
    pub live: Arc<Live>,
    /// The refresh thread.
    pub refresh: Handle,
    /// The metrics.
    pub metrics: Metrics,
    /// Time.
    pub clock: Clock,
    /// Connections for which there are descriptors, all workers together.
    pub max_connections: usize,
}

/// The running front.
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    draining: watch::Sender<bool>,
}

/// Open sockets, one set for each worker.
pub struct Doors(Vec<Vec<(Gate, Open)>>);

impl Doors {
    /// Opens the sockets: from here on callers may connect.
    ///
    /// # Errors
    /// A socket cannot listen, because somebody else was faster.
    pub fn open(bound: Vec<Bound>, workers: usize) -> Result<Self, BindError> {
        let mut doors: Vec<Vec<(Gate, Open)>> = (0..workers).map(|_| Vec::new()).collect();
        for (id, bound) in (0..).zip(bound) {
            let gate = gate(id, &bound.listener)?;
            for (worker, open) in doors.iter_mut().zip(bound.open(workers)?) {
                worker.push((gate.clone(), open));
            }
        }
        Ok(Self(doors))
    }
}

impl Running {
    /// Starts a worker behind each set of sockets.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(doors: Doors, parts: &Parts) -> io::Result<Self> {
        let (draining, drain) = watch::channel(false);
        let workers = doors.0.len().max(1);
        let max = (parts.max_connections / workers).clamp(1, MAX_CONNECTIONS);
        let threads = doors.0.into_iter().enumerate().map(|(number, doors)| {
            let (parts, drain) = (parts.clone(), drain.clone());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            std::thread::Builder::new()
                .name(format!("serve-{number}"))
                .spawn(move || {
                    LocalSet::new().block_on(&runtime, run(doors, &parts, max, drain));
                })
        });
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            draining,
        })
    }

    /// Stops accepting and lets connections finish what they are at.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether every worker has ended; they end by themselves only when drained.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Whether a worker has ended, which before a drain only a panic brings about.
    #[must_use]
    pub fn has_lost_one(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

async fn run(doors: Vec<(Gate, Open)>, parts: &Parts, max: usize, drain: watch::Receiver<bool>) {
    let worker = Rc::new(RefCell::new(Worker::new(
        Arc::clone(&parts.cache),
        Arc::clone(&parts.live),
        parts.refresh.clone(),
        parts.metrics.clone(),
    )));
    let room = Rc::new(Room {
        open: Cell::new(0),
        max,
    });
    let mut accepting = JoinSet::new();
    for (gate, socket) in doors {
        let context = Context {
            worker: Rc::clone(&worker),
            gate: Rc::new(gate),
            clock: parts.clock.clone(),
            draining: drain.clone(),
        };
        accepting.spawn_local(accept(socket, context, Rc::clone(&room)));
    }
    let mut tick = tokio::time::interval(TICK);
    let mut drain = drain;
    loop {
        tokio::select! {
            _ = tick.tick() => worker.borrow_mut().tick(),
            _ = drain.wait_for(|on| *on) => break,
        }
    }
    // Sockets close with their accept loops; what is left are connections.
    while accepting.join_next().await.is_some() {}
    while room.open.get() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.borrow_mut().tick();
}

/// The connections of a worker.
struct Room {
    open: Cell<usize>,
    max: usize,
}

impl Room {
    /// Waits until there is room for one more.
    async fn wait(&self) {
        while self.open.get() >= self.max {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// One open connection, given back also when its task panics.
struct Seat(Rc<Room>);

impl Seat {
    fn take(room: &Rc<Room>) -> Self {
        room.open.set(room.open.get() + 1);
        Self(Rc::clone(room))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

async fn accept(socket: Open, context: Context, room: Rc<Room>) {
    let accepted = match socket {
        Open::Tcp(socket) => accept_tcp(socket, &context, &room).await,
        Open::Unix(socket) => accept_unix(socket, &context, &room).await,
    };
    if let Err(error) = accepted {
        tracing::error!(%error, "listener lost");
    }
}

/// Over once the last call is.
async fn last_call(context: &Context) {
    let mut drain = context.draining.clone();
    let _ = drain.wait_for(|on| *on).await;
    tokio::time::sleep(LAST_CALL).await;
}

async fn accept_tcp(
    socket: std::net::TcpListener,
    context: &Context,
    room: &Rc<Room>,
) -> io::Result<()> {
    let take = |stream: TcpStream, peer: SocketAddr| {
        // Answers are one small write: waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        serve(stream, Caller::Tcp(peer.ip()), context, room);
    };
    let socket = TcpListener::from_std(socket)?;
    let accepting = async {
        let mut trouble = false;
        loop {
            room.wait().await;
            match socket.accept().await {
                Ok((stream, peer)) => {
                    trouble = false;
                    take(stream, peer);
                }
                Err(error) => pause(&error, &mut trouble).await,
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = last_call(context) => {}
    }
    // Closing a socket resets whoever waits in its queue, so that is emptied first.
    let socket = socket.into_std()?;
    while let Ok((stream, peer)) = socket.accept() {
        stream.set_nonblocking(true)?;
        take(TcpStream::from_std(stream)?, peer);
    }
    Ok(())
}

async fn accept_unix(
    socket: std::os::unix::net::UnixListener,
    context: &Context,
    room: &Rc<Room>,
) -> io::Result<()> {
    let take = |stream: UnixStream| match stream.peer_cred() {
        Ok(peer) => {
            let caller = Caller::Unix {
                uid: peer.uid(),
                gid: peer.gid(),
            };
            serve(stream, caller, context, room);
        }
        Err(error) => tracing::debug!(%error, "caller without credentials"),
    };
    let socket = UnixListener::from_std(socket)?;
    let accepting = async {
        let mut trouble = false;
        loop {
            room.wait().await;
            match socket.accept().await {
                Ok((stream, _)) => {
                    trouble = false;
                    take(stream);
                }
                Err(error) => pause(&error, &mut trouble).await,
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = last_call(context) => {}
    }
    let socket = socket.into_std()?;
    while let Ok((stream, _)) = socket.accept() {
        stream.set_nonblocking(true)?;
        take(UnixStream::from_std(stream)?);
    }
    Ok(())
}

fn serve<I>(stream: I, caller: Caller, context: &Context, room: &Rc<Room>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let seat = Seat::take(room);
    let context = context.clone();
    tokio::task::spawn_local(async move {
        connection::serve(stream, caller, context, LAST_CALL).await;
        drop(seat);
    });
}

/// Said once for each run of failures: while descriptors are short, there are many a second.
async fn pause(error: &io::Error, trouble: &mut bool) {
    if !std::mem::replace(trouble, true) {
        tracing::warn!(%error, "accept failed");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
