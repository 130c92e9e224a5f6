//! `POST /purge`: ends tokens in memory and on disk. `?all` or `?resource=R`.

use std::time::Duration;

use super::{Answer, Parts};
use crate::protocol::parse_query;

/// Workers let go at their 1 s tick; one that takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn answer(parts: Option<&Parts>, query: &str) -> Answer {
    let Some(parts) = parts else {
        return Answer::text(503, "not warm yet\n");
    };
    let resource = match parse_query(query.as_bytes()).as_deref() {
        Ok([(name, _)]) if name == b"all" => None,
        Ok([(name, value)]) if name == b"resource" => Some(value.clone()),
        _ => return Answer::text(400, "say ?all or ?resource=R\n"),
    };
    let picked = parts
        .refresh
        .purge(move |key| {
            resource
                .as_ref()
                .is_none_or(|r| key.resource.as_str().as_bytes() == r)
        })
        .await;
    let Ok((count, ticket)) = picked else {
        return Answer::text(500, "the refresh thread has stopped\n");
    };
    let over = tokio::time::timeout(DEADLINE, async {
        while !parts.cache.is_over(ticket) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    match over.await {
        Ok(()) => Answer::text(200, format!("purged {count} keys\n")),
        Err(_) => Answer::text(500, "purged, but a worker has not confirmed it\n"),
    }
}
