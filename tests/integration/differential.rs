//! The connection loop beside hyper: the same heads, the same handler, the same answers.
//!
//! Whatever the loop adds to the handler (reading heads and forms, waiting for a flight, writing
//! bytes, remembering targets) hyper and a worker that remembers nothing do once more, in front of
//! a cache of the same content and by the same clock. Every request that the loop's strict reader
//! accepts must get the same status, header names and values, and body from both; `Date` and
//! `Connection` aside, which belong to the connection. The shipped program has no token path
//! through hyper (`tests/tidy.rs`).
//!
//! `FORETOKEN_DIFFERENCES` sets how many generated streams are played, `FORETOKEN_SEED` from which
//! seed.

mod answers;
mod compare;
mod mutate;
mod oracle;
mod ours;
mod streams;

use crate::under_fire::size;
use compare::{Pair, Tally};
use streams::Stream;

const STREAMS: &str = "FORETOKEN_DIFFERENCES";
const SEED: &str = "FORETOKEN_SEED";

fn play(name: &str, streams: impl Iterator<Item = Stream>) -> Tally {
    let mut pair = Pair::start();
    let mut tally = Tally::default();
    for stream in streams {
        pair.play(&stream, &mut tally);
    }
    pair.stop();
    println!("{name}: {tally}");
    assert_eq!(
        tally.refused_by_hyper, 0,
        "more lenient than hyper: {tally}"
    );
    let (wrong, all) = (tally.differences.len(), tally.compared());
    assert!(
        wrong == 0,
        "{wrong} differences in {all} answers; the first:\n{}",
        tally
            .differences
            .iter()
            .take(5)
            .cloned()
            .collect::<String>()
    );
    tally
}

#[test]
fn recorded_requests_get_the_same_answers_through_the_loop_and_through_hyper() {
    let tally = play("recordings", streams::recorded());
    // 477 requests, those of App Service in its older form on two listeners; each of them twice.
    assert_eq!(tally.refused_by_us, 0, "{tally}");
    assert!(tally.compared() >= 1000, "{tally}");
    for dialect in foretoken::protocol::Dialect::ALL {
        assert!(tally.of(dialect.as_str(), 200) >= 10, "{tally}");
    }
    assert!(tally.of("arc", 401) >= 50, "{tally}");
}

#[test]
fn the_corpus_gets_the_same_answers_through_the_loop_and_through_hyper() {
    let tally = play("corpus", streams::corpus());
    assert!(tally.compared() >= 600, "{tally}");
    assert!(tally.refused_by_us >= 200, "{tally}");
    assert!(tally.refused_by_both >= 100, "{tally}");
}

#[test]
fn generated_requests_get_the_same_answers_through_the_loop_and_through_hyper() {
    let (count, seed): (usize, u64) = (size(STREAMS, 4000), size(SEED, 8));
    println!("seed {seed}");
    let tally = play("generated", streams::generated(seed).take(count));
    let floor = |least: usize| least * count.min(4000) / 4000;
    assert!(tally.compared() >= floor(6000), "{tally}");
    for dialect in foretoken::protocol::Dialect::ALL {
        assert!(tally.of(dialect.as_str(), 200) >= floor(100), "{tally}");
    }
    for status in [400, 401, 403, 404, 405, 411] {
        assert!(tally.of_status(status) >= floor(10), "{status}: {tally}");
    }
}
