//! The serving threads: one runtime, one cache view and one set of sockets each.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::connection::{self, Context};
use super::handler::{Gate, Live, Worker};
use super::listener::{BindError, Bound, Open};
use crate::authz::Caller;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::refresh::Handle;
use crate::telemetry::metrics::Metrics;

/// Connections of one worker. Beyond it, new ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 20_000;
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
            let gate = Gate {
                id,
                dialects: bound.listener.dialects.clone(),
            };
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
        let threads = doors.0.into_iter().enumerate().map(|(number, doors)| {
            let (parts, drain) = (parts.clone(), drain.clone());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            std::thread::Builder::new()
                .name(format!("serve-{number}"))
                .spawn(move || {
                    LocalSet::new().block_on(&runtime, run(doors, &parts, drain));
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

async fn run(doors: Vec<(Gate, Open)>, parts: &Parts, drain: watch::Receiver<bool>) {
    let worker = Rc::new(RefCell::new(Worker::new(
        Arc::clone(&parts.cache),
        Arc::clone(&parts.live),
        parts.refresh.clone(),
        parts.metrics.clone(),
    )));
    let open = Rc::new(Cell::new(0));
    for (gate, socket) in doors {
        let context = Context {
            worker: Rc::clone(&worker),
            gate: Rc::new(gate),
            clock: parts.clock.clone(),
            draining: drain.clone(),
        };
        tokio::task::spawn_local(accept(socket, context, Rc::clone(&open)));
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
    while open.get() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.borrow_mut().tick();
}

async fn accept(socket: Open, context: Context, open: Rc<Cell<usize>>) {
    let mut drain = context.draining.clone();
    let accepting = async {
        match socket {
            Open::Tcp(socket) => match TcpListener::from_std(socket) {
                Ok(socket) => accept_tcp(&socket, &context, &open).await,
                Err(error) => tracing::error!(%error, "listener lost"),
            },
            Open::Unix(socket) => match UnixListener::from_std(socket) {
                Ok(socket) => accept_unix(&socket, &context, &open).await,
                Err(error) => tracing::error!(%error, "listener lost"),
            },
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = drain.wait_for(|on| *on) => {}
    }
}

async fn accept_tcp(socket: &TcpListener, context: &Context, open: &Rc<Cell<usize>>) {
    loop {
        room(open).await;
        match socket.accept().await {
            Ok((stream, peer)) => {
                // Answers are one small write: waiting for more would only delay them.
                let _ = stream.set_nodelay(true);
                serve(stream, Caller::Tcp(peer.ip()), context, open);
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_unix(socket: &UnixListener, context: &Context, open: &Rc<Cell<usize>>) {
    loop {
        room(open).await;
        match socket.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) => {
                    let caller = Caller::Unix {
                        uid: peer.uid(),
                        gid: peer.gid(),
                    };
                    serve(stream, caller, context, open);
                }
                Err(error) => tracing::debug!(%error, "caller without credentials turned away"),
            },
            Err(error) => pause(&error).await,
        }
    }
}

fn serve<I>(stream: I, caller: Caller, context: &Context, open: &Rc<Cell<usize>>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    open.set(open.get() + 1);
    let seat = Seat(Rc::clone(open));
    let context = context.clone();
    tokio::task::spawn_local(async move {
        connection::serve(stream, caller, context).await;
        drop(seat);
    });
}

/// One open connection, given back also when its task panics.
struct Seat(Rc<Cell<usize>>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn room(open: &Rc<Cell<usize>>) {
    while open.get() >= MAX_CONNECTIONS {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
