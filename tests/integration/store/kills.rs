//! SIGKILL at any moment, and a ledger outside of what callers were served.
//!
//! `FORETOKEN_STORE_KILLS` sets how often, `FORETOKEN_STORE_CHAINS` how many processes there are at a
//! time, each with its own store; `FORETOKEN_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use foretoken::clock::{Clock, UnixMs};
use foretoken_emulator::Settings;
use rustix::process::Signal;

use super::site::{Site, in_chains, outcomes, resources, right, site_with};
use crate::support::emulator_settings;
use crate::support::http;
use crate::support::jwt::{claims_of, token_of};
use crate::support::process::Served;
use crate::under_fire::size;

const ROUNDS: &str = "FORETOKEN_STORE_KILLS";
const EVERY_RUN: u64 = 10;
const SEED: &str = "FORETOKEN_SEED";
const CHAINS: &str = "FORETOKEN_STORE_CHAINS";
const CHAINS_EVERY_RUN: u64 = 5;
const CALLERS: u64 = 3;
/// Tokens of every round, and of one round alone.
const KEYS: usize = 60;
const NEW: usize = 20;
/// Half of it is over when a token is renewed.
const LIFETIME_S: u64 = 24;
/// Nobody is served in the last 2 % of a life.
const MARGIN_MS: u64 = 1_000;
/// Changes are gathered for 1 s and then flushed; the rest is for a machine that does other work.
const WINDOW_MS: u64 = 2_500;

/// A token that somebody was served.
struct Entry {
    token: String,
    first: UnixMs,
}

/// What was served of one resource, oldest first.
#[derive(Default)]
struct Line {
    entries: Vec<Entry>,
    /// Entries before this one were purged, and the purge was acknowledged.
    purged: usize,
    /// A purge was under way when the process was killed: tokens may be there or not.
    unsure: bool,
}

type Ledger = Mutex<BTreeMap<String, Line>>;

impl Line {
    fn served(&mut self, token: String, now: UnixMs) {
        match self.entries.iter().position(|entry| entry.token == token) {
            Some(at) => assert!(at >= self.purged, "a purged token came back"),
            None => self.entries.push(Entry { token, first: now }),
        }
    }

    /// The newest that was served at least `window_ms` before `moment`, where one is to be kept.
    fn kept(&self, moment: UnixMs, window_ms: u64) -> Option<usize> {
        let old = |entry: &Entry| entry.first.plus(window_ms) <= moment;
        let newest = self.entries.iter().rposition(old)?;
        (newest >= self.purged && !self.unsure).then_some(newest)
    }
}

#[derive(Default)]
struct Sums {
    kills: AtomicU64,
    at_start: AtomicU64,
    answers: AtomicU64,
    purges: AtomicU64,
    /// Tokens that had to be there: the very one, or a later one.
    same: AtomicU64,
    later: AtomicU64,
    /// Tokens that were served within the window, and those of them that came back.
    young: AtomicU64,
    young_back: AtomicU64,
    records: AtomicU64,
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

fn call(address: SocketAddr, keys: &[String], mut rng: Rng, ledger: &Ledger, sums: &Sums) {
    let clock = Clock::system();
    let Ok(mut stream) = http::connect(address) else {
        return;
    };
    loop {
        let resource = &keys[rng.usize(..keys.len())];
        if stream.write_all(&http::token_request(resource)).is_err() {
            return;
        }
        let Ok(answer) = http::read_answer(&mut stream) else {
            return;
        };
        let token = right(&answer, resource);
        let mut ledger = ledger.lock().expect("no panic");
        let line = ledger.entry(resource.clone()).or_default();
        // Who is answered while a purge is under way may still get the token before it.
        if !line.unsure {
            line.served(token, clock.now());
        }
        drop(ledger);
        add(&sums.answers, 1);
        thread::sleep(Duration::from_millis(rng.u64(..6)));
    }
}

/// Purges now and then until the process is gone.
fn purge(
    site: &Site,
    keys: &[String],
    mut rng: Rng,
    ledger: &Ledger,
    over: &AtomicBool,
    sums: &Sums,
) {
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(rng.u64(100..900)));
        let resource = &keys[rng.usize(..keys.len())];
        ledger
            .lock()
            .expect("no panic")
            .entry(resource.clone())
            .or_default()
            .unsure = true;
        let request =
            format!("POST /purge?resource={resource} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = http::send_unix(&site.folder.path().join("admin.sock"), request.as_bytes());
        if answer.is_ok_and(|answer| answer.status == 200) {
            let mut ledger = ledger.lock().expect("no panic");
            let line = ledger.get_mut(resource).expect("entered");
            (line.purged, line.unsure) = (line.entries.len(), false);
            add(&sums.purges, 1);
        }
    }
}

/// Kills a start before it is ready.
fn kill_at_start(site: &Site, after: Duration) {
    let mut command = site.command();
    let command = command.arg("serve").arg("--config").arg(&site.config);
    let child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut child = child.expect("the program starts");
    thread::sleep(after);
    child.kill().expect("our child");
    child.wait().expect("our child");
}

