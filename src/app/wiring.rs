//! From settings to a running process.

use std::sync::Arc;
use std::time::Duration;

use super::allocator::{Trim, give_back};
use crate::admin::{self, Admin};
use crate::authz::{Clients, Policy};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::refresh::{self, Driver, Handle, Writer};
use crate::server::handler::Live;
use crate::server::{
    Address, AdminFront, BindError, Bound, Cpus, DoorError, Doors, Parts, Running,
};
use crate::store::machine::Machine;
use crate::store::{self, Health, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pulse::Pulses;
use crate::upstream::{self, TokenSource};

/// How long connections may take to finish what they are at.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the store may take for its last write.
const STORE_CLOSE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// A running Foretoken.
pub struct App {
    admin: Admin,
    admin_front: AdminFront,
    running: Running,
    driver: Driver,
    store: Store,
    metrics: Metrics,
    addresses: Vec<Address>,
    clock: Clock,
    trim: Trim,
}

/// Why it does not start. Each reads as one clear sentence.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A certificate or a folder of a listener cannot be used.
    #[error(transparent)]
    Door(DoorError),
    /// Another instance has the store.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// Nobody can be trusted over TLS.
    #[error(transparent)]
    Trust(#[from] upstream::TrustError),
    /// The upstream is one of our own addresses: every call would come back to us.
    #[error("the upstream {0} is one of Foretoken's own addresses")]
    OwnUpstream(std::net::SocketAddr),
    /// The system has no more threads or sockets.
    #[error("cannot start a thread or open a socket: {0}")]
    System(#[from] std::io::Error),
}

impl From<DoorError> for StartError {
    fn from(error: DoorError) -> Self {
        match error {
            DoorError::Bind(error) => Self::Bind(error),
            other => Self::Door(other),
        }
    }
}

impl App {
    /// Starts everything; tokens are served when this returns.
    ///
    /// # Errors
    /// An address is taken, the store is in use, or the system refuses threads or sockets. A
    /// broken store or a dead upstream is no error.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let clock = Clock::system();
        let source = Arc::clone(&settings.upstream.source);
        let source = upstream::Client::new(source, clock.clone())?;
        Self::start_with(settings, source, clock)
    }

    /// As [`start`](Self::start), with a source and a clock of the caller's.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with<S: TokenSource>(
        settings: &Settings,
        source: S,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let admin = Admin::new(metrics.clone());
        let mut admin_front = AdminFront::start(&settings.admin, admin.clone())?;
        let workers = settings.server.workers;
        let bound = bind(&settings.server.listeners, workers)?;
        let addresses: Vec<_> = bound.iter().map(Bound::address).collect();
        let upstream = &settings.upstream.source;
        if let Some(endpoint) = upstream.endpoint() {
            let address = endpoint.address;
            let near = config::is_of_this_machine(address.ip());
            let ours = |taken: &Address| match taken {
                Address::Tcp(taken) if taken.ip().is_unspecified() => {
                    near && taken.port() == address.port()
                }
                Address::Tcp(taken) => *taken == address,
                Address::Unix(_) => false,
            };
            if addresses.iter().any(ours) || admin_front.address() == address {
                return Err(StartError::OwnUpstream(address));
            }
        }

        let store::Opened {
            store, restored, ..
        } = Store::open(&settings.store, &Machine::read(), &clock)?;
        admin_front.check_socket()?;
        let cache = Arc::new(Cache::new().with_limits(settings.limits));
        let limits = refresh::Settings {
            max_in_flight: settings.upstream.max_in_flight,
            max_per_second: settings.upstream.max_per_second,
            outage_to_survive_ms: settings.refresh.outage_to_survive_ms,
            max_negatives: settings.refresh.max_negatives,
            time_scale: settings.refresh.time_scale,
            rules: refresh::Rules::default(),
            seed: fastrand::u64(..),
        };
        let good = |it: &&store::Restored| clock.now() < it.token.lifetime.expires_at();
        let restored_keys = restored.iter().filter(good).count();
        let name = upstream.name();
        let writer = Writer::new(
            limits,
            &name,
            Arc::clone(&cache),
            store.clone(),
            metrics.clone(),
        );
        let driver = Driver::start(writer, source, clock.clone(), restored)?;

        let live = Live {
            policy: Policy {
                clients: Clients::new(Arc::clone(&settings.clients)),
                remote_callers: settings.server.remote_callers,
            },
            upstream: name.as_str().into(),
        };
        let parts = Parts {
            cache: Arc::clone(&cache),
            live: Arc::new(live),
            refresh: driver.handle(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            max_connections: super::max_connections(settings.server.workers),
        };
        let cpus = settings.server.pin_workers.then(|| Cpus::of(workers));
        let doors = Doors::open(bound, workers, cpus.flatten())?;
        let running = Running::start(doors, &parts)?;
        let refresh = driver.handle();
        admin.warm(admin::Parts {
            cache,
            refresh,
            store: store.clone(),
            clock: clock.clone(),
        });
        for address in &addresses {
            tracing::info!(%address, workers, "serving tokens");
        }
        tracing::info!(
            upstream = upstream::Source::shown(&name),
            "asking for tokens"
        );
        tracing::info!(address = %admin_front.address(), restored_keys, "ready");
        Ok(Self {
            admin,
            admin_front,
            running,
            driver,
            store,
            metrics,
            addresses,
            clock,
            trim: Trim::default(),
        })
    }

    /// Where tokens are served; ports are the real ones.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the read-only admin endpoints are.
    #[must_use]
    pub fn admin_address(&self) -> std::net::SocketAddr {
        self.admin_front.address()
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The refresh thread.
    #[must_use]
    pub fn refresh(&self) -> Handle {
        self.driver.handle()
    }

    /// Seconds until the next planned upstream call; `None` if none is planned.
    pub async fn next_call_in_s(&self) -> Option<u64> {
        let status = self.driver.handle().status().await.ok()?;
        let next = status
            .keys
            .iter()
            .filter_map(|key| key.next_call_at)
            .min()?;
        Some(next.since(self.clock.now()) / 1000)
    }

    /// The pulses of the threads without which no token is served or renewed.
    #[must_use]
    pub fn pulses(&self) -> Pulses {
        let workers = self.running.pulses().iter().cloned();
        Pulses::new(workers.chain([self.driver.pulse()]))
    }

    /// Whether a thread has ended that must not.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.driver.is_stopped() || self.running.has_lost_one() || self.admin_front.is_over()
    }

    /// To be called once a second, by a thread that may take some milliseconds: gives memory back.
    pub fn tick(&mut self) {
        if self.trim.is_due(self.running.connections()) {
            give_back();
        }
    }

    /// Stops: no new connections, answers finish, callers who wait are told, the store is written.
    pub fn stop(self) {
        tracing::info!("stopping");
        self.admin.serving(false);
        self.running.drain();
        self.wait_for_connections();
        // Whoever still waits for a token is answered now, by the end of the flight.
        let Self {
            driver,
            running,
            store,
            ..
        } = self;
        driver.stop();
        poll(DRAIN, || running.is_over());
        // A store that is degraded has said so already.
        let healthy = store.health() == Health::Ok;
        if !store.close(STORE_CLOSE) && healthy {
            tracing::warn!("stopped with tokens that are not on disk");
        }
        tracing::info!("stopped");
    }

    fn wait_for_connections(&self) {
        poll(DRAIN, || self.running.is_over());
    }
}

fn poll(deadline: Duration, over: impl Fn() -> bool) {
    let mut left = deadline;
    while !over() && !left.is_zero() {
        std::thread::sleep(POLL);
        left = left.saturating_sub(POLL);
    }
}

fn bind(listeners: &[crate::server::Listener], workers: usize) -> Result<Vec<Bound>, BindError> {
    let mut bound = Vec::new();
    for listener in listeners {
        if let Some(one) = Bound::bind(listener, workers)? {
            bound.push(one);
        } else {
            tracing::info!(address = %listener.address, "no such address family here");
        }
    }
    Ok(bound)
}
