//! `POST /refresh`: calls for keys now, and says of each how that ended.

use std::time::Duration;

use serde_json::json;

use super::status::named;
use super::which::Keys;
use super::{Answer, Parts};
use crate::refresh::{LastResult, Outcome, Renewal};

/// Below what a connection to the admin socket may take. The calls go on after it.
const PATIENCE: Duration = Duration::from_secs(25);

pub(super) async fn answer(parts: Option<&Parts>, query: &str) -> Answer {
    let Some(parts) = parts else {
        return Answer::text(503, "not warm yet\n");
    };
    let keys = match Keys::of(query) {
        Ok(keys) => keys,
        Err(wrong) => return wrong,
    };
    let picked = matches!(keys, Keys::Picked(_));
    let Ok(renewals) = parts.refresh.renew(keys.which(), PATIENCE).await else {
        return Answer::text(500, "the refresh thread has stopped\n");
    };
    tracing::info!(count = renewals.len(), "refreshed by an operator");
    if renewals.is_empty() && picked {
        return Answer::text(404, "no key matches; nothing was refreshed\n");
    }
    let keys: Vec<_> = renewals.iter().map(render).collect();
    Answer::json(200, &json!({ "keys": keys }))
}

fn render(renewal: &Renewal) -> serde_json::Value {
    let mut told = named(&renewal.key);
    told["result"] = match renewal.outcome {
        Outcome::Waiting => "waiting",
        Outcome::NotHeld => "not held",
        Outcome::Ended(last) => last.as_str(),
    }
    .into();
    told["done"] = matches!(
        renewal.outcome,
        Outcome::Ended(LastResult::Renewed | LastResult::Unchanged)
    )
    .into();
    told
}
