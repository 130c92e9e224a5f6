//! A soak without anybody who scrapes: memory, descriptors, threads and disk stay flat while tokens
//! are renewed, links come and go, and some clients are slow.
//!
//! `FORETOKEN_FIRE_SOAK_S` sets for how many seconds.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use foretoken::clock::Clock;
use rustix::process::Signal;

use super::{End, Seen, ask, links_held, site_with, size};
use crate::support::emulator_settings;
use crate::support::http;
use crate::support::metrics::{scrape, sum};
use crate::support::wait::until;

const SOAK_S: &str = "FORETOKEN_FIRE_SOAK_S";
const EVERY_RUN: u64 = 6;
const CALLERS: u64 = 4;
const KEYS: u64 = 20;
const LIFETIME_S: u64 = 6;
const SAMPLES: u64 = 24;
/// From here on nothing is new to the process.
const WARM: usize = 4;
/// What memory may grow by after that, and what the store may hold.
const GROWTH_KIB: u64 = 8 << 10;
const DISK_BYTES: u64 = 16 << 20;

struct Sample {
    at_ms: u64,
    rss_kib: u64,
    descriptors: Option<usize>,
    threads: u64,
    disk_bytes: u64,
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let sizes = entries.map_while(Result::ok).map(|entry| {
        let path = entry.path();
        // What was there may be gone by now.
        match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&path),
            Ok(found) => found.len(),
            Err(_) => 0,
        }
    });
    sizes.sum()
}

/// Asks for every key in turn, on a link for a hundred questions.
fn call(address: std::net::SocketAddr, over: &AtomicBool, asked: &AtomicU64) {
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        let mut link = http::connect(address).expect("a link");
        for _ in 0..100 {
            ask(&mut link, &format!("https://r{}.example", number % KEYS));
            asked.fetch_add(1, Ordering::Relaxed);
            number += 1;
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Heads that never end, a few at a time.
fn dawdle(address: std::net::SocketAddr, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let links: Vec<_> = (0..20)
            .map(|_| {
                let mut link = http::connect(address).expect("a link");
                link.write_all(b"GET /metadata/").expect("open");
                link
            })
            .collect();
        thread::sleep(Duration::from_millis(1500));
        drop(links);
    }
}

#[test]
fn memory_descriptors_threads_and_disk_stay_flat() {
    let seconds = size(SOAK_S, EVERY_RUN);
    let emulator = foretoken_emulator::Settings {
        lifetime_s: LIFETIME_S,
        ..emulator_settings()
    };
    let site = site_with(emulator, "");
    let mut served = site.serve();
    let seen = Seen::of(&served.child);
    let store = site.folder.path().join("store");
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let clock = Clock::system();
    let begun = clock.now();
    let mut samples = Vec::new();
    thread::scope(|scope| {
        let _end = End(&over);
        for _ in 0..CALLERS {
            scope.spawn(|| call(served.address, &over, &asked));
        }
        scope.spawn(|| dawdle(served.address, &over));
        for _ in 0..SAMPLES {
            thread::sleep(Duration::from_millis(seconds * 1000 / SAMPLES));
            samples.push(Sample {
                at_ms: clock.now().since(begun),
                rss_kib: seen.rss_kib(),
                descriptors: seen.descriptors(),
                threads: seen.threads(),
                disk_bytes: bytes_below(&store),
            });
        }
    });
    for sample in &samples {
        println!(
            "{:>7} ms  resident {} KiB  descriptors {:?}  threads {}  disk {} bytes",
            sample.at_ms, sample.rss_kib, sample.descriptors, sample.threads, sample.disk_bytes
        );
    }
    until("every link ends", || links_held(served.address) == 0);
    let metrics = scrape(served.admin);
    let renewed = sum(&metrics, "foretoken_upstream_calls_total", Some("renewed"));
    println!(
        "{} requests, {renewed} renewals",
        asked.load(Ordering::Relaxed)
    );
    let hits = sum(&metrics, "foretoken_requests_total", Some("hit"));
    assert!(
        hits >= asked.load(Ordering::Relaxed) - CALLERS * KEYS,
        "{hits}"
    );

    let (warming, flat) = samples.split_at(WARM);
    let (first, last) = (&flat[0], &flat[flat.len() - 1]);
    assert!(last.rss_kib <= first.rss_kib + GROWTH_KIB);
    let most = warming.iter().map(|sample| sample.threads).max();
    for sample in flat {
        // The pool of threads for files may shrink, and a call of the database have one for a moment.
        assert!(
            Some(sample.threads) <= most.map(|most| most + 1),
            "{}",
            sample.threads
        );
        assert!(sample.disk_bytes < DISK_BYTES, "{}", sample.disk_bytes);
        // What it has at rest, and the links that there are.
        assert!(sample.descriptors.unwrap_or_default() < 100);
    }
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    assert!(!served.log().contains("panicked"));
}
