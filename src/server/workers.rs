//! The serving threads: one runtime, one cache view and one set of sockets each.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::accept::{Handed, Hands, LAST_CALL, accept, accept_handed};
use super::arc_keys::{ArcError, ArcKeys};
use super::connection::Context;
use super::desk::Desk;
use super::handler::{Gate, Live, Worker};
use super::listener::{BindError, Bound, Open};
use super::room::{Room, Stage};
use super::settings::{ExpiresOn, Listener};
use super::steering::{Cpus, Loads};
use super::tls::{self, TlsError};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::refresh::Handle;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pulse::Pulse;

/// Connections of one worker, if there are descriptors for them. Beyond it, new ones wait in the
/// kernel's queue.
const MAX_CONNECTIONS: usize = 20_000;
/// How often workers add up and let go.
const TICK: Duration = Duration::from_secs(1);
/// Seconds in which connections panicked and none was answered in between, after which the worker
/// ends, and the process with it. So many, because supervisors give up on what ends too often.
const MAX_STRIKES: u32 = 10;

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
    loads: Loads,
    pulses: Vec<Pulse>,
    draining: watch::Sender<bool>,
}

/// Open sockets, one set for each worker, and the CPUs where workers are bound to one.
pub struct Doors {
    sets: Vec<Vec<Door>>,
    cpus: Option<Arc<Cpus>>,
}

/// One listener of one worker.
struct Door {
    gate: Gate,
    tls: Option<TlsAcceptor>,
    socket: Open,
}

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Somebody else was faster.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate of a `service-fabric` listener.
    #[error("the TLS folder {}: {error}", folder.display())]
    Tls {
        /// Where it is kept.
        folder: PathBuf,
        /// Why not.
        error: TlsError,
    },
    /// The key files of an `arc` listener.
    #[error("the Arc folder {}: {error}", folder.display())]
    Arc {
        /// Where they are put.
        folder: PathBuf,
        /// Why not.
        error: ArcError,
    },
}

impl Doors {
    /// Opens the sockets: from here on callers may connect.
    ///
    /// # Errors
    /// A socket cannot listen, or a certificate or folder cannot be used.
    pub fn open(bound: Vec<Bound>, workers: usize, cpus: Option<Cpus>) -> Result<Self, DoorError> {
        let mut sets: Vec<Vec<Door>> = (0..workers).map(|_| Vec::new()).collect();
        let mut steered = false;
        for (id, bound) in (0..).zip(bound) {
            let (gate, tls) = gate(id, &bound.listener)?;
            let (sockets, is_steered) = bound.open(workers, cpus.as_ref())?;
            steered |= is_steered;
            for (worker, socket) in sets.iter_mut().zip(sockets) {
                worker.push(Door {
                    gate: gate.clone(),
                    tls: tls.clone(),
                    socket,
                });
            }
        }
        // To be bound to a CPU is of no use to a worker that gets connections from all of them.
        let cpus = cpus.filter(|_| steered).map(Arc::new);
        Ok(Self { sets, cpus })
    }
}

/// What a listener's settings come to, with the files that they name.
fn gate(id: u32, listener: &Listener) -> Result<(Gate, Option<TlsAcceptor>), DoorError> {
    let tls = listener.tls.as_ref().map(|folder| {
        let config = tls::load_or_create(folder);
        let config = config.map_err(|error| DoorError::Tls {
            folder: folder.clone(),
            error,
        })?;
        let thumbprint = tls::thumbprint(folder).unwrap_or_default();
        tracing::info!(address = %listener.address, thumbprint, "certificate");
        Ok::<_, DoorError>(TlsAcceptor::from(config))
    });
    let arc = listener.arc.as_ref().map(|arc| {
        let keys = ArcKeys::open(&arc.folder, arc.group.as_deref(), arc.allow_agent);
        let keys = keys.map_err(|error| DoorError::Arc {
            folder: arc.folder.clone(),
            error,
        })?;
        Ok::<_, DoorError>(Arc::new(keys))
    });
    let gate = Gate {
        id,
        dialects: listener.dialects.clone(),
        dates_2017: listener.expires_on_2017 == ExpiresOn::Date,
        without_metadata: listener.without_metadata,
        arc: arc.transpose()?,
    };
    Ok((gate, tls.transpose()?))
}

