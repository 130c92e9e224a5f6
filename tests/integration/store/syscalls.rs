//! One call to the disk after the other fails, from one on all of them do, or the process ends in the
//! place of one: it serves, says what it cannot keep, recovers, and serves nothing wrong later.
//!
//! `FORETOKEN_STORE_STEP=1` goes through every call; CI takes every so many, from one that
//! `FORETOKEN_SEED` chooses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{LazyLock, Mutex};

use rustix::process::Signal;

use super::shim::{ALL, How, KILLED, Library, Page};
use super::site::{Kept, Site, in_chains, is_degraded, outcomes, resources, right, site};
use crate::support::http;
use crate::support::privilege::not_run;
use crate::support::process::Served;
use crate::support::wait::until;
use crate::under_fire::size;

const STEP: &str = "FORETOKEN_STORE_STEP";
const EVERY_RUN: u64 = 13;
const SEED: &str = "FORETOKEN_SEED";
const CHAINS: u64 = 5;
const KEYS: usize = 6;

pub fn step() -> u64 {
    size(STEP, EVERY_RUN)
}

/// The first call to be met.
pub fn first(turn: u64) -> u64 {
    static CHOSEN: LazyLock<u64> = LazyLock::new(|| {
        let seed = size(SEED, fastrand::u64(..1 << 32));
        println!("{SEED}={seed}");
        seed
    });
    1 + (*CHOSEN + 3 * turn) % step()
}

/// What became of the attempts.
#[derive(Default)]
pub struct Figures(BTreeMap<String, (u64, u64)>);

impl Figures {
    pub fn add(&mut self, how: How, goes_on: bool, done: bool) {
        let name = format!("{how:?}{}", if goes_on { " from then on" } else { "" });
        let (all, good) = self.0.entry(name).or_default();
        *all += 1;
        *good += u64::from(done);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (all, good)) in &self.0 {
            write!(
                f,
                "{name}: {all} calls met, {good} of them without a word; "
            )?;
        }
        Ok(())
    }
}

/// How calls are met, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spell {
    Once(How),
    /// Until the tests says that all is well.
    On(How),
    /// Until the process has ended.
    Ever(How),
}

const SPELLS: [Spell; 6] = [
    Spell::Once(How::Kill),
    Spell::Once(How::Broken),
    Spell::Once(How::Full),
    Spell::On(How::Broken),
    Spell::On(How::Full),
    Spell::Ever(How::Full),
];

impl Spell {
    fn how(self) -> How {
        let (Self::Once(how) | Self::On(how) | Self::Ever(how)) = self;
        how
    }

    fn is_kill(self) -> bool {
        self.how() == How::Kill
    }
}

/// The tokens that are known, by resource: at rest, then as served last.
type Tokens = BTreeMap<String, String>;

/// Asks for each; `false` if the process is gone.
fn ask(served: &Served, keys: &[String], tokens: &mut Tokens, spell: Spell, context: &str) -> bool {
    for resource in keys {
        match http::send(served.address, &http::token_request(resource)) {
            Ok(answer) => {
                tokens.insert(resource.clone(), right(&answer, resource));
            }
            Err(error) => {
                assert!(spell.is_kill(), "{context}: {error}");
                return false;
            }
        }
    }
    true
}

