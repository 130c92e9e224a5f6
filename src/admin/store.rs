//! `/store`: what is stored, in numbers; `/store/purge` and `/store/rotate` change it.

use std::time::Duration;

use super::{Answer, Parts};
use crate::store::report::Report;
use crate::store::{Store, Unanswered};

/// A healthy disk takes milliseconds for any of them.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn report(parts: Option<&Parts>) -> Answer {
    with(parts, |store| store.report(DEADLINE)).await
}

pub(super) async fn rotate(parts: Option<&Parts>) -> Answer {
    let answer = with(parts, |store| store.rotate(DEADLINE)).await;
    if answer.status == 200 {
        tracing::info!("the store's key was rotated by an operator");
    }
    answer
}

pub(super) async fn purge(parts: Option<&Parts>) -> Answer {
    let answer = with(parts, |store| {
        store.remove_all();
        // Told only if everything before it is on disk.
        store.report(DEADLINE)
    })
    .await;
    if answer.status == 200 {
        tracing::info!("stored tokens were erased by an operator");
    }
    answer
}

/// On a thread that may wait for the disk.
async fn with(
    parts: Option<&Parts>,
    question: impl FnOnce(&Store) -> Result<Report, Unanswered> + Send + 'static,
) -> Answer {
    let Some(parts) = parts else {
        return Answer::text(503, "not warm yet\n");
    };
    let store = parts.store.clone();
    let answer = tokio::task::spawn_blocking(move || question(&store)).await;
    match answer {
        Ok(Ok(report)) => Answer::json(200, &report.json()),
        Ok(Err(error @ Unanswered::Degraded(_))) => Answer::text(503, format!("{error}\n")),
        Ok(Err(error)) => Answer::text(409, format!("{error}\n")),
        Err(_) => Answer::text(500, "the question was lost\n"),
    }
}
