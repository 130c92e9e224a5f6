//! Ten thousand links: each is answered once, idle ones are cheap, and all of them end.
//!
//! `FORETOKEN_FIRE_LINKS` sets how many.

use std::net::{SocketAddr, TcpStream};

use super::{Seen, ask, connect_from, descriptors_for, is_silent, links_held, site, size};
use crate::support::metrics::{scrape, sum};
use crate::support::privilege::not_run;
use crate::support::wait::until;

const LINKS: &str = "FORETOKEN_FIRE_LINKS";
const EVERY_RUN: usize = 1000;
/// From each source address, as many as one process of clients might hold.
const PER_SOURCE: usize = 5000;

fn open(number: usize, address: SocketAddr) -> TcpStream {
    let source = u8::try_from(1 + number / PER_SOURCE).expect("few sources");
    connect_from([127, 0, 0, source], address).expect("a link")
}

#[test]
fn each_of_many_links_is_answered_once_and_all_of_them_end() {
    let count = size(LINKS, EVERY_RUN);
    if !descriptors_for(count) {
        let test = "each_of_many_links_is_answered_once_and_all_of_them_end";
        return not_run(
            test,
            "the limit on descriptors is below the number of links",
        );
    }
    let site = site("");
    let served = site.serve();
    let seen = Seen::of(&served.child);
    let hits = || {
        sum(
            &scrape(served.admin),
            "foretoken_requests_total",
            Some("hit"),
        )
    };
    ask(&mut open(0, served.address), "r");
    until("the first link ends", || links_held(served.address) == 0);
    let (before, descriptors) = (seen.rss_kib(), seen.descriptors());

    let mut links: Vec<_> = (0..count).map(|n| open(n, served.address)).collect();
    until("all are accepted", || links_held(served.address) == count);
    let unused = seen.rss_kib();
    for round in 1..=2 {
        links.iter_mut().for_each(|link| ask(link, "r"));
        until("all are held", || links_held(served.address) == count);
        assert!(links.iter().all(is_silent), "one answer for each question");
        let answered = (count * round) as u64;
        until("the workers have added up", || hits() >= answered);
        assert_eq!(hits(), answered);
    }
    let idle = seen.rss_kib();
    assert_eq!(site.emulator.counts().total, 1);

    drop(links);
    until("all of them end", || links_held(served.address) == 0);
    until("their descriptors are back", || {
        seen.descriptors() <= descriptors
    });
    ask(&mut open(0, served.address), "r");
    let each = |kib: u64| kib.saturating_sub(before) * 1024 / count as u64;
    println!(
        "{count} links: resident {before} KiB before, {} bytes for each link unused, {} idle after \
         two answers, {} KiB after their end",
        each(unused),
        each(idle),
        seen.rss_kib()
    );
}