impl Running {
    /// Starts a worker behind each set of sockets.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(doors: Doors, parts: &Parts) -> io::Result<Self> {
        let (draining, drain) = watch::channel(false);
        let Doors { sets, cpus } = doors;
        let workers = sets.len().max(1);
        let max = (parts.max_connections / workers).clamp(1, MAX_CONNECTIONS);
        let names = (0..workers).map(|number| format!("serve-{number}"));
        let pulses: Vec<_> = names.map(|name| Pulse::new(&name)).collect();
        let (hands, handed): (Vec<_>, Vec<_>) =
            sets.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let (loads, hands) = (Loads::new(workers, max), Arc::from(hands));
        let sets = sets.into_iter().zip(handed).zip(&pulses).enumerate();
        let threads = sets.map(|(number, ((doors, handed), pulse))| {
            let (parts, drain, pulse) = (parts.clone(), drain.clone(), pulse.clone());
            let (cpus, hands) = (cpus.clone(), Arc::clone(&hands));
            let (loads, metrics) = (loads.clone(), parts.metrics.clone());
            std::thread::Builder::new()
                .name(pulse.name().into())
                .spawn(move || {
                    if let Some(cpus) = cpus {
                        cpus.pin(number);
                    }
                    let room = Room::new(number, loads, metrics);
                    let others = (hands, handed);
                    let serving = run(doors, &parts, room, others, drain, &pulse);
                    match LocalRuntime::new() {
                        Ok(runtime) => runtime.block_on(serving),
                        Err(error) => tracing::error!(%error, "a worker cannot be started"),
                    }
                })
        });
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            loads,
            pulses,
            draining,
        })
    }

    /// Each beats once a second, while its worker serves.
    #[must_use]
    pub fn pulses(&self) -> &[Pulse] {
        &self.pulses
    }

    /// Connections that are open, of all workers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.loads.sum()
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

    /// Whether a worker has ended, which before a drain only panics bring about.
    #[must_use]
    pub fn has_lost_one(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

async fn run(
    doors: Vec<Door>,
    parts: &Parts,
    room: Room,
    (hands, handed): (Hands, UnboundedReceiver<Handed>),
    drain: watch::Receiver<bool>,
    pulse: &Pulse,
) {
    let worker = Rc::new(RefCell::new(Worker::new(
        Arc::clone(&parts.cache),
        Arc::clone(&parts.live),
        parts.refresh.clone(),
        parts.metrics.clone(),
    )));
    let room = Rc::new(room);
    let mut accepting = JoinSet::new();
    let desk = Rc::new(Desk::default());
    let mut strikes = 0;
    let keys: Vec<_> = doors
        .iter()
        .filter_map(|door| door.gate.arc.clone())
        .collect();
    let mut contexts = Vec::new();
    for Door { gate, tls, socket } in doors {
        let context = Rc::new(Context {
            worker: Rc::clone(&worker),
            gate,
            clock: parts.clock.clone(),
            room: Rc::clone(&room),
            desk: Rc::clone(&desk),
            tls,
        });
        contexts.push(Rc::clone(&context));
        accepting.spawn_local(accept(socket, context, Arc::clone(&hands), drain.clone()));
    }
    accepting.spawn_local(accept_handed(handed, contexts, drain.clone()));
    let mut tick = tokio::time::interval(TICK);
    let mut drain = drain;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                pulse.beat();
                worker.borrow_mut().tick();
                desk.tick();
                room.tick();
                strikes = strikes_after(strikes, room.has_panicked(), desk.has_answered());
                if strikes >= MAX_STRIKES {
                    tracing::error!("connections do nothing but panic, the worker ends");
                    return;
                }
                if !keys.is_empty() {
                    let (keys, now) = (keys.clone(), parts.clock.now());
                    let clear = move || keys.iter().for_each(|keys| keys.clear(now));
                    // A thread that cannot be had is had a second later.
                    drop(std::thread::Builder::new().name("arc-keys".into()).spawn(clear));
                }
            }
            _ = drain.wait_for(|on| *on) => break,
            // One that panicked: its callers would be refused, or wait for ever.
            Some(_) = accepting.join_next() => return,
        }
    }
    room.go_on(Stage::Draining);
    // Sockets close with their accept loops; what is left are connections.
    while accepting.join_next().await.is_some() {}
    room.go_on(Stage::LastCall);
    if tokio::time::timeout(LAST_CALL, empty(&room)).await.is_err() {
        room.go_on(Stage::Closing);
        empty(&room).await;
    }
    worker.borrow_mut().tick();
}

