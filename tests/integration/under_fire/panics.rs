//! Panics: of an upstream call, of a connection, of a whole thread. The first two stay where they are,
//! are counted, and leave no slot taken; the last ends the process, and the next one serves from the
//! store.
//!
//! The built program has no place where a test could make it panic. So the source of tokens and the
//! clock are the test's, and everything else is in this process, or, where that has to end, in a
//! process that is this test's own binary.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use foretoken::app::{App, Ended, Signals};
use foretoken::clock::Clock;
use foretoken::telemetry::log;
use foretoken::token::{AccessToken, Lifetime, Secret};
use foretoken::upstream::{Ask, FetchError, TokenSource};
use rustix::process::Signal;

use super::{drain, site};
use crate::support::http::{self, Answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::process::Served;
use crate::support::wait::until;
use crate::support::{settings, tcp};

const LIFETIME_S: u64 = 12;
const TOKEN: &str = "a.token.of-nobody";

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
            Ok(token(&clock, LIFETIME_S))
        }
    }
}

fn token(clock: &Clock, lifetime_s: u64) -> AccessToken {
    let now = clock.now();
    AccessToken {
        secret: Secret::new(TOKEN.into()),
        lifetime: Lifetime {
            received_at: now,
            expires_on_s: now.as_secs() + lifetime_s,
            not_before_s: Some(now.as_secs()),
            refresh_in_s: None,
        },
        client_id: None,
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

/// Whether this is a thread that serves connections.
fn serves() -> bool {
    thread::current()
        .name()
        .is_some_and(|name| name.starts_with("serve-"))
}

/// A connection looks at the clock when a request has come, when it is answered, when it has waited
/// and when the answer has left. It panics at each of them in turn.
#[test]
fn a_connection_that_panics_at_any_moment_takes_nobody_with_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let settings = settings(nobody, folder.path(), "[server]\nworkers = 1\n");
    let (clock, crank) = Clock::cranked(Clock::system().now());
    // Readings until the one that panics; 0 is never.
    let fuse = Arc::new(AtomicU64::new(0));
    let burning = Arc::clone(&fuse);
    crank.watch(move || {
        let burnt = |left: u64| left.checked_sub(1);
        let left = || burning.fetch_update(Ordering::SeqCst, Ordering::SeqCst, burnt);
        assert!(!serves() || left() != Ok(1), "asked for: {TOKEN}");
    });
    let source = Panicking {
        clock: clock.clone(),
        left: Arc::default(),
    };
    let app = App::start_with(&settings, source, clock).expect("Foretoken starts");
    let panics = || sum(&scrape(app.admin_address()), "foretoken_panics_total", None);
    let mut kept = http::connect(tcp(&app)).expect("a link");
    let served = |link: &mut TcpStream, resource: &str| {
        let sent = link.write_all(&http::token_request(resource));
        sent.expect("an open link");
        assert_eq!(http::read_answer(link).expect("an answer").status, 200);
    };
    // By a link of its own, to its end: the worker is then through with everybody before it, and looks
    // at the clock for nobody else.
    let answers_of = |resource: &str| {
        let mut link = http::connect(tcp(&app)).expect("a link");
        link.write_all(&http::token_request(resource))
            .expect("an open link");
        link.shutdown(std::net::Shutdown::Write).expect("our link");
        drain(&mut link)
    };
    served(&mut kept, "kept");
    answers_of("kept");

    let (mut counted, mut unanswered) = (0, 0);
    for nth in 1.. {
        let resource = format!("cold-{nth}");
        fuse.store(nth, Ordering::SeqCst);
        let answers = answers_of(&resource);
        let panicked = fuse.swap(0, Ordering::SeqCst) == 0;
        counted += u64::from(panicked);
        unanswered += u64::from(answers.is_empty());
        // One worker serves all of these: what the panic left of it does.
        served(&mut kept, "kept");
        assert!(answers_of(&resource).starts_with(b"HTTP/1.1 200 "));
        until("it is counted", || panics() == counted);
        if !panicked {
            assert!(answers.starts_with(b"HTTP/1.1 200 "));
            break;
        }
    }
    assert!(counted >= 5 && unanswered >= 4, "{counted}, {unanswered}");
    assert!(!app.is_broken(), "no thread has ended");
    app.stop();
}

/// What a process of this binary does when it is told to be a Foretoken whose parts panic once
/// [`ARM`] was asked for.
const PANICS: &str = "FORETOKEN_TEST_PANICS";
const ARM: &str = "https://arm.example";
const KEPT: &str = "https://kept.example";

/// Panics on the thread that asks it, with a token in the message; else gives tokens.
struct Armed {
    clock: Clock,
    now: Arc<AtomicBool>,
    on_refresh: bool,
}

impl TokenSource for Armed {
    fn fetch(
        &self,
        ask: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        let arm = ask.key.resource.as_str() == ARM;
        assert!(!arm || !self.on_refresh, "asked for: {TOKEN}");
        self.now.fetch_or(arm, Ordering::SeqCst);
        std::future::ready(Ok(token(&self.clock, 3600)))
    }
}

#[test]
fn a_process_of_its_own_for_the_tests_below() {
    let Ok(what) = std::env::var(PANICS) else {
        return;
    };
    let folder = std::env::var("STATE_DIRECTORY").expect("a folder");
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let mut more = "[server]\nworkers = 1\n[log]\nformat = \"json\"\n".to_owned();
    if what == "worker" {
        // Looks at the clock once a second, outside all connections.
        let arc = "dialects = [\"arc\"]\narc_allow_agent = true\n";
        more += &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{arc}arc_folder = \"{folder}/arc\"\n"
        );
    }
    let settings = settings(nobody, folder.as_ref(), &more);
    log::start(settings.log);
    log::tell_panics();
    let (clock, crank) = Clock::cranked(Clock::system().now());
    let armed = Arc::new(AtomicBool::new(false));
    let source = Armed {
        clock: clock.clone(),
        now: Arc::clone(&armed),
        on_refresh: what == "refresh",
    };
    crank.watch(move || {
        let panics = serves() && armed.load(Ordering::SeqCst);
        assert!(!panics, "asked for: {TOKEN}");
    });
    let signals = Signals::listen().expect("signals");
    let app = App::start_with(&settings, source, clock).expect("Foretoken starts");
    let ended = signals.run(app, async |_| {});
    std::process::exit(i32::from(ended == Ended::Broken));
}

