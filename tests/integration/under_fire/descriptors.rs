//! Descriptors run out: no spin, the admin endpoints and the upstream stay within reach, and all is
//! well once links close.
//!
//! `FORETOKEN_FIRE_STARVED_S` sets for how many seconds the time on the CPU is looked at.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::{Seen, Site, TICKS_PER_SECOND, ask, is_silent, links_held, site, size};
use crate::support::http::{self, PATIENCE, read_answer, send_unix};
use crate::support::jwt::audience_of;
use crate::support::process::Served;
use crate::support::wait::until;

const STARVED_S: &str = "FORETOKEN_FIRE_STARVED_S";
const EVERY_RUN: u64 = 3;
const LINKS: usize = 300;
/// The admin endpoints take so many links each.
const ADMIN_LINKS: usize = 64;

/// Time on the CPU while nothing happens but that links wait, in hundredths of a second.
fn time_while_starved(seen: &Seen, what: &str) {
    let seconds = size(STARVED_S, EVERY_RUN);
    let before = seen.cpu_ticks();
    thread::sleep(Duration::from_secs(seconds));
    let spent = seen.cpu_ticks() - before;
    println!("{what}: {spent} hundredths of a second on the CPU in {seconds} s");
    // A loop that spins takes all of one CPU, or of the share that it gets.
    assert!(
        spent < seconds * TICKS_PER_SECOND / 5,
        "{spent} in {seconds} s"
    );
}

fn assert_admin_is_there(served: &Served, site: &Site) {
    assert_eq!(http::get(served.admin, "/livez").status, 200);
    let socket = site.folder.path().join("admin.sock");
    let status = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(send_unix(&socket, status).expect("an answer").status, 200);
}

/// Links that were asked nothing on, more than there are places for.
fn crowd(served: &Served) -> Vec<TcpStream> {
    let connect = |_| http::connect(served.address).expect("the kernel's queue has room");
    (0..LINKS).map(connect).collect()
}

/// Asks on every link at once and reads every answer, though only some are accepted at a time:
/// those that have their answer leave.
fn serve_all(links: Vec<TcpStream>) {
    for mut link in &links {
        link.write_all(&http::token_request("r")).expect("open");
    }
    let mut waiting = links;
    let mut rounds = PATIENCE.as_millis() / 10;
    while !waiting.is_empty() {
        assert!(rounds > 0, "{} links were never served", waiting.len());
        rounds -= 1;
        let (silent, ready): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_silent);
        for mut link in ready {
            assert_eq!(
                audience_of(&read_answer(&mut link).expect("an answer")),
                "r"
            );
        }
        waiting = silent;
        thread::sleep(Duration::from_millis(10));
    }
}

fn callers_take_every_place(descriptors: usize, places: usize) {
    let site = site("");
    let served = site.serve_after(&format!("ulimit -n {descriptors}"));
    let seen = Seen::of(&served.child);
    ask(&mut http::connect(served.address).expect("a link"), "r");
    let links = crowd(&served);
    until("every place is taken", || {
        links_held(served.address) == places
    });
    println!("{descriptors} descriptors, {:?} open", seen.descriptors());
    time_while_starved(&seen, "callers in every place");
    until("no more are taken", || links_held(served.address) == places);
    assert_admin_is_there(&served, &site);
    // One of those inside has the upstream called.
    let calls = site.emulator.counts().total;
    let mut inside = links.iter().map(|link| link.try_clone().expect("ours"));
    let mut first = inside.next().expect("a link");
    ask(&mut first, "another");
    assert_eq!(site.emulator.counts().total, calls + 1);
    drop((first, inside));
    serve_all(links);
    until("every link ends", || links_held(served.address) == 0);
    ask(&mut http::connect(served.address).expect("a link"), "r");
}

#[test]
fn callers_in_every_place_leave_descriptors_for_the_admin_and_the_upstream() {
    callers_take_every_place(96, 48);
}

/// The process itself needs 33 with two workers: half of 64 for callers would leave none.
#[test]
fn callers_in_every_place_leave_descriptors_when_there_are_sixty_four() {
    callers_take_every_place(64, 16);
}

#[test]
fn with_no_descriptor_left_at_all_nothing_spins_and_all_is_well_afterwards() {
    let site = site("");
    let mut served = site.serve_after("ulimit -n 96");
    let seen = Seen::of(&served.child);
    ask(&mut http::connect(served.address).expect("a link"), "r");
    // Those who only look take what the callers leave, and more.
    let looking: Vec<_> = (0..ADMIN_LINKS)
        .map(|_| http::connect(served.admin).expect("the kernel's queue has room"))
        .collect();
    let links = crowd(&served);
    if seen.descriptors().is_some() {
        // One that was open before the limit was set may have a higher number.
        until("no descriptor is left", || seen.descriptors() >= Some(96));
    }
    time_while_starved(&seen, "no descriptor left");
    drop(looking);
    until("the admin is back", || links_held(served.admin) == 0);
    assert_admin_is_there(&served, &site);
    serve_all(links);
    until("every link ends", || links_held(served.address) == 0);
    ask(
        &mut http::connect(served.address).expect("a link"),
        "another",
    );
    served.end(rustix::process::Signal::TERM);
    let log = served.log();
    let said = log.lines().filter(|line| line.contains("accept failed"));
    assert!(said.count() <= 4, "{log}");
}
