//! `/livez` and `/readyz`.

use super::Answer;
use crate::store::{Health, Store};

/// The process runs.
pub(super) fn live() -> Answer {
    Answer::text(200, "ok\n")
}

/// Tokens are served. A store that cannot keep them is said and does not make the process
/// unready: it serves from memory. The upstream is not looked at: without it, tokens in memory are
/// all the more worth serving.
pub(super) fn ready(warm: bool, store: Option<&Store>) -> Answer {
    if !warm {
        return Answer::text(503, "not serving\n");
    }
    match store.and_then(degraded) {
        Some(reason) => Answer::text(200, format!("degraded: store: {reason}\n")),
        None => Answer::text(200, "ok\n"),
    }
}

/// Why the store does not keep what it is given, if it does not.
pub(super) fn degraded(store: &Store) -> Option<String> {
    match store.health() {
        Health::Degraded(reason) => Some(reason),
        _ => None,
    }
}
