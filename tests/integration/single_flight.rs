//! One upstream call for any number of callers, and never more calls than the budget allows.
//!
//! All callers have connections of their own, opened before the first request is sent, so that
//! their requests reach Foretoken together while the emulator holds its answers back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use foretoken::clock::Clock;
use foretoken::telemetry::metrics::Outcome;
use foretoken_emulator::{Fault, FaultKind, Limits};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::http::{self, Answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::wait::until;
use crate::support::{House, emulator_settings};

const CALLERS: usize = 1000;
/// Room for 64 flights at once.
const WIDE: &str = "max_in_flight = 64\nmax_per_second = 1000\n";

/// A house whose upstream takes this long for a token.
fn slow_house(latency_ms: u64, more: &str) -> House {
    let emulator = foretoken_emulator::Settings {
        latency_ms,
        ..emulator_settings()
    };
    House::start_with(emulator, more)
}

fn resource(number: usize) -> String {
    format!("https://resource-{number}.example")
}

/// Connections without a request yet.
fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    // Both ends of every connection are ours, and 1024 files are a common limit.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("room for the callers");
    let open = |_| http::connect(address).expect("a connection");
    (0..count).map(open).collect()
}

fn ask(connections: &mut [TcpStream], resource_of: impl Fn(usize) -> String) {
    for (number, connection) in connections.iter_mut().enumerate() {
        let request = http::token_request(&resource_of(number));
        connection.write_all(&request).expect("an open connection");
    }
}

fn answers(connections: &mut [TcpStream]) -> Vec<Answer> {
    let read = |connection| http::read_answer(connection).expect("an answer");
    connections.iter_mut().map(read).collect()
}

/// Requests that Foretoken has counted so far, by whatever outcome.
fn counted(house: &House) -> u64 {
    Outcome::ALL
        .iter()
        .map(|outcome| house.app.metrics().requests(*outcome))
        .sum()
}

#[test]
fn a_thousand_cold_callers_cost_one_upstream_call_a_key() {
    const KEYS: usize = 64;
    let house = slow_house(200, WIDE);
    let mut callers = connect(house.address(), CALLERS);
    ask(&mut callers, |caller| resource(caller % KEYS));
    for (caller, answer) in answers(&mut callers).iter().enumerate() {
        assert_eq!(audience_of(answer), resource(caller % KEYS));
    }
    let counts = house.emulator.counts();
    assert_eq!(counts.total, 64);
    for key in 0..KEYS {
        assert_eq!(counts.calls_for("system", &resource(key)), 1, "key {key}");
    }

    let samples = scrape(house.app.admin_address());
    let outcome = |name| sum(&samples, "foretoken_requests_total", Some(name));
    assert_eq!((outcome("miss"), outcome("refused")), (64, 0));
    assert_eq!(outcome("hit") + outcome("coalesced"), 936);
}

#[test]
fn the_last_caller_is_served_when_all_others_hang_up() {
    let house = slow_house(1000, "");
    let mut callers = connect(house.address(), CALLERS);
    ask(&mut callers, |_| resource(0));
    until("every caller waits", || counted(&house) == 1000);
    assert_eq!(house.app.metrics().requests(Outcome::Hit), 0);
    // The first caller, whose request started the flight, is among those that go.
    let mut last = callers.split_off(CALLERS - 1);
    drop(callers);
    let answer = answers(&mut last).pop().expect("one caller");
    assert_eq!(audience_of(&answer), resource(0));
    assert_eq!(house.emulator.counts().total, 1);
}

#[test]
fn a_caller_that_ends_its_side_with_its_request_is_answered_on_a_miss_as_on_a_hit() {
    let house = slow_house(500, "");
    for round in ["miss", "hit"] {
        let mut callers = connect(house.address(), 1);
        // The second one waits behind the first, and for a key of its own.
        let both = [0, 1].map(|n| http::token_request(&resource(n))).concat();
        callers[0].write_all(&both).expect("an open connection");
        callers[0].shutdown(Shutdown::Write).expect("a half-close");
        for number in [0, 1] {
            let answer = http::read_answer(&mut callers[0]).expect(round);
            assert_eq!(audience_of(&answer), resource(number), "{round}");
        }
        let mut rest = Vec::new();
        callers[0].read_to_end(&mut rest).expect("a clean end");
        assert!(rest.is_empty(), "{round}");
    }
    assert_eq!(house.emulator.counts().total, 2);
}

