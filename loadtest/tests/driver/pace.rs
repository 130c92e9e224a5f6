//! A server that stands still for a second: an open loop shows it in the percentiles, a closed
//! loop in its four links only.

use std::time::{Duration, Instant};

use foretoken_load::{Driven, Length, Pace, Plan, Target, drive};

use crate::fake::{Act, Fake, Token};

const PER_S: u32 = 200;
const LINKS: usize = 4;
const STALL: Duration = Duration::from_secs(1);
/// What no answer takes here but for the stall.
const SLOW: Duration = Duration::from_millis(250);

/// Three seconds, in the second of which nothing is answered.
fn stalled(pace: Pace) -> Driven {
    let start = Instant::now();
    let from = start + Duration::from_secs(1);
    let fake = Fake::start(move |_, _| {
        let until = from + STALL;
        let now = Instant::now();
        if (from..until).contains(&now) {
            std::thread::sleep(until - now);
        } else {
            // A closed loop should not fill its histogram by the hundred thousand.
            std::thread::sleep(Duration::from_millis(2));
        }
        Act::Send(Token::RIGHT.answer())
    });
    let plan = Plan {
        pace,
        links: LINKS,
        threads: 2,
        length: Length::For(Duration::from_secs(3)),
        ..Plan::new(Target::Tcp(fake.address))
    };
    let driven = drive(&plan, |_| {}).unwrap();
    assert_eq!(driven.counts.right, driven.counts.requests());
    driven
}

#[test]
fn a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() {
    let open = stalled(Pace::Open { per_s: PER_S });
    assert_eq!(open.counts.right, u64::from(3 * PER_S), "all that were due");
    // Of the 200 that fell due in the stall, those of its first three quarters waited for 250 ms
    // or more; and so did those behind them until the backlog was gone.
    let slow = open.latency.at_least(SLOW);
    assert!(slow >= 145, "{slow}");
    let p99 = open.latency.percentiles().p99;
    assert!(p99 >= 800_000.0, "{p99}");
    // Measured from when they were sent, as many tools do it, hardly any was slow.
    let seen = open.service.at_least(SLOW);
    assert!(seen <= 2 * LINKS as u64, "{seen}");

    let closed = stalled(Pace::Closed);
    let slow = closed.latency.at_least(SLOW);
    assert!((1..=2 * LINKS as u64).contains(&slow), "{slow}");
}

#[test]
fn what_could_not_be_sent_in_time_is_not_forgotten() {
    let fake = Fake::start(|_, _| Act::Send(String::new()));
    let plan = Plan {
        pace: Pace::Open { per_s: 100 },
        length: Length::For(Duration::from_millis(500)),
        timeout: Duration::from_secs(1),
        ..Plan::new(Target::Tcp(fake.address))
    };
    let counts = drive(&plan, |_| {}).unwrap().counts;
    assert_eq!(counts.requests(), 50);
    assert!(
        counts.failed["timed_out"] >= 1 && counts.failed["unsent"] >= 40,
        "{counts:?}"
    );
}

#[test]
fn the_warm_up_is_counted_apart() {
    let fake = Fake::start(|number, _| {
        let wrong = Token {
            aud: "https://other",
            ..Token::RIGHT
        };
        let token = if number < 10 { wrong } else { Token::RIGHT };
        Act::Send(token.answer())
    });
    let plan = Plan {
        pace: Pace::Open { per_s: 100 },
        warm_up: Duration::from_millis(500),
        length: Length::Requests(30),
        ..Plan::new(Target::Tcp(fake.address))
    };
    let driven = drive(&plan, |_| {}).unwrap();
    assert_eq!((driven.counts.right, driven.counts.requests()), (30, 30));
    assert_eq!(
        (driven.warm_up.right, driven.warm_up.wrong["audience"]),
        (40, 10)
    );
    assert_eq!(driven.latency.percentiles().count, 30);
}
