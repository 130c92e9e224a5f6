//! What every connection shares: the fixed choices, and the state behind locks.
//!
//! Each lock is held for a few lines and never across an await.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::claims::Issuance;
use crate::faults::Faults;
use crate::issuer::Issuer;
use crate::journal::Journal;
use crate::key::SigningKey;
use crate::kind::arc::Challenges;
use crate::settings::{Settings, Tuning};
use crate::tally::Tally;
use crate::throttle::Throttle;
use crate::tls::Tls;
use crate::{Identities, Kind, PUBLISHED_TEST_KEY_PEM};

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
    faults: Mutex<Faults>,
    tally: Mutex<Tally>,
    journal: Mutex<Journal>,
    throttle: Mutex<Throttle>,
    issuer: Mutex<Issuer>,
    /// Only Arc has any.
    challenges: Option<Mutex<Challenges>>,
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
            faults: Mutex::default(),
            tally: Mutex::default(),
            journal: Mutex::default(),
            throttle: Mutex::default(),
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

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
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
        self.world.tally().finished();
        if self.admitted {
            self.world.throttle().finished();
        }
    }
}
