//! Loom models of the clock: a step is published while a request looks at the time.
//!
//! The hands of the clocks themselves are no part of a model: they move between two of its steps.

use loom::thread;

use super::{Clock, UnixMs};

const NOON: UnixMs = UnixMs(1_767_225_600_000);
const DAY_MS: u64 = 86_400_000;

/// One thread steps the wall clock by so much and has it looked into, while another reads the time:
/// what that read, and what the wall clock showed before it did.
fn read_during_a_step(by_ms: i64, check: impl Fn(UnixMs, UnixMs) + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let (clock, crank) = Clock::cranked(NOON);
        let reading = {
            let clock = clock.clone();
            thread::spawn(move || {
                let wall = clock.0.source.wall();
                check(wall, clock.now());
            })
        };
        crank.step(by_ms);
        let seen = clock.observe();
        reading.join().unwrap();
        // Nothing is left of the race.
        assert_eq!(clock.now(), seen.now);
    });
}

#[test]
fn x7_an_entry_that_the_wall_clock_has_ended_by_a_step_is_over_for_whoever_sees_the_step() {
    read_during_a_step(DAY_MS.cast_signed(), |wall, now| {
        let serve_until = NOON.plus(DAY_MS / 2);
        // One that looked just before the step may still serve it.
        assert!(wall < serve_until || now >= serve_until);
        assert!(now >= NOON, "earlier than either clock");
    });
}

#[test]
fn x7_a_step_back_takes_the_time_of_no_reader_back() {
    read_during_a_step(-DAY_MS.cast_signed(), |_, now| assert!(now >= NOON));
}

#[test]
fn x7_a_step_that_is_believed_is_seen_whole_or_not_at_all() {
    const STEP_MS: u64 = 120_000;
    read_during_a_step(STEP_MS.cast_signed(), |wall, now| {
        assert!(now >= wall, "earlier than the wall clock");
        // Somebody who finds it half published counts it twice: too late for a moment, which
        // costs a look at the upstream and serves nothing that is over.
        assert!(now <= NOON.plus(2 * STEP_MS));
    });
}

#[test]
fn x7_after_a_decision_the_time_is_that_of_one_of_the_clocks() {
    loom::model(|| {
        let (clock, crank) = Clock::cranked(NOON);
        crank.step(DAY_MS.cast_signed());
        let _ = clock.observe();
        let reading = {
            let clock = clock.clone();
            thread::spawn(move || {
                let now = clock.now();
                assert!([NOON, NOON.plus(DAY_MS)].contains(&now), "{now:?}");
            })
        };
        let sent = clock.boot();
        clock.learn(NOON, sent);
        reading.join().unwrap();
        assert!(clock.now() < NOON.plus(1000));
    });
}
