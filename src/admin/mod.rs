//! What operators look at: health, metrics, keys; one file per endpoint.
//!
//! Owns the endpoints as functions from a path to an answer; sockets are `server`'s. Promises that
//! nothing here shows a token, that what comes in over TCP changes nothing, and that readiness
//! never depends on the upstream.

mod health;
mod purge;
mod refresh;
mod settings;
mod status;
mod store;
mod which;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use settings::Settings;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::refresh::Handle;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// Everything the endpoints need. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    metrics: Metrics,
    serving: Arc<AtomicBool>,
    parts: Arc<std::sync::OnceLock<Parts>>,
}

/// What exists once the process is warm.
pub struct Parts {
    /// The cache.
    pub cache: Arc<Cache>,
    /// The refresh thread.
    pub refresh: Handle,
    /// The store.
    pub store: Store,
    /// Time.
    pub clock: Clock,
}

/// By which way a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// TCP: anybody on this machine. Read-only.
    ReadOnly,
    /// The admin socket, from root or the service's own user.
    Operator,
}

/// An endpoint's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// The value of `Allow`, where it belongs to it.
    pub allow: Option<&'static str>,
    /// The body.
    pub body: String,
}

impl Admin {
    /// Endpoints of a process that is not warm yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        metrics.ready(false);
        Self {
            metrics,
            serving: Arc::default(),
            parts: Arc::default(),
        }
    }

    /// The store is loaded or given up: token sockets open, and the keys can be looked at.
    pub fn warm(&self, parts: Parts) {
        let _ = self.parts.set(parts);
        self.serving(true);
    }

    /// Whether tokens are served; `false` again when the process drains.
    pub fn serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
        self.metrics.ready(serving);
    }

    /// Answers one request.
    pub async fn answer(&self, method: &str, target: &str, access: Access) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match (method, path) {
            ("GET", "/livez") => health::live(),
            ("GET", "/readyz") => {
                let warm = self.serving.load(Ordering::Acquire);
                health::ready(warm, self.parts.get().map(|parts| &parts.store))
            }
            ("GET", "/metrics") => self.metrics(),
            ("GET", "/status") => status::answer(self.parts.get()).await,
            ("POST", "/purge") if access == Access::Operator => {
                purge::answer(self.parts.get(), query).await
            }
            ("POST", "/refresh") if access == Access::Operator => {
                refresh::answer(self.parts.get(), query).await
            }
            ("GET", "/store") if access == Access::Operator => {
                store::report(self.parts.get()).await
            }
            ("POST", "/store/purge") if access == Access::Operator => {
                store::purge(self.parts.get()).await
            }
            ("POST", "/store/rotate") if access == Access::Operator => {
                store::rotate(self.parts.get()).await
            }
            ("POST", "/purge" | "/refresh" | "/store/purge" | "/store/rotate")
            | ("GET", "/store") => Answer::text(403, "this needs the admin socket\n"),
            (_, "/livez" | "/readyz" | "/metrics" | "/status" | "/store") => Answer::method("GET"),
            (_, "/purge" | "/refresh" | "/store/purge" | "/store/rotate") => Answer::method("POST"),
            _ => Answer::text(404, "there is no such endpoint\n"),
        }
    }

    fn metrics(&self) -> Answer {
        if let Some(parts) = self.parts.get() {
            self.metrics
                .store_degraded(health::degraded(&parts.store).is_some());
        }
        Answer {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            allow: None,
            body: self.metrics.render(),
        }
    }
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            allow: None,
            body: body.into(),
        }
    }

    fn method(taken: &'static str) -> Self {
        Self {
            allow: Some(taken),
            ..Self::text(405, "the endpoint takes another method\n")
        }
    }

    fn json(status: u16, body: &serde_json::Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            allow: None,
            body: format!("{body:#}\n"),
        }
    }
}