/// What was served long enough before the kill is there, or something later.
fn check(served: &Served, ledger: &Ledger, killed: UnixMs, sums: &Sums, context: &str) {
    let clock = Clock::system();
    let mut ledger = ledger.lock().expect("no panic");
    let mut wrong = Vec::new();
    for (resource, line) in &mut *ledger {
        let lives = |entry: &Entry| {
            let end = claims_of(&entry.token)["exp"].as_u64().expect("its end");
            clock.now().plus(MARGIN_MS) < UnixMs(end * 1000)
        };
        let Some(kept) = line
            .kept(killed, WINDOW_MS)
            .filter(|at| lives(&line.entries[*at]))
        else {
            line.entries.truncate(line.purged);
            continue;
        };
        let newest = line.entries.len() - 1;
        let token = right(&http::token(served.address, resource), resource);
        let found = line.entries.iter().position(|entry| entry.token == token);
        if newest > kept {
            add(&sums.young, 1);
            let back = found.is_none_or(|at| at == newest);
            add(&sums.young_back, usize::from(back));
        }
        if found.is_some_and(|at| at < kept) {
            let ages = line.entries.iter().map(|entry| killed.since(entry.first));
            let ages: Vec<_> = ages.collect();
            wrong.push(format!(
                "{resource}: {found:?} and not {kept}, served {ages:?} ms before, {} were purged",
                line.purged
            ));
        }
        if found.is_none() {
            let issued = |token| claims_of(token)["iat"].as_u64();
            let before = issued(&line.entries[kept].token);
            assert!(issued(&token) >= before, "{context}");
        }
        let same = found == Some(kept);
        add(if same { &sums.same } else { &sums.later }, 1);
        line.served(token, clock.now());
        // What the kill took, within the window, no later start has to bring.
        if let Some(at) = found {
            line.entries.truncate(at + 1);
        }
    }
    assert!(wrong.is_empty(), "{context}: went back: {wrong:#?}");
    // A renewal makes no miss: each of these was there.
    for outcome in ["miss", "coalesced", "refused"] {
        assert_eq!(outcomes(served, outcome), 0, "{context}: {outcome}");
    }
    let mismatches = crate::support::metrics::scrape(served.admin);
    let mismatches =
        crate::support::metrics::sum(&mismatches, "foretoken_echo_mismatches_total", None);
    assert_eq!(mismatches, 0, "{context}");
    // What else there is may be from before a purge that nobody confirmed.
    for (resource, line) in &mut *ledger {
        if line.unsure {
            *line = Line::default();
            right(&http::token(served.address, resource), resource);
        }
    }
}

fn round(
    site: &Site,
    keys: &[String],
    ledger: &Ledger,
    killed: &mut UnixMs,
    rng: &mut Rng,
    sums: &Sums,
    (turn, context): (u64, &str),
) {
    if rng.u8(..5) == 0 {
        kill_at_start(site, Duration::from_millis(rng.u64(..120)));
        add(&sums.at_start, 1);
    }
    let mut served = site.serve();
    check(&served, ledger, *killed, sums, context);
    let over = AtomicBool::new(false);
    let moment = Duration::from_millis(rng.u64(200..5_000));
    let keys = [keys, &resources(&format!("round-{turn}"), NEW)].concat();
    let keys = &keys;
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            let (rng, address) = (rng.fork(), served.address);
            scope.spawn(move || call(address, keys, rng, ledger, sums));
        }
        let (rng, over) = (rng.fork(), &over);
        scope.spawn(move || purge(site, keys, rng, ledger, over, sums));
        thread::sleep(moment);
        *killed = Clock::system().now();
        served.signal(Signal::KILL);
        over.store(true, Ordering::Relaxed);
    });
    served.ended();
    let log = served.log();
    assert!(
        !log.contains("panicked") && !log.contains("\"ERROR\""),
        "{context}: {log}"
    );
    add(&sums.kills, 1);
    add(&sums.records, site.verified(context));
}

#[test]
fn after_a_kill_at_any_moment_what_was_served_before_is_there_and_nothing_else_is() {
    let (rounds, seed) = (size(ROUNDS, EVERY_RUN), size(SEED, fastrand::u64(..)));
    println!("{SEED}={seed}");
    let sums = Sums::default();
    in_chains(rounds, size(CHAINS, CHAINS_EVERY_RUN), |chain, turns| {
        let mut rng = Rng::with_seed(seed ^ (chain + 1));
        let site = site_with(Settings {
            lifetime_s: LIFETIME_S,
            reissue_below: 1.0,
            ..emulator_settings()
        });
        let keys = resources("key", KEYS);
        let (ledger, mut killed) = (Ledger::default(), UnixMs(0));
        // What the first round finds.
        let mut first = site.serve();
        for resource in &keys {
            let token = token_of(&http::token(first.address, resource));
            let mut ledger = ledger.lock().expect("no panic");
            let line = ledger.entry(resource.clone()).or_default();
            line.served(token, Clock::system().now());
        }
        assert_eq!(first.end(Signal::TERM).code(), Some(0));
        killed = killed.max(Clock::system().now());
        for turn in turns {
            let context = format!("{SEED}={seed}, chain {chain}, round {turn}");
            round(
                &site,
                &keys,
                &ledger,
                &mut killed,
                &mut rng,
                &sums,
                (turn, &context),
            );
        }
        let served = site.serve();
        check(
            &served,
            &ledger,
            killed,
            &sums,
            &format!("{SEED}={seed}, chain {chain}, the end"),
        );
    });
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} kills under load and {} of a start; {} answers, {} purges confirmed; of tokens served longer than \
         {WINDOW_MS} ms before a kill {} were there and {} had been superseded by a later one, none was lost; of {} that \
         were served later {} were there; {} records at rest, all of which open",
        of(&sums.kills),
        of(&sums.at_start),
        of(&sums.answers),
        of(&sums.purges),
        of(&sums.same),
        of(&sums.later),
        of(&sums.young),
        of(&sums.young_back),
        of(&sums.records)
    );
    assert!(of(&sums.same) > 0);
}
