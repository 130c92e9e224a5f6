//! SIGTERM and SIGKILL at random under load, again and again.
//!
//! `FORETOKEN_FIRE_RESTARTS` sets how often, `FORETOKEN_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use foretoken::clock::Clock;
use rustix::process::Signal;

use super::{site, size};
use crate::support::http::{self, Answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::process::Served;
use crate::support::wait::until;

const RESTARTS: &str = "FORETOKEN_FIRE_RESTARTS";
const EVERY_RUN: u64 = 6;
const SEED: &str = "FORETOKEN_SEED";
const CALLERS: u64 = 4;
/// Resources whose tokens are on disk since long before the first signal.
const KEPT: u64 = 8;
/// Resources of one round, whose tokens may be on their way to the disk when the signal comes.
const NEW: u64 = 40;
/// The store gathers changes for a second before it writes them.
const WRITTEN: Duration = Duration::from_millis(2500);
/// A link on which the last answer is older than this may have been closed as idle while the next
/// request was written.
const IDLE_MS: u64 = 100;
const UPSTREAM: &str = "max_in_flight = 16\nmax_per_second = 1000\n";

/// What became of the requests of one round.
#[derive(Default)]
struct Tally {
    /// Whole, and for what was asked.
    whole: AtomicU64,
    /// Told to come again.
    told: AtomicU64,
    /// The link was closed before anything was sent on it.
    closed_before: AtomicU64,
    /// Not one byte of an answer, on a link that nobody had been served on yet.
    at_connect: AtomicU64,
    /// The same, on a link that had been idle for a while.
    idle: AtomicU64,
    /// The same, on a link in use.
    unanswered: AtomicU64,
    /// Some bytes of an answer.
    torn: AtomicU64,
}

impl Tally {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// The newest token that somebody was served of each resource.
type Ledger = Mutex<BTreeMap<String, String>>;

fn kept(number: u64) -> String {
    format!("https://kept-{number}.example")
}

fn new(round: u64, number: u64) -> String {
    format!("https://new-{round}-{number}.example")
}

fn calls(served: &Served) -> u64 {
    sum(
        &scrape(served.admin),
        "foretoken_upstream_calls_total",
        None,
    )
}

/// Sends one request; `None` if not one byte of an answer came.
fn exchange(stream: &mut TcpStream, resource: &str, tally: &Tally) -> Option<Answer> {
    stream.write_all(&http::token_request(resource)).ok()?;
    if !stream.peek(&mut [0]).is_ok_and(|count| count == 1) {
        return None;
    }
    let answer = http::read_answer(stream);
    if answer.is_err() {
        Tally::add(&tally.torn);
    }
    answer.ok()
}

/// Goes on as a client does, until nobody takes its connection any more.
fn call(address: SocketAddr, round: u64, mut rng: Rng, tally: &Tally, ledger: &Ledger) {
    let clock = Clock::system();
    while let Ok(mut stream) = http::connect(address) {
        let mut last = None;
        loop {
            stream.set_nonblocking(true).expect("our socket");
            let peeked = stream.peek(&mut [0]);
            stream.set_nonblocking(false).expect("our socket");
            if !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
                Tally::add(&tally.closed_before);
                break;
            }
            let resource = if rng.u8(..) < 240 {
                kept(rng.u64(..KEPT))
            } else {
                new(round, rng.u64(..NEW))
            };
            let torn = Tally::read(&tally.torn);
            let Some(answer) = exchange(&mut stream, &resource, tally) else {
                if Tally::read(&tally.torn) == torn {
                    Tally::add(match last {
                        None => &tally.at_connect,
                        Some(at) if clock.now().since(at) > IDLE_MS => &tally.idle,
                        Some(_) => &tally.unanswered,
                    });
                }
                break;
            };
            last = Some(clock.now());
            if answer.status == 503 {
                Tally::add(&tally.told);
            } else {
                assert_eq!(audience_of(&answer), resource);
                let token = token_of(&answer);
                ledger.lock().expect("no panic").insert(resource, token);
                Tally::add(&tally.whole);
            }
            if answer.header("connection") == Some("close") || rng.u8(..) < 16 {
                break;
            }
        }
    }
}

/// After a start: what was on disk is served without a call, and nothing else than what was asked.
/// Returns how many of the last round's own came back.
fn check(served: &Served, ledger: &mut BTreeMap<String, String>, clean: bool) -> usize {
    for number in 0..KEPT {
        let resource = kept(number);
        let token = token_of(&http::token(served.address, &resource));
        assert_eq!(token, ledger[&resource], "{resource}");
    }
    assert_eq!(calls(served), 0);
    let mut back = 0;
    for (resource, before) in &*ledger {
        let answer = http::token(served.address, resource);
        assert_eq!(&audience_of(&answer), resource);
        back += usize::from(token_of(&answer) == *before);
    }
    if clean {
        assert_eq!(back, ledger.len(), "a clean stop writes everything");
        assert_eq!(calls(served), 0);
    }
    back
}

#[test]
fn stops_and_kills_under_load_break_no_answer_and_lose_nothing_that_was_on_disk() {
    let (restarts, seed) = (size(RESTARTS, EVERY_RUN), size(SEED, fastrand::u64(..)));
    println!("{SEED}={seed}");
    let mut rng = Rng::with_seed(seed);
    let clock = Clock::system();
    let site = site(UPSTREAM);
    let ledger = Ledger::default();
    let mut served = site.serve();
    for resource in (0..KEPT).map(kept) {
        let token = token_of(&http::token(served.address, &resource));
        ledger.lock().expect("no panic").insert(resource, token);
    }
    thread::sleep(WRITTEN);

    let (mut at_connect, mut idle, mut whole, mut told) = (0, 0, 0, 0);
    let (mut stop_ms, mut start_ms) = (Vec::new(), Vec::new());
    let (mut stops, mut kills) = ((0, 0, 0), (0, 0, 0));
    for round in 0..restarts {
        // Both, however few rounds there are.
        let clean = if round < 2 { round == 0 } else { rng.bool() };
        let tally = Tally::default();
        let enough = rng.u64(200..1500);
        let moment = Duration::from_millis(rng.u64(..300));
        let mut signalled = clock.now();
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let rng = Rng::with_seed(seed ^ (round * CALLERS + caller + 1));
                let (tally, ledger, address) = (&tally, &ledger, served.address);
                scope.spawn(move || call(address, round, rng, tally, ledger));
            }
            until("requests flow", || Tally::read(&tally.whole) > enough);
            thread::sleep(moment);
            served.signal(if clean { Signal::TERM } else { Signal::KILL });
            signalled = clock.now();
        });
        let status = served.ended();
        if clean {
            stop_ms.push(clock.now().since(signalled));
            assert_eq!(status.code(), Some(0), "round {round}");
            assert_eq!(Tally::read(&tally.torn), 0, "round {round}");
            assert_eq!(Tally::read(&tally.unanswered), 0, "round {round}");
        }
        at_connect += Tally::read(&tally.at_connect);
        idle += Tally::read(&tally.idle) + Tally::read(&tally.closed_before);
        whole += Tally::read(&tally.whole);
        told += Tally::read(&tally.told);
        let log = served.log();
        assert!(
            !log.contains("panicked") && !log.contains("\"ERROR\""),
            "{log}"
        );

        let begun = clock.now();
        served = site.serve();
        start_ms.push(clock.now().since(begun));
        let mut all = ledger.lock().expect("no panic");
        all.retain(|name, _| {
            name.starts_with("https://kept-") || name.starts_with(&format!("https://new-{round}-"))
        });
        let back = check(&served, &mut all, clean);
        let sums = if clean { &mut stops } else { &mut kills };
        *sums = (sums.0 + 1, sums.1 + all.len(), sums.2 + back);
        all.retain(|name, _| name.starts_with("https://kept-"));
        let said = served.start.iter().filter(|line| line.contains("\"WARN\""));
        assert_eq!(said.count(), 0, "{:?}", served.start);
        let mismatches = sum(
            &scrape(served.admin),
            "foretoken_echo_mismatches_total",
            None,
        );
        assert_eq!(mismatches, 0);
    }
    let most = |times: &[u64]| times.iter().max().copied().unwrap_or_default();
    println!(
        "{} stops ({} of {} tokens back), {} kills ({} of {}): {whole} whole answers, {told} told to \
         come again, {at_connect} new links without an answer, {idle} closed while idle; at most \
         {} ms from SIGTERM to the end, {} ms from the start to readiness",
        stops.0,
        stops.2,
        stops.1,
        kills.0,
        kills.2,
        kills.1,
        most(&stop_ms),
        most(&start_ms)
    );
}