#[test]
fn no_call_is_made_for_a_caller_that_hung_up_while_its_call_was_queued() {
    let house = slow_house(1000, "max_in_flight = 1\nmax_per_second = 1000\n");
    let mut callers = connect(house.address(), 2);
    ask(&mut callers[..1], resource);
    until("the first call flies", || {
        house.emulator.counts().total == 1
    });
    ask(&mut callers[1..], |_| resource(1));
    until("the second one is queued", || counted(&house) == 2);
    // Longer than a client takes that only ends its side; the first call is still under way.
    std::thread::sleep(Duration::from_millis(300));
    callers.truncate(1);
    assert_eq!(audience_of(&answers(&mut callers)[0]), resource(0));
    // Whatever was queued went before this one.
    ask(&mut callers, |_| resource(2));
    assert_eq!(audience_of(&answers(&mut callers)[0]), resource(2));
    let counts = house.emulator.counts();
    assert_eq!(counts.calls_for("system", &resource(1)), 0);
    assert_eq!(counts.total, 2);
}

#[test]
fn callers_that_ended_their_side_are_held_in_small_numbers_only() {
    // Far more than the two workers of a house hold.
    const MANY: usize = 400;
    let house = slow_house(9000, WIDE);
    let mut callers = connect(house.address(), MANY);
    let padding = vec![b'x'; 40_000];
    for (nth, caller) in callers.iter_mut().enumerate() {
        caller.write_all(&http::token_request("r")).expect("open");
        if nth % 2 == 0 {
            // More than is taken early, behind which its leaving would not be seen. The server may
            // have closed already.
            let _ = caller.write_all(&padding);
        }
        let _ = caller.shutdown(Shutdown::Write);
    }
    let answers = callers.iter_mut().map(http::read_answer);
    let statuses = answers.filter_map(|answer| Some(answer.ok()?.status));
    let (served, full): (Vec<_>, Vec<_>) = statuses.partition(|status| *status == 200);
    let held = 64 * 2;
    assert!((1..=held).contains(&served.len()), "{}", served.len());
    assert!(full.iter().all(|status| *status == 503), "{full:?}");
    assert!(full.len() > MANY / 4, "{}", full.len());
    assert_eq!(house.emulator.counts().total, 1);
}

#[test]
fn a_failure_is_shared_by_the_callers_of_its_flight_and_the_next_one_leads_again() {
    let house = slow_house(700, "");
    house
        .emulator
        .set_fault(Some(Fault::always(FaultKind::Status {
            status: 500,
            retry_after_s: None,
        })));
    let mut callers = connect(house.address(), 50);
    ask(&mut callers, |_| resource(0));
    until("every caller waits", || counted(&house) == 50);
    for answer in answers(&mut callers) {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("1"));
        let words = answer.json()["error_description"].to_string();
        assert!(words.contains("server_error"), "{words}");
    }
    assert_eq!(house.emulator.counts().total, 1);

    house.emulator.set_fault(None);
    house.emulator.set_latency_ms(0);
    // Who asks at once is told the same, without a call; in a moment it leads again.
    until("the key heals", || {
        http::token(house.address(), &resource(0)).status == 200
    });
    assert_eq!(house.emulator.counts().total, 2);
}