async fn empty(room: &Room) {
    while room.open() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A connection that panics takes nobody with it, but what it left behind may make all others of its
/// worker panic as well. `strikes` counts the seconds in which some did since one was answered.
fn strikes_after(strikes: u32, panicked: bool, answered: bool) -> u32 {
    match (panicked, answered) {
        (_, true) => 0,
        (true, false) => strikes + 1,
        (false, false) => strikes,
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::os::fd::OwnedFd;

    use super::super::fixtures::{any_port, driver, gate, listener, live};
    use super::super::settings::Address;
    use super::*;
    use crate::protocol::Dialect;
    use crate::refresh::Driver;
    use crate::telemetry::pulse::Pulses;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn start(cache: &Arc<Cache>) -> (Running, Driver, SocketAddr) {
        let (running, driver, addresses) = start_all(cache, &[Dialect::Imds], None);
        (running, driver, addresses[0])
    }

    /// With two workers, and a listener for each dialect.
    fn start_all(
        cache: &Arc<Cache>,
        dialects: &[Dialect],
        cpus: Option<Cpus>,
    ) -> (Running, Driver, Vec<SocketAddr>) {
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let driver = driver(cache, &metrics, &clock);
        let bind = |dialect: &Dialect| {
            let bound = Bound::bind(&listener(any_port(), *dialect), 2);
            bound.unwrap().unwrap()
        };
        let bound: Vec<_> = dialects.iter().map(bind).collect();
        let address = |bound: &Bound| match bound.address() {
            Address::Tcp(address) => address,
            Address::Unix(_) => panic!("a TCP listener"),
        };
        let addresses = bound.iter().map(address).collect();
        let parts = Parts {
            cache: Arc::clone(cache),
            live: live(),
            refresh: driver.handle(),
            metrics,
            clock,
            max_connections: 100,
        };
        let running = Running::start(Doors::open(bound, 2, cpus).unwrap(), &parts).unwrap();
        (running, driver, addresses)
    }

    /// Asks for a token, and reads what comes in answer once it is wanted.
    fn ask(address: SocketAddr, query: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let target = format!("/metadata/identity/oauth2/token?{query}");
        let head = "Host: 127.0.0.1\r\nMetadata: true\r\nConnection: close\r\n";
        write!(stream, "GET {target} HTTP/1.1\r\n{head}\r\n").unwrap();
        stream
    }

    fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Looks now and then, with time for each to turn in between, until a look finds what is wanted.
    fn until(pulses: &mut Pulses, wanted: impl Fn(&[&str]) -> bool) -> Vec<String> {
        for _ in 0..10 {
            std::thread::sleep(2 * TICK);
            let hanging = pulses.hanging();
            if wanted(&hanging) {
                return hanging.into_iter().map(Into::into).collect();
            }
        }
        panic!("looked in vain: {:?}", pulses.hanging());
    }

    #[test]
    fn a_worker_that_hangs_has_no_pulse_and_the_others_have() {
        let cache = Arc::new(Cache::new());
        let (running, driver, address) = start(&cache);
        let refusal = answer(ask(address, "api-version=2018-02-01&resource=r"));
        assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
        assert_eq!(cache.len(), 1);
        let mut pulses = Pulses::new(running.pulses().iter().cloned());
        until(&mut pulses, |hanging| hanging.is_empty());
        until(&mut pulses, |hanging| hanging.is_empty());

        // Whoever looks for the key now waits for its shard, and with it the whole thread. The
        // target is spelled so that no worker remembers it.
        let shard = cache.hold();
        let hanging = ask(address, "resource=r&api-version=2018-02-01");
        let name = until(&mut pulses, |hanging| hanging.len() == 1);
        std::thread::sleep(2 * TICK);
        assert_eq!(pulses.hanging(), name, "the other one turns");
        drop(shard);
        assert!(answer(hanging).starts_with("HTTP/1.1 503 "));
        until(&mut pulses, |hanging| hanging.is_empty());
        running.drain();
        driver.stop();
    }

    #[test]
    fn a_crowd_from_one_cpu_is_spread_and_each_is_still_asked_at_its_listener() {
        let dialects = [Dialect::Imds, Dialect::VmExtension];
        let cpus = Cpus::of(2);
        let spread_by_hand = cpus.is_some();
        let (running, driver, addresses) = start_all(&Arc::new(Cache::new()), &dialects, cpus);
        let crowd = std::thread::spawn(move || {
            if let Some(cpus) = Cpus::of(2) {
                cpus.pin(0);
            }
            let connect = |number: usize| {
                let address = addresses[number % 2];
                let stream = TcpStream::connect(address).unwrap();
                (number, stream)
            };
            (0..80).map(connect).collect::<Vec<_>>()
        });
        let mut crowd = crowd.join().unwrap();
        for (number, stream) in &mut crowd {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let path = ["/metadata/identity/oauth2/token", "/oauth2/token"][*number % 2];
            let query = "api-version=2018-02-01&resource=r";
            let head = "Host: 127.0.0.1\r\nMetadata: true\r\n";
            write!(stream, "GET {path}?{query} HTTP/1.1\r\n{head}\r\n").unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            // Neither has a token, and each knows its own path only.
            assert_eq!(&start, b"HTTP/1.1 503", "{number}");
        }
        let loads = &running.loads;
        assert_eq!(loads.sum(), 80);
        assert!(!spread_by_hand || (0..2).all(|worker| loads.of(worker) >= 20));
        driver.stop();
    }

    #[test]
    fn workers_are_bound_to_cpus_only_where_connections_are_steered() {
        let folder = tempfile::tempdir().unwrap();
        let unix = Address::Unix(folder.path().join("s.sock"));
        let any = any_port();
        let open = |addresses: &[&Address]| {
            let bind = |address: &&Address| {
                let bound = Bound::bind(&listener((*address).clone(), Dialect::Imds), 2);
                bound.unwrap().unwrap()
            };
            let bound = addresses.iter().map(bind).collect();
            Doors::open(bound, 2, Cpus::of(2)).unwrap().cpus.is_some()
        };
        assert!(!open(&[&unix]));
        std::fs::remove_file(folder.path().join("s.sock")).unwrap();
        assert_eq!(open(&[&unix, &any]), Cpus::of(2).is_some());
    }

    #[test]
    fn a_worker_that_lost_a_listener_ends() {
        let clock = Clock::system();
        let (cache, metrics) = (Arc::new(Cache::new()), Metrics::new());
        let driver = driver(&cache, &metrics, &clock);
        let parts = Parts {
            cache,
            live: live(),
            refresh: driver.handle(),
            metrics,
            clock,
            max_connections: 1,
        };
        // A file is no socket, which shows when it is waited for.
        let file = OwnedFd::from(File::open("Cargo.toml").unwrap());
        let door = Door {
            gate: gate(Vec::new()),
            tls: None,
            socket: Open::Tcp(file.into()),
        };
        let doors = Doors {
            sets: vec![vec![door]],
            cpus: None,
        };
        let running = Running::start(doors, &parts).unwrap();
        for _ in 0..1000 {
            if running.has_lost_one() {
                return driver.stop();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it serves nobody and goes on");
    }

    #[test]
    fn an_answer_strikes_out_every_panic_before_it() {
        let seconds = [(true, false), (false, false), (true, false)];
        let after = |strikes, &(panicked, answered): &(bool, bool)| {
            strikes_after(strikes, panicked, answered)
        };
        assert_eq!(seconds.iter().fold(0, after), 2);
        assert_eq!(strikes_after(9, true, true), 0);
        assert_eq!(strikes_after(9, false, true), 0);
    }
}
