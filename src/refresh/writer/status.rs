//! What operators see of the keys.

use super::Writer;
use crate::clock::UnixMs;
use crate::refresh::worker::LastResult;
use crate::token::TokenKey;

/// A key as operators see it.
#[derive(Debug, Clone)]
pub struct KeyStatus {
    /// The key.
    pub key: TokenKey,
    /// When its token ends.
    pub expires_at: Option<UnixMs>,
    /// Until when it would be served if the upstream died now.
    pub serve_until: Option<UnixMs>,
    /// When the next call is planned; `None` while one is under way or the key is idle.
    pub next_call_at: Option<UnixMs>,
    /// How the last call ended.
    pub last: Option<LastResult>,
    /// Hits as of the last second.
    pub hits: u64,
}

/// What operators see.
#[derive(Debug, Clone)]
pub struct Status {
    /// Every key, in the order of their keys.
    pub keys: Vec<KeyStatus>,
    /// The breaker's state.
    pub breaker: &'static str,
    /// Every key in use is to have so much left; 0 for no wish.
    pub outage_to_survive_ms: u64,
    /// When the last call ended and how it failed; `None` if it did not.
    pub failure: Option<(UnixMs, &'static str)>,
}

impl Writer {
    /// What operators see.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            keys: self.key_statuses(),
            breaker: self.worker.breaker(),
            outage_to_survive_ms: self.outage_to_survive_ms,
            failure: self.failure,
        }
    }

    fn key_statuses(&self) -> Vec<KeyStatus> {
        let mut all: Vec<_> = self
            .keys
            .iter()
            .map(|(id, held)| {
                let entry = held.slot.entry();
                let plan = self.worker.plan(*id);
                KeyStatus {
                    key: held.slot.key().clone(),
                    expires_at: entry.as_ref().map(|e| e.token.lifetime.expires_at()),
                    serve_until: entry.as_ref().map(|e| e.serve_until),
                    next_call_at: plan.and_then(|(at, _)| at),
                    last: plan.map(|(_, last)| last),
                    hits: held.slot.hits(),
                }
            })
            .collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }
}
