//! `POST /purge`: ends tokens in memory and on disk.

use std::time::Duration;

use super::which::Keys;
use super::{Answer, Parts};

/// Workers let go at their 1 s tick, and the disk follows at once; what takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn answer(parts: Option<&Parts>, query: &str) -> Answer {
    let Some(parts) = parts else {
        return Answer::text(503, "not warm yet\n");
    };
    let keys = match Keys::of(query) {
        Ok(keys) => keys,
        Err(wrong) => return wrong,
    };
    let picked = matches!(keys, Keys::Picked(_));
    let Ok((count, ticket)) = parts.refresh.purge(keys.which()).await else {
        return Answer::text(500, "the refresh thread has stopped\n");
    };
    tracing::info!(count, "purged by an operator");
    let over = tokio::time::timeout(DEADLINE, async {
        while !parts.cache.is_over(ticket) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    if over.await.is_err() {
        return Answer::text(500, "purged, but a worker has not confirmed it\n");
    }
    let store = parts.store.clone();
    let settled = tokio::task::spawn_blocking(move || store.settle(DEADLINE)).await;
    let settled = settled.unwrap_or(false);
    if settled && picked && count == 0 {
        Answer::text(404, "no key matches; nothing was purged\n")
    } else if settled {
        Answer::text(200, format!("purged {count} keys\n"))
    } else {
        Answer::text(500, "purged from memory; the disk has not confirmed it\n")
    }
}
