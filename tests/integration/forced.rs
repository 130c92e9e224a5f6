//! Callers who have no use for the token that is held: one upstream call for all of them, never
//! more than the pauses allow, and never worse than what they had.
//!
//! The emulator repeats no token here, so that each of its calls is seen in what callers get.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use foretoken::upstream::Kind;
use foretoken_emulator::{Fault, FaultKind};
use ring::digest::{SHA256, digest};

use crate::support::http::{self, Answer, connect, read_answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::{House, emulator_settings, source};

const CALLERS: usize = 100;
/// The shortest pause between two forced calls of different keys, and a little more.
const PAUSE: Duration = Duration::from_millis(1050);
const KEY: &str = "https://vault.azure.net";

fn house() -> House {
    let emulator = foretoken_emulator::Settings {
        reissue_below: 1.0,
        ..emulator_settings()
    };
    House::start_with(emulator, "")
}

fn ask(address: SocketAddr, resource: &str, more: &str) -> Answer {
    http::token(address, &format!("{resource}{more}"))
}

/// The parameter of a caller whose token was rejected somewhere.
fn rejected(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("&token_sha256_to_refresh={hex}")
}

const BYPASS: &str = "&bypass_cache=true";

/// Many callers at once, on connections of their own: the tokens they get.
fn herd(address: SocketAddr, more: &str) -> BTreeSet<String> {
    let request = http::token_request(&format!("{KEY}{more}"));
    let open = |_| connect(address).expect("a connection");
    let mut callers: Vec<_> = (0..CALLERS).map(open).collect();
    for caller in &mut callers {
        caller.write_all(&request).expect("an open connection");
    }
    let answers = callers.iter_mut().map(read_answer);
    answers
        .map(|answer| token_of(&answer.expect("an answer")))
        .collect()
}

#[test]
fn a_hundred_callers_with_a_rejected_token_cost_one_call_and_get_the_same_new_one() {
    let house = house();
    let old = token_of(&ask(house.address(), KEY, ""));
    house.emulator.set_latency_ms(100);
    let tokens = herd(house.address(), &rejected(&old));
    assert_eq!(tokens.len(), 1, "one token for all");
    assert!(!tokens.contains(&old), "and a new one");
    assert_eq!(house.emulator.counts().total, 2);
    let plain = token_of(&ask(house.address(), KEY, ""));
    assert!(tokens.contains(&plain), "also for those who ask plainly");
    // Latecomers, once the flight has landed: the hash is no longer that of the token held.
    assert_eq!(herd(house.address(), &rejected(&old)), tokens);
    assert_eq!(house.emulator.counts().total, 2);
}

#[test]
fn a_hundred_callers_who_pass_the_cache_by_cost_one_call() {
    let house = house();
    let old = token_of(&ask(house.address(), KEY, ""));
    house.emulator.set_latency_ms(100);
    let tokens = herd(house.address(), BYPASS);
    assert_eq!(house.emulator.counts().total, 2);
    // Whoever came once the flight had landed got what it brought.
    assert_eq!(tokens.len(), 1);
    assert!(!tokens.contains(&old));
}

#[test]
fn a_hash_of_another_token_is_a_plain_hit() {
    let house = house();
    let token = token_of(&ask(house.address(), KEY, ""));
    for more in [
        rejected("another"),
        rejected(&token[1..]),
        "&bypass_cache=false".to_owned(),
    ] {
        let answer = ask(house.address(), KEY, &more);
        assert_eq!(token_of(&answer), token, "{more}");
    }
    assert_eq!(house.emulator.counts().total, 1);
}

#[test]
fn a_second_forced_call_for_a_key_within_a_minute_is_a_plain_hit() {
    let house = house();
    let address = house.address();
    token_of(&ask(address, KEY, ""));
    let first = token_of(&ask(address, KEY, BYPASS));
    assert_eq!(house.emulator.counts().total, 2);
    // Beyond the pause that all keys share: it is the key's own that holds.
    sleep(PAUSE);
    for more in [BYPASS.to_owned(), rejected(&first)] {
        assert_eq!(token_of(&ask(address, KEY, &more)), first, "{more}");
    }
    assert_eq!(house.emulator.counts().total, 2);
}

#[test]
fn calls_forced_for_different_keys_are_a_second_apart() {
    const KEYS: usize = 20;
    let house = house();
    let address = house.address();
    let key = |number: usize| format!("https://resource-{number}.example");
    let held: Vec<_> = (0..KEYS)
        .map(|number| token_of(&ask(address, &key(number), "")))
        .collect();
    house.emulator.reset_counts();

    for (number, held) in held.iter().enumerate() {
        let answer = ask(address, &key(number), BYPASS);
        assert_eq!(audience_of(&answer), key(number));
        let is_new = token_of(&answer) != *held;
        assert!(number > 0 || is_new, "the first is let through");
    }
    let arrivals = house.emulator.counts().arrivals_unix_ms;
    let apart = arrivals.windows(2).all(|pair| pair[1] - pair[0] >= 500);
    assert!(apart, "{arrivals:?}");
    let before = arrivals.len();
    assert!(before < KEYS / 2, "most of them were plain hits: {before}");

    sleep(PAUSE);
    let last = ask(address, &key(KEYS - 1), BYPASS);
    assert_ne!(token_of(&last), held[KEYS - 1]);
    assert_eq!(house.emulator.counts().arrivals_unix_ms.len(), before + 1);
}

#[test]
fn a_forced_call_that_fails_leaves_the_token_that_was_held() {
    let house = house();
    let address = house.address();
    let held = token_of(&ask(address, KEY, ""));
    let fault = Fault::always(FaultKind::Status {
        status: 500,
        retry_after_s: None,
    });
    house.emulator.set_fault(Some(fault));
    house.emulator.set_latency_ms(100);
    assert_eq!(
        herd(house.address(), &rejected(&held)),
        [held.clone()].into()
    );
    assert_eq!(house.emulator.counts().faulted, 1);
    assert_eq!(token_of(&ask(address, KEY, "")), held);
}

#[test]
fn a_forced_call_without_a_token_held_is_a_call_like_any_other() {
    let house = house();
    let first = token_of(&ask(house.address(), KEY, BYPASS));
    assert_eq!(token_of(&ask(house.address(), KEY, "")), first);
    assert_eq!(house.emulator.counts().total, 1);
}

#[test]
fn a_forced_call_that_brings_the_same_token_is_answered_counted_and_not_repeated() {
    // App Service has no parameter that passes its cache by, and gives a token again until late.
    let house = source::house(Kind::AppService);
    let address = house.address();
    let held = token_of(&ask(address, KEY, ""));
    let unchanged = || {
        let calls = "foretoken_upstream_calls_total";
        sum(&scrape(house.app.admin_address()), calls, Some("unchanged"))
    };
    assert_eq!(unchanged(), 0);
    house.emulator.set_latency_ms(100);
    assert_eq!(herd(address, &rejected(&held)), [held.clone()].into());
    assert_eq!((house.emulator.counts().total, unchanged()), (2, 1));
    // Beyond the pause that all keys share.
    sleep(PAUSE);
    for more in [rejected(&held), BYPASS.to_owned(), String::new()] {
        assert_eq!(token_of(&ask(address, KEY, &more)), held, "{more}");
    }
    assert_eq!((house.emulator.counts().total, unchanged()), (2, 1));
}
