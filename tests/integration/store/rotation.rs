//! `foretoken key rotate` at rest, while its calls fail one after the other, or the process ends in
//! the place of one.
//!
//! `FORETOKEN_STORE_STEP=1` goes through every call; CI takes every so many.

use std::process::Output;
use std::sync::Mutex;

use super::shim::{ALL, How, KILLED, Library, Page};
use super::site::{Kept, Site, in_chains, resources, right, site};
use super::syscalls::{Figures, first, step};
use crate::support::http;
use crate::support::privilege::not_run;
use crate::support::wait::until;

const KEYS: usize = 6;
const CHAINS: u64 = 3;

fn rotate(site: &Site, page: &Page, library: &Library) -> Output {
    let mut command = page.preload(site.command(), library, site);
    let command = command
        .args(["key", "rotate", "--config"])
        .arg(&site.config);
    command.output().expect("the program starts")
}

/// Whatever became of the rotation, every record opens, and a start finishes it.
fn check(site: &Site, keys: &[String], context: &str) {
    assert_eq!(site.verified(context), KEYS, "{context}");
    let calls = site.emulator.counts().total;
    let served = site.serve();
    for resource in keys {
        right(&http::token(served.address, resource), resource);
    }
    assert_eq!(
        site.emulator.counts().total,
        calls,
        "{context}: all are there"
    );
    assert!(!super::site::is_degraded(&served), "{context}");
    let next = site.folder.path().join("foretoken.key.next");
    // It serves before that is written.
    until("the rotation is finished", || !next.exists());
}

/// Meets the calls from the `nth` on; says whether there was such a call.
fn attempt(
    site: &Site,
    kept: &Kept,
    library: &Library,
    how: How,
    (nth, last): (u64, u64),
    keys: &[String],
) -> Option<bool> {
    let context = format!("{how:?} at calls {nth} to {last} of a rotation");
    site.put_back(kept);
    let page = Page::new();
    page.set(ALL, nth, last, how);
    let output = rotate(site, &page, library);
    if page.met() == 0 {
        assert!(output.status.success(), "{context}");
        return None;
    }
    let code = output.status.code();
    if how == How::Kill {
        assert_eq!(code, Some(KILLED), "{context}");
    } else {
        assert!(matches!(code, Some(0 | 1)), "{context}: {output:?}");
    }
    check(site, keys, &context);
    Some(code == Some(0))
}

#[test]
fn wherever_a_rotation_of_the_key_fails_or_ends_every_record_opens_and_a_start_finishes_it() {
    let Some(library) = Library::build() else {
        return not_run("rotation", "there is no C compiler");
    };
    let keys = resources("key", KEYS);
    let figures = Mutex::new(Figures::default());
    let hows = [
        (How::Kill, false),
        (How::Broken, false),
        (How::Full, false),
        (How::Full, true),
    ];
    in_chains(hows.len() as u64, CHAINS, |_, turns| {
        let site = site();
        site.fill(&keys);
        let kept = site.keep();
        for turn in turns {
            let (how, goes_on) = hows[usize::try_from(turn).expect("few")];
            let mut nth = first(turn);
            while let Some(done) = attempt(
                &site,
                &kept,
                &library,
                how,
                (nth, if goes_on { u64::MAX } else { nth }),
                &keys,
            ) {
                figures.lock().expect("no panic").add(how, goes_on, done);
                nth += step();
            }
        }
    });
    println!("key rotate: {}", figures.into_inner().expect("no panic"));
}
