//! `/status`: every key, as JSON. `foretoken status` prints it as a table.

use serde_json::json;

use super::{Answer, Parts, health};
use crate::clock::UnixMs;
use crate::refresh::{KeyStatus, LastResult};
use crate::upstream::Source;

pub(super) async fn answer(parts: Option<&Parts>) -> Answer {
    let Some(parts) = parts else {
        return Answer::text(503, "not warm yet\n");
    };
    let Ok(keys) = parts.refresh.status().await else {
        return Answer::text(500, "the refresh thread has stopped\n");
    };
    let now = parts.clock.now();
    let keys: Vec<_> = keys.iter().map(|key| render(key, now)).collect();
    let store = health::degraded(&parts.store).unwrap_or_else(|| "ok".into());
    Answer::json(
        200,
        &json!({ "now_s": now.as_secs(), "store": store, "keys": keys }),
    )
}

fn render(status: &KeyStatus, now: UnixMs) -> serde_json::Value {
    let until = |at: Option<UnixMs>| at.map(|at| at.since(now) / 1000);
    json!({
        "upstream": Source::shown(&status.key.upstream),
        "identity": status.key.identity.to_string(),
        "resource": status.key.resource.as_str(),
        "capabilities": status.key.capabilities,
        "extra_parameters": status.key.extras,
        "expires_in_s": until(status.expires_at),
        "next_call_in_s": until(status.next_call_at),
        "runway_s": until(status.serve_until).unwrap_or(0),
        "last": status.last.map(|last| match last {
            LastResult::None => "none yet",
            LastResult::Restored => "restored",
            LastResult::Renewed => "renewed",
            LastResult::Unchanged => "unchanged",
            LastResult::Failed(class) => class.as_str(),
        }),
        "hits": status.hits,
    })
}
