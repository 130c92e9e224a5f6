//! A task panics: the panic stays in it, is counted, and its slot is free again.
//!
//! The built program has no place where a test could make it panic, so here the source of tokens is
//! the test's, and everything else is in this process. It panics at once, after it has waited, and
//! while others wait as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foretoken::app::App;
use foretoken::clock::Clock;
use foretoken::token::{AccessToken, Lifetime, Secret};
use foretoken::upstream::{Ask, FetchError, TokenSource};

use crate::support::http::{self, Answer};
use crate::support::metrics::{scrape, sum};
use crate::support::wait::until;
use crate::support::{settings, tcp};

const LIFETIME_S: u64 = 12;

/// Panics as its resource asks, for so many calls; then it gives tokens.
struct Panicking {
    clock: Clock,
    left: Arc<AtomicU64>,
}

impl TokenSource for Panicking {
    fn fetch(
        &self,
        ask: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        let (clock, left) = (self.clock.clone(), Arc::clone(&self.left));
        async move {
            let panics = left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok();
            assert!(
                !panics || ask.key.resource.as_str() != "at-once",
                "asked for"
            );
            // So that callers gather.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!panics, "asked for");
            let now = clock.now();
            Ok(AccessToken {
                secret: Secret::new(b"a.token.of-nobody".to_vec()),
                lifetime: Lifetime {
                    received_at: now,
                    expires_on_s: now.as_secs() + LIFETIME_S,
                    not_before_s: Some(now.as_secs()),
                    refresh_in_s: None,
                },
                client_id: None,
            })
        }
    }
}

fn refused(answer: &Answer) -> bool {
    let lost = answer.status == 503
        && answer.json()["error_description"]
            .to_string()
            .contains("lost");
    lost && answer.header("retry-after").is_some()
}

#[test]
fn a_call_that_panics_is_a_failure_like_any_other_and_leaves_no_slot_taken() {
    const CALLERS: usize = 8;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let settings = settings(nobody, folder.path(), "");
    let (clock, left) = (Clock::system(), Arc::new(AtomicU64::new(0)));
    let source = Panicking {
        clock: clock.clone(),
        left: Arc::clone(&left),
    };
    let app = App::start_with(&settings, source, clock).expect("Foretoken starts");
    let ask = |resource| http::token(tcp(&app), resource);
    let lost = || {
        sum(
            &scrape(app.admin_address()),
            "foretoken_upstream_calls_total",
            Some("lost"),
        )
    };

    // Cold keys: whoever waits is told, all of them by the one call, and the next one is served.
    for (number, resource) in (1..).zip(["at-once", "later"]) {
        left.store(1, Ordering::Relaxed);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| scope.spawn(|| ask(resource)))
                .collect();
            callers
                .into_iter()
                .map(|caller| caller.join().expect("an answer"))
                .collect()
        });
        let told = answers.iter().filter(|answer| refused(answer)).count();
        let served = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(told >= 1, "{answers:?}");
        assert_eq!(told + served, CALLERS, "{answers:?}");
        until("the key heals", || ask(resource).status == 200);
        assert_eq!(lost(), number);
    }

    // Warm ones: renewals panic again and again, and callers notice nothing until one succeeds.
    left.store(2, Ordering::Relaxed);
    until("renewals panic", || {
        assert_eq!(ask("at-once").status, 200);
        assert_eq!(ask("later").status, 200);
        left.load(Ordering::Relaxed) == 0
    });
    until("each is counted", || lost() == 4);
    assert!(!app.is_broken(), "no thread has ended");
    assert_eq!(ask("at-once").status, 200);
    app.stop();
}