/// Calls may be late on a busy machine, and then bunch up at the emulator, but none is early: so
/// they are counted from a moment before the first. And with an upstream this slow, four at once
/// cannot exceed its 20 a second however they bunch up; more than four at once would.
#[test]
fn forty_cold_keys_stay_within_the_budget_and_are_never_throttled() {
    let emulator = foretoken_emulator::Settings {
        latency_ms: 240,
        limits: Limits::default(),
        ..emulator_settings()
    };
    let house = House::start_with(emulator, "");
    let mut callers = connect(house.address(), 40);
    let before = Clock::system().now().0;
    ask(&mut callers, resource);
    for (caller, answer) in answers(&mut callers).iter().enumerate() {
        assert_eq!(audience_of(answer), resource(caller));
    }
    let counts = house.emulator.counts();
    assert_eq!((counts.token_calls, counts.throttled), (40, 0));
    assert!(counts.peak_concurrency <= 4, "{}", counts.peak_concurrency);
    let within = |ms| {
        let arrivals = counts.arrivals_unix_ms.iter();
        arrivals.filter(|at| **at < before + ms).count()
    };
    assert!(within(1000) <= 15, "{} in the first second", within(1000));
    assert!(within(2000) <= 30, "{} in two seconds", within(2000));
}

/// The emulator counts as the real one does: 20 calls in a second, 5 at once.
#[test]
fn two_hundred_cold_keys_at_once_are_never_throttled_and_all_answered_in_twenty_seconds() {
    let limited = || foretoken_emulator::Settings {
        latency_ms: 200,
        limits: Limits::default(),
        ..emulator_settings()
    };
    let alone = foretoken_emulator::Emulator::start(limited()).expect("an emulator");
    let mut callers = connect(alone.address(), 200);
    ask(&mut callers, resource);
    let refused = answers(&mut callers);
    let refused = refused.iter().filter(|answer| answer.status == 429).count();

    let house = House::start_with(limited(), "");
    let mut callers = connect(house.address(), 200);
    let begin = Clock::system().now();
    ask(&mut callers, resource);
    for (caller, answer) in answers(&mut callers).iter().enumerate() {
        assert_eq!(audience_of(answer), resource(caller));
    }
    let took = Clock::system().now().since(begin);
    let counts = house.emulator.counts();
    println!(
        "straight: {refused} of 200 get 429; through Foretoken: {} in {took} ms",
        counts.throttled
    );
    assert_eq!((counts.token_calls, counts.throttled), (200, 0));
    assert!(took < 20_000 && refused > 0, "{took} ms, {refused}");
}

#[test]
fn every_request_has_exactly_one_outcome() {
    let house = slow_house(50, "");
    let address = house.address();
    let mut sent = 0;
    // Misses and followers.
    let mut callers = connect(address, 30);
    ask(&mut callers, |caller| resource(caller % 3));
    let tokens: Vec<_> = answers(&mut callers).iter().map(token_of).collect();
    sent += tokens.len();
    // Hits.
    for (key, token) in tokens[..3].iter().enumerate() {
        assert_eq!(token_of(&http::token(address, &resource(key))), *token);
        sent += 1;
    }
    // Refused by us: by the guard, the endpoint's rules, its path, and for want of a path at all.
    let many_headers = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X: 1\r\n".repeat(80)
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (
            "GET /metadata/identity/oauth2/token HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        ("GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (
            "GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (&many_headers, 431),
    ] {
        let answer = http::send(address, request.as_bytes()).expect("an answer");
        assert_eq!(answer.status, status, "{request}");
        sent += 1;
    }
    // A miss that the upstream fails.
    house
        .emulator
        .set_fault(Some(Fault::times(FaultKind::Reset, 1)));
    assert_eq!(http::token(address, &resource(9)).status, 503);
    sent += 1;

    let samples = scrape(house.app.admin_address());
    let outcome = |name| sum(&samples, "foretoken_requests_total", Some(name));
    assert_eq!(outcome("miss"), 4);
    assert_eq!(outcome("refused"), 5);
    assert_eq!(outcome("hit") + outcome("coalesced"), 30);
    assert_eq!(counted(&house), sent as u64);
    assert_eq!(
        sum(&samples, "foretoken_refusals_total", None),
        6,
        "every error answer has a reason"
    );
}