/// One command of an operator; `None` if the process is gone.
fn post(site: &Site, what: &str, spell: Spell, context: &str) -> Option<u16> {
    let request = format!("POST /{what} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = http::send_unix(&site.folder.path().join("admin.sock"), request.as_bytes());
    assert!(answer.is_ok() || spell.is_kill(), "{context}: {answer:?}");
    answer.ok().map(|answer| answer.status)
}

/// What an attempt left.
struct Left {
    /// As served last.
    tokens: Tokens,
    /// It was confirmed, or carried out before the end.
    is_purged: bool,
    /// All that was served last is on disk.
    is_written: bool,
    was_degraded: bool,
}

/// Renews one token, gets a new one, purges the last, stops.
fn live(
    site: &Site,
    page: &Page,
    library: &Library,
    keys: &[String],
    spell: Spell,
    context: &str,
) -> Left {
    let mut left = Left {
        tokens: Tokens::new(),
        is_purged: false,
        is_written: false,
        was_degraded: false,
    };
    let command = page.preload(site.command(), library, site);
    let Some(mut served) = Served::try_start_as(command, &site.config) else {
        assert!(spell.is_kill(), "{context}: it does not start");
        return left;
    };
    let mut go = || {
        if !ask(&served, keys, &mut left.tokens, spell, context) {
            return None;
        }
        post(
            site,
            &format!("refresh?resource={}", keys[0]),
            spell,
            context,
        )?;
        if !ask(
            &served,
            &["https://new.example".to_owned()],
            &mut left.tokens,
            spell,
            context,
        ) {
            return None;
        }
        let purged = post(
            site,
            &format!("purge?resource={}", keys[KEYS - 1]),
            spell,
            context,
        )?;
        left.is_purged = purged == 200;
        if spell.is_kill() {
            return Some(());
        }
        if purged == 500 && !matches!(spell, Spell::Once(_)) {
            until("it says so", || is_degraded(&served));
        }
        left.was_degraded = is_degraded(&served) || purged == 500;
        if !matches!(spell, Spell::Ever(_)) {
            page.clear();
            until("it recovers", || !is_degraded(&served));
            left.is_purged = true;
            left.is_written = true;
        }
        let before = left.tokens[&keys[KEYS - 1]].clone();
        ask(&served, keys, &mut left.tokens, spell, context);
        assert_ne!(
            left.tokens[&keys[KEYS - 1]],
            before,
            "{context}: it was purged"
        );
        Some(())
    };
    let lives = go().is_some();
    if lives {
        let code = served.end(Signal::TERM).code();
        assert!(
            code == Some(0) || spell.is_kill() && code == Some(KILLED),
            "{context}: {code:?}"
        );
    } else {
        assert_eq!(served.ended().code(), Some(KILLED), "{context}");
    }
    left
}

/// The next start serves nothing wrong, and what has to be there.
fn check(site: &Site, keys: &[String], at_rest: &Tokens, left: &Left, spell: Spell, context: &str) {
    site.verified(context);
    let mut served = site.serve();
    let calls = site.emulator.counts().total;
    let (last, others) = keys.split_last().expect("some");
    for resource in others {
        let token = right(&http::token(served.address, resource), resource);
        if left.is_written {
            assert_eq!(token, left.tokens[resource], "{context}: {resource}");
        }
    }
    if left.is_written || spell.is_kill() {
        assert_eq!(
            site.emulator.counts().total,
            calls,
            "{context}: they are there"
        );
    }
    let token = right(&http::token(served.address, last), last);
    if left.is_purged {
        assert_ne!(token, at_rest[last], "{context}: a purged token came back");
    }
    assert_eq!(outcomes(&served, "refused"), 0, "{context}");
    assert!(!is_degraded(&served), "{context}");
    assert_eq!(served.end(Signal::TERM).code(), Some(0), "{context}");
}

fn attempt(
    site: &Site,
    kept: &Kept,
    library: &Library,
    spell: Spell,
    nth: u64,
    keys: &[String],
    at_rest: &Tokens,
) -> Option<bool> {
    let context = format!("{spell:?} at call {nth}");
    site.put_back(kept);
    let page = Page::new();
    let last = if matches!(spell, Spell::Once(_)) {
        nth
    } else {
        u64::MAX
    };
    page.set(ALL, nth, last, spell.how());
    let left = live(site, &page, library, keys, spell, &context);
    let met = page.met();
    check(site, keys, at_rest, &left, spell, &context);
    (met > 0).then_some(!left.was_degraded)
}

#[test]
fn whichever_call_to_the_disk_fails_it_serves_and_recovers_and_nothing_wrong_is_served_later() {
    let Some(library) = Library::build() else {
        return not_run("syscalls", "there is no C compiler");
    };
    let keys = resources("key", KEYS);
    let figures = Mutex::new(Figures::default());
    in_chains(SPELLS.len() as u64, CHAINS, |_, turns| {
        let site = site();
        site.emulator.set_reissue_below(1.0);
        let mut at_rest = Tokens::new();
        let mut served = site.serve();
        ask(
            &served,
            &keys,
            &mut at_rest,
            Spell::Once(How::Broken),
            "filling",
        );
        assert_eq!(served.end(Signal::TERM).code(), Some(0));
        let kept = site.keep();
        for turn in turns {
            let spell = SPELLS[usize::try_from(turn).expect("few")];
            let mut nth = first(turn);
            while let Some(calm) = attempt(&site, &kept, &library, spell, nth, &keys, &at_rest) {
                let goes_on = !matches!(spell, Spell::Once(_));
                figures
                    .lock()
                    .expect("no panic")
                    .add(spell.how(), goes_on, calm);
                nth += step();
            }
        }
    });
    println!("serving: {}", figures.into_inner().expect("no panic"));
}
