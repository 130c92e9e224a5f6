//! What the tests of this room begin with.

use std::future::ready;
use std::sync::Arc;

use super::handler::{Gate, Live};
use super::settings::{Address, ExpiresOn, Listener};
use crate::authz::Policy;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::protocol::Dialect;
use crate::refresh::{Driver, Settings, Writer};
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::token::AccessToken;
use crate::upstream::{Ask, Class, FetchError, TokenSource};

/// A source that has no token for anybody.
struct Failing;

impl TokenSource for Failing {
    fn fetch(
        &self,
        _: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        ready(Err(FetchError::of(Class::Denied)))
    }
}

/// A refresh thread whose upstream refuses everything.
pub(super) fn driver(cache: &Arc<Cache>, metrics: &Metrics, clock: &Clock) -> Driver {
    let limits = Settings {
        max_in_flight: 4,
        max_per_second: 100,
        ..Settings::default()
    };
    let cache = Arc::clone(cache);
    let writer = Writer::new(limits, "imds", cache, Store::off(), metrics.clone());
    Driver::start(writer, Failing, clock.clone(), vec![]).expect("a thread")
}

pub(super) fn live() -> Arc<Live> {
    Arc::new(Live {
        policy: Policy::default(),
        upstream: "imds".into(),
    })
}

pub(super) fn gate(dialects: Vec<Dialect>) -> Gate {
    Gate {
        id: 0,
        dialects,
        dates_2017: false,
        without_metadata: false,
        arc: None,
    }
}

pub(super) fn listener(address: Address, dialect: Dialect) -> Listener {
    Listener {
        address,
        dialects: vec![dialect],
        expires_on_2017: ExpiresOn::Epoch,
        without_metadata: false,
        tls: None,
        arc: None,
        optional: false,
    }
}

/// Some free port.
pub(super) fn any_port() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}
