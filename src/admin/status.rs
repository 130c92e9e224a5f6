//! `/status`: every key, as JSON. `foretoken status` prints it as a table.

use serde_json::json;

use super::{Answer, Parts, health};
use crate::clock::UnixMs;
use crate::refresh::{KeyStatus, LastResult};
use crate::token::TokenKey;
use crate::upstream::Source;

pub(super) async fn answer(parts: Option<&Parts>) -> Answer {
    let Some(parts) = parts else {
        return Answer::text(503, "not warm yet\n");
    };
    let Ok(status) = parts.refresh.status().await else {
        return Answer::text(500, "the refresh thread has stopped\n");
    };
    let now = parts.clock.now();
    let keys: Vec<_> = status.keys.iter().map(|key| render(key, now)).collect();
    let store = health::degraded(&parts.store).unwrap_or_else(|| "ok".into());
    Answer::json(
        200,
        &json!({
            "now_s": now.as_secs(),
            "store": store,
            "store_key": parts.store.key_facts(),
            "breaker": status.breaker,
            "failure": status.failure.map(|(at, class)| json!({
                "class": class,
                "ago_s": now.since(at) / 1000,
            })),
            "outage_to_survive_s": status.outage_to_survive_ms / 1000,
            "keys": keys,
        }),
    )
}

fn render(status: &KeyStatus, now: UnixMs) -> serde_json::Value {
    let until = |at: Option<UnixMs>| at.map(|at| at.since(now) / 1000);
    let mut told = named(&status.key);
    told["expires_in_s"] = json!(until(status.expires_at));
    told["next_call_in_s"] = json!(until(status.next_call_at));
    told["runway_s"] = json!(until(status.serve_until).unwrap_or(0));
    told["last"] = json!(status.last.map(LastResult::as_str));
    told["hits"] = json!(status.hits);
    told
}

/// A key's own words.
pub(super) fn named(key: &TokenKey) -> serde_json::Value {
    json!({
        "upstream": Source::shown(&key.upstream),
        "identity": key.identity.to_string(),
        "resource": key.resource.as_str(),
        "capabilities": key.capabilities,
        "extra_parameters": key.extras,
    })
}
