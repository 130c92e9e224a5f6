//! What every connection shares: the fixed choices, and the state behind locks.
//!
//! Each lock is held for a few lines and never across an await.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use crate::claims::Issuance;
use crate::issuer::Issuer;
use crate::journal::Journal;
use crate::key::SigningKey;
use crate::kind::arc::Challenges;
use crate::plan::Plan;
use crate::settings::{Settings, Tuning};
use crate::tally::Tally;
use crate::throttle::Throttle;
use crate::timeline::Timeline;
use crate::tls::Tls;
use crate::weather::Weather;
use crate::{Identities, Kind, Latency, PUBLISHED_TEST_KEY_PEM, Pressure, time};

pub(crate) struct World {
    /// Where the emulator listens.
    pub address: SocketAddr,
    pub kind: Kind,
    pub identities: Identities,
    pub issuance: Issuance,
    pub key: SigningKey,
    /// For the kinds that speak TLS.
    pub tls: Option<Tls>,
    tuning: Mutex<Tuning>,
    plan: Mutex<Plan>,
    /// Counts the changes of the plan, for those who wait for one.
    plan_changes: watch::Sender<u64>,
    tally: Mutex<Tally>,
    journal: Mutex<Journal>,
    throttle: Mutex<Throttle>,
    weather: Mutex<Weather>,
    issuer: Mutex<Issuer>,
    /// Only Arc has any.
    challenges: Option<Mutex<Challenges>>,
    timeline: Mutex<Timeline>,
    /// For the fault in which another certificate is presented; made when it is first needed.
    other_tls: OnceLock<Option<Tls>>,
}

impl World {
    pub(crate) fn new(settings: Settings, address: SocketAddr) -> io::Result<Self> {
        let tuning = Tuning::from(&settings);
        let key = SigningKey::from_pem(
            settings
                .key_pem
                .as_deref()
                .unwrap_or(PUBLISHED_TEST_KEY_PEM),
        )
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let tls = settings.kind.tls()?;
        let challenges = match &settings.kind {
            Kind::Arc(options) => Some(Mutex::new(Challenges::new(options)?)),
            _ => None,
        };
        let issuer = settings
            .issuer
            .unwrap_or_else(|| format!("https://sts.windows.net/{}/", settings.tenant_id));
        Ok(Self {
            address,
            kind: settings.kind,
            identities: settings.identities,
            issuance: Issuance {
                tenant_id: settings.tenant_id,
                issuer,
                canary: settings.canary,
            },
            key,
            tls,
            challenges,
            tuning: Mutex::new(tuning),
            plan: Mutex::new(Plan::new(settings.seed)),
            plan_changes: watch::Sender::default(),
            tally: Mutex::default(),
            journal: Mutex::default(),
            throttle: Mutex::default(),
            weather: Mutex::new(Weather::new(settings.seed)),
            timeline: Mutex::default(),
            other_tls: OnceLock::new(),
            issuer: Mutex::default(),
        })
    }

    /// Where it can be reached, without a slash at the end.
    pub(crate) fn base_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub(crate) fn challenges(&self) -> Option<MutexGuard<'_, Challenges>> {
        self.challenges.as_ref().map(lock)
    }

    pub(crate) fn tuning(&self) -> Tuning {
        *lock(&self.tuning)
    }

    /// Changes some of the tuning, and gives back the whole of it.
    pub(crate) fn tune(&self, change: impl FnOnce(&mut Tuning)) -> Tuning {
        let mut tuning = lock(&self.tuning);
        change(&mut tuning);
        *tuning = tuning.in_range();
        *tuning
    }

    pub(crate) fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }

    /// Changes which faults are in force, and wakes those who wait for that.
    pub(crate) fn change_plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        let result = change(&mut self.plan());
        self.plan_changes.send_modify(|changes| *changes += 1);
        result
    }

    pub(crate) fn plan_changes(&self) -> watch::Receiver<u64> {
        self.plan_changes.subscribe()
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    pub(crate) fn throttle(&self) -> MutexGuard<'_, Throttle> {
        lock(&self.throttle)
    }

    pub(crate) fn weather(&self) -> MutexGuard<'_, Weather> {
        lock(&self.weather)
    }

    pub(crate) fn set_latency(&self, latency: Option<Latency>) -> Result<(), &'static str> {
        if let Some(mistake) = latency.as_ref().and_then(Latency::mistake) {
            return Err(mistake);
        }
        self.weather().set_latency(latency);
        Ok(())
    }

    pub(crate) fn set_pressure(&self, pressure: Option<Pressure>) -> Result<(), &'static str> {
        if let Some(mistake) = pressure.as_ref().and_then(Pressure::mistake) {
            return Err(mistake);
        }
        self.weather().set_pressure(pressure, time::steady());
        Ok(())
    }

    pub(crate) fn timeline(&self) -> MutexGuard<'_, Timeline> {
        lock(&self.timeline)
    }

    /// A certificate that no caller was told of.
    pub(crate) fn other_tls(&self) -> Option<&Tls> {
        let made = self
            .other_tls
            .get_or_init(|| self.kind.tls().ok().flatten());
        made.as_ref()
    }

    pub(crate) fn issuer(&self) -> MutexGuard<'_, Issuer> {
        lock(&self.issuer)
    }
}

/// A panic under one of these locks leaves numbers that are at worst out by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token call being answered; it counts as such until dropped.
pub(crate) struct InProgress {
    pub world: Arc<World>,
    /// Whether it takes up one of the places at once.
    pub admitted: bool,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.world.tally().finished(time::unix_ms());
        if self.admitted {
            self.world.throttle().finished();
        }
    }
}
