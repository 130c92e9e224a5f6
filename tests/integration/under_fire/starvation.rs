//! The CPU is scarce: one core, shared with busy loops. No renewal comes too late.
//!
//! `FORETOKEN_FIRE_BUSY_S` sets for how many seconds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use foretoken::clock::Clock;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{End, Seen, TICKS_PER_SECOND, site_with, size};
use crate::support::emulator_settings;
use crate::support::http::{self, read_answer, token_request};
use crate::support::jwt::{audience_of, claims_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::wait::until;
use std::io::Write as _;

const BUSY_S: &str = "FORETOKEN_FIRE_BUSY_S";
const EVERY_RUN: u64 = 8;
const BUSY_LOOPS: usize = 4;
const KEYS: u64 = 10;
const LIFETIME_S: u64 = 4;

/// Everything that this thread starts from here on shares one core.
fn take_one_core() -> bool {
    let Ok(all) = sched_getaffinity(None) else {
        return false;
    };
    let mut one = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu));
    one.set(first.expect("a thread runs somewhere"));
    sched_setaffinity(None, &one).is_ok()
}

/// Spins until told otherwise, and at the latest when its time is over.
fn spin(over: &AtomicBool, longest_ms: u64) {
    let clock = Clock::system();
    let begun = clock.now();
    while !over.load(Ordering::Relaxed) && clock.now().since(begun) < longest_ms {
        std::hint::spin_loop();
    }
}

#[test]
fn no_renewal_is_late_on_one_core_beside_four_busy_loops() {
    let alone = thread::spawn(take_one_core_and_run);
    alone.join().expect("no panic");
}

fn take_one_core_and_run() {
    let seconds = size(BUSY_S, EVERY_RUN);
    let one_core = take_one_core();
    let emulator = foretoken_emulator::Settings {
        lifetime_s: LIFETIME_S,
        ..emulator_settings()
    };
    let site = site_with(emulator, "");
    let served = site.serve();
    let seen = Seen::of(&served.child);
    let name = |key| format!("https://r{key}.example");
    let mut link = http::connect(served.address).expect("a link");
    let mut ask = |resource: &str| {
        link.write_all(&token_request(resource)).expect("open");
        let answer = read_answer(&mut link).expect("an answer");
        assert_eq!(audience_of(&answer), resource);
        token_of(&answer)
    };
    let mut held: Vec<_> = (0..KEYS).map(|key| ask(&name(key))).collect();
    let cpu_before = seen.cpu_ticks();

    let over = AtomicBool::new(false);
    let spinning = AtomicUsize::new(0);
    let clock = Clock::system();
    let (mut asked, mut changed, mut least_left_ms) = (0, 0, u64::MAX);
    thread::scope(|scope| {
        let _end = End(&over);
        for _ in 0..BUSY_LOOPS {
            scope.spawn(|| {
                spinning.fetch_add(1, Ordering::Relaxed);
                spin(&over, (seconds + 60) * 1000);
            });
        }
        until("they spin", || {
            spinning.load(Ordering::Relaxed) == BUSY_LOOPS
        });
        let begun = clock.now();
        while clock.now().since(begun) < seconds * 1000 {
            for (key, held) in (0..).zip(&mut held) {
                let token = ask(&name(key));
                asked += 1;
                let ends = claims_of(&token)["exp"].as_u64().expect("an end") * 1000;
                let now = clock.now().0;
                assert!(ends > now, "over for {} ms", now - ends);
                least_left_ms = least_left_ms.min(ends - now);
                if token != *held {
                    changed += 1;
                    *held = token;
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let spent = seen.cpu_ticks() - cpu_before;
    let samples = scrape(served.admin);
    let outcome = |label| sum(&samples, "foretoken_requests_total", Some(label));
    println!(
        "{asked} requests, {changed} new tokens, the oldest served had {least_left_ms} ms left; one \
         core: {one_core}; {spent} hundredths of a second on the CPU in {seconds} s"
    );
    // Nobody waited but who asked first, and every token was renewed in time, again and again.
    assert_eq!(
        (outcome("miss"), outcome("coalesced"), outcome("refused")),
        (KEYS, 0, 0)
    );
    assert!(changed >= KEYS * (seconds / LIFETIME_S), "{changed}");
    assert!(spent < seconds * TICKS_PER_SECOND, "{spent}");
    let failed: u64 = sum(&samples, "foretoken_upstream_calls_total", None)
        - sum(&samples, "foretoken_upstream_calls_total", Some("renewed"))
        - sum(
            &samples,
            "foretoken_upstream_calls_total",
            Some("unchanged"),
        );
    assert_eq!(failed, 0);
}
