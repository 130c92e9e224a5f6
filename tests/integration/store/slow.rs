//! A disk whose flushes take 5 s, and one whose flushes never return.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use foretoken::clock::Clock;
use rustix::process::Signal;

use super::shim::{How, Library, Page, SYNC};
use super::site::{is_degraded, resources, right, site};
use crate::support::http;
use crate::support::privilege::not_run;
use crate::support::wait::until;

const KEYS: usize = 8;
const CALLERS: u64 = 2;

/// Asks for what is held until told otherwise; every answer is whole and right.
pub fn callers(
    address: std::net::SocketAddr,
    keys: &[String],
    over: &AtomicBool,
    served: &AtomicU64,
) {
    let mut stream = http::connect(address).expect("a link");
    while !over.load(Ordering::Relaxed) {
        for resource in keys {
            stream
                .write_all(&http::token_request(resource))
                .expect("an open link");
            right(
                &http::read_answer(&mut stream).expect("an answer"),
                resource,
            );
            served.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn flushes(how: How) {
    let Some(library) = Library::build() else {
        return not_run("slow flushes", "there is no C compiler");
    };
    let clock = Clock::system();
    let site = site();
    let keys = resources("key", KEYS);
    site.fill(&keys);
    let page = Page::new();
    let mut served = site.serve_as(page.preload(site.command(), &library, &site));
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let calls = site.emulator.counts().total;
    let stop = thread::scope(|scope| {
        for _ in 0..CALLERS {
            let (address, keys, over, count) = (served.address, &keys, &over, &count);
            scope.spawn(move || callers(address, keys, over, count));
        }
        page.set(SYNC, 1, u64::MAX, how);
        for resource in resources("new", 3) {
            right(&http::token(served.address, &resource), &resource);
        }
        until("a flush is met", || page.met() > 0);
        // A flush that takes 5 s is within what a database may take: there is nothing to tell.
        if how == How::Hang {
            until("it says so", || is_degraded(&served));
        }
        let before = count.load(Ordering::Relaxed);
        until("hits go on", || {
            count.load(Ordering::Relaxed) > before + 1_000
        });
        over.store(true, Ordering::Relaxed);
        clock.now()
    });
    assert_eq!(
        site.emulator.counts().total,
        calls + 3,
        "all others were hits"
    );
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    println!(
        "{how:?} flushes: {} hits, none failed; {} ms from SIGTERM to the end",
        count.load(Ordering::Relaxed),
        clock.now().since(stop)
    );
    let mut served = site.serve();
    let calls = site.emulator.counts().total;
    for resource in &keys {
        right(&http::token(served.address, resource), resource);
    }
    assert_eq!(site.emulator.counts().total, calls, "what was there stays");
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
}

#[test]
fn while_a_flush_takes_seconds_hits_go_on_and_a_stop_ends() {
    flushes(How::Slow);
}

#[test]
fn while_a_flush_never_returns_hits_go_on_it_is_told_and_a_stop_ends() {
    flushes(How::Hang);
}
