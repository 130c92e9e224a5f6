//! `POST /purge`: ends tokens in memory and on disk. `?all` or `?resource=R`.

use std::time::Duration;

use super::{Answer, Parts};
use crate::protocol::parse_query;
use crate::refresh::Which;

/// Workers let go at their 1 s tick, and the disk follows at once; what takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn answer(parts: Option<&Parts>, query: &str) -> Answer {
    let Some(parts) = parts else {
        return Answer::text(503, "not warm yet\n");
    };
    let which: Option<Which> = match parse_query(query.as_bytes()).as_deref() {
        Ok([it]) if it.name == b"all" => None,
        Ok([it]) if it.name == b"resource" => {
            let wanted = it.value.clone();
            Some(Box::new(move |key| {
                key.resource.as_str().as_bytes() == wanted
            }))
        }
        _ => return Answer::text(400, "say ?all or ?resource=R\n"),
    };
    let Ok((count, ticket)) = parts.refresh.purge(which).await else {
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
    if settled.unwrap_or(false) {
        Answer::text(200, format!("purged {count} keys\n"))
    } else {
        Answer::text(500, "purged from memory; the disk has not confirmed it\n")
    }
}