fn start(folder: &std::path::Path, what: &str) -> Served {
    let this = std::env::current_exe().expect("this binary");
    let mut command = Command::new(this);
    command
        .args(["--exact", "--nocapture"])
        .arg("under_fire::panics::a_process_of_its_own_for_the_tests_below")
        .env(PANICS, what)
        .env("STATE_DIRECTORY", folder)
        .stdin(Stdio::null());
    Served::start_whole(command)
}

/// Once it was provoked it ends for its supervisor and says so without a token, and the one that starts
/// after it serves what it had.
fn ends_and_comes_back(what: &str, provoke: impl FnOnce(&mut Served)) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut served = start(folder.path(), what);
    assert_eq!(token_of(&http::token(served.address, KEPT)), TOKEN);
    provoke(&mut served);
    assert_eq!(served.ended().code(), Some(1));
    let log = served.log();
    assert!(!log.contains(TOKEN), "{log}");
    let told = log.lines().filter(|line| line.contains("\"panicked\""));
    assert!(told.count() >= 1, "{log}");
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert!(log.lines().all(json), "{log}");

    let served = start(folder.path(), what);
    assert_eq!(token_of(&http::token(served.address, KEPT)), TOKEN);
    let calls = sum(
        &scrape(served.admin),
        "foretoken_upstream_calls_total",
        None,
    );
    assert_eq!(calls, 0);
    log
}

#[test]
fn when_the_refresh_thread_panics_callers_are_told_and_the_next_process_serves_from_the_store() {
    ends_and_comes_back("refresh", |served| {
        let told = http::token(served.address, ARM);
        assert_eq!(told.status, 503);
        assert!(told.header("retry-after").is_some());
    });
}

#[test]
fn when_a_worker_panics_the_next_process_serves_from_the_store() {
    ends_and_comes_back("worker", |served| {
        let _ = http::send(served.address, &http::token_request(ARM));
    });
}

#[test]
fn when_connections_do_nothing_but_panic_the_next_process_serves_from_the_store() {
    let log = ends_and_comes_back("connections", |served| {
        let ask = |resource| http::send(served.address, &http::token_request(resource));
        let _ = ask(ARM);
        let panics = || sum(&scrape(served.admin), "foretoken_panics_total", None);
        assert!(ask(KEPT).is_err() && panics() >= 1);
        until("the process ends", || {
            assert!(ask(KEPT).is_err());
            thread::sleep(Duration::from_millis(100));
            served.child.try_wait().expect("our child").is_some()
        });
    });
    assert!(log.contains("connections do nothing but panic"), "{log}");
}

/// A line that cannot be written is lost, and the thread that wrote it is not.
#[test]
fn when_nobody_reads_the_log_any_more_it_goes_on() {
    let site = site("");
    let mut served = site.serve();
    // Whoever reads it leaves at the next line.
    served.lines = std::sync::mpsc::channel().1;
    for _ in 0..20 {
        served.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(audience_of(&http::token(served.address, "r")), "r");
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
}
