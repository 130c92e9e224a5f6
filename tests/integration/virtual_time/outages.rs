//! An upstream that is gone, throttles, refuses or is being updated: what its callers notice.

use std::collections::VecDeque;
use std::time::Duration;

use foretoken::store::machine::Machine;

use super::*;
use crate::support::metrics::{parse, sum};

/// A world in which a thousand keys with tokens of a day came into use one after the other over
/// half a day, and have been asked for ever since; its upstream dies now, for six hours.
fn six_hours_after(begin_h: u64, upstream: Upstream, settings: Settings) -> (World, Vec<String>) {
    let mut world = World::with(upstream, settings);
    let keys: Vec<String> = (0..1000).map(|i| format!("https://{i}.example")).collect();
    for key in &keys {
        world.ask(key);
        world.run_until(world.now.plus(12 * HOUR_MS / 1000));
    }
    let begin = START.plus(begin_h * HOUR_MS);
    world.upstream.outage = begin..begin.plus(6 * HOUR_MS);
    while world.now < begin {
        for key in &keys {
            world.served(key);
        }
        world.run_until(begin.min(world.now.plus(HOUR_MS / 2)));
    }
    (world, keys)
}

/// Asks for every key each ten minutes until the outage ends, and in its last millisecond: the
/// requests that were served, and the keys of which one was not.
fn through_the_outage(world: &mut World, keys: &[String]) -> (usize, BTreeSet<String>) {
    let end = world.upstream.outage.end;
    let (mut served, mut failed) = (0, BTreeSet::new());
    loop {
        for key in keys {
            match world.ask(key) {
                Asked::Served { .. } => served += 1,
                Asked::Waiting(_) => drop(failed.insert(key.clone())),
            }
        }
        if world.now >= end.minus(1) {
            return (served, failed);
        }
        world.run_until(end.minus(1).min(world.now.plus(600_000)));
    }
}

#[test]
fn six_hours_without_an_upstream_fail_no_request_of_a_thousand_keys() {
    // A token that is given again until 4.8 h are left holds through six hours in most phases of
    // its life: on the third day here, when all are in their third life and none is far in it.
    for (repeat_above, begin_h) in [(1.0, 59), (0.2, 56)] {
        let upstream = Upstream {
            repeat_above,
            ..Upstream::new(24 * HOUR_MS)
        };
        let settings = Settings {
            seed: 47,
            ..Settings::default()
        };
        let (mut world, keys) = six_hours_after(begin_h, upstream, settings);
        let before = world.upstream.calls.len();
        let (served, failed) = through_the_outage(&mut world, &keys);
        let tries = world.upstream.calls.len() - before;
        println!(
            "repeated above {repeat_above}: {served} served, {} failed, {tries} calls in the outage",
            failed.len()
        );
        assert!(failed.is_empty(), "{failed:?}");
        let lives = world.upstream.issued.values().map(|(number, _)| *number);
        assert!(lives.min() >= Some(3), "tokens of a later life");
        assert!(world.most_in_flight <= 4 && world.upstream.most_calls_in_a_second() <= 15);
    }
}

#[test]
fn keys_that_cannot_survive_the_outage_are_told_as_such_before_it_begins() {
    const FLOOR_MS: u64 = 6 * HOUR_MS;
    let upstream = Upstream {
        repeat_above: 0.2,
        ..Upstream::new(24 * HOUR_MS)
    };
    let settings = Settings {
        outage_to_survive_ms: FLOOR_MS,
        seed: 48,
        ..Settings::default()
    };
    let (mut world, keys) = six_hours_after(60, upstream, settings);
    let mut work = Work::default();
    world.writer.survey(world.now, &mut work);
    let told = parse(&world.metrics.render()).expect("the metrics");
    let below = sum(&told, "foretoken_keys_below_floor", None);
    let runway_s = sum(&told, "foretoken_runway_seconds", None);
    let slots = world.cache.slots();
    let ends = slots
        .iter()
        .filter_map(|slot| Some((slot.key().resource.to_string(), slot.entry()?.serve_until)));
    let first = ends.clone().map(|(_, until)| until).min();
    let left_ms = first.expect("entries").since(world.now);
    assert_eq!(runway_s, left_ms / 1000);
    let doomed: BTreeSet<_> = ends
        .filter(|(_, until)| until.since(world.now) < FLOOR_MS)
        .map(|(key, _)| key)
        .collect();
    let (served, failed) = through_the_outage(&mut world, &keys);
    println!("{below} keys below the floor, runway {runway_s} s, {served} served");
    assert!((1..500).contains(&failed.len()), "{}", failed.len());
    assert_eq!(failed, doomed);
    assert_eq!(below, failed.len() as u64);
}

#[test]
fn a_thousand_expired_keys_are_fresh_ninety_seconds_after_recovery_and_within_the_budget() {
    for latency_ms in [50, 250] {
        let mut world = World::new(Upstream::new(HOUR_MS), 53);
        let keys: Vec<String> = (0..1000).map(|i| format!("https://{i}.example")).collect();
        for key in &keys {
            world.ask(key);
            world.run_until(world.now.plus(100));
        }
        let end = START.plus(3 * HOUR_MS);
        world.upstream.outage = START.plus(HOUR_MS / 4)..end;
        while world.now < end {
            world.run_until(end.min(world.now.plus(600_000)));
            for key in &keys {
                world.ask(key);
            }
        }
        let expired = keys
            .iter()
            .filter(|key| matches!(world.ask(key), Asked::Waiting(_)));
        assert_eq!(expired.count(), 1000, "all have run out");
        world.upstream.latency_ms = latency_ms;
        let before = world.upstream.calls.len();
        world.run_until(end.plus(90_000));
        let fresh = world
            .cache
            .slots()
            .iter()
            .filter_map(|slot| slot.entry())
            .filter(|entry| entry.serve_until > world.now)
            .count();
        let done = world.upstream.calls.last().map_or(0, |at| at.since(end));
        println!(
            "at {latency_ms} ms: {fresh} fresh, the last call {done} ms after recovery, {} calls",
            world.upstream.calls.len() - before
        );
        assert_eq!(fresh, 1000);
        assert!(world.most_in_flight <= 4 && world.upstream.most_calls_in_a_second() <= 15);
    }
}

#[test]
fn tokens_in_their_last_minute_are_renewed_after_an_outage_before_they_run_out() {
    let mut world = World::new(Upstream::new(3 * HOUR_MS + 60_000), 67);
    let last: Vec<String> = (0..100)
        .map(|i| format!("https://last.example/{i}"))
        .collect();
    let over: Vec<String> = (0..1000).map(|i| format!("https://{i}.over")).collect();
    // All at once, and so with nearly the same end; a caller who leaves would take its call along.
    let callers: Vec<_> = last.iter().map(|key| world.ask(key)).collect();
    world.run_until(START.plus(10_000));
    drop(callers);
    world.upstream.life_ms = HOUR_MS;
    for key in &over {
        world.ask(key);
        world.run_until(world.now.plus(100));
    }
    let end = START.plus(3 * HOUR_MS);
    world.upstream.outage = START.plus(HOUR_MS / 4)..end;
    while world.now < end {
        for key in last.iter().chain(&over) {
            world.ask(key);
        }
        world.run_until(end.min(world.now.plus(60_000)));
    }
    let slots = world.cache.slots();
    let untils = slots
        .iter()
        .filter(|slot| slot.key().resource.as_str().starts_with("https://last."))
        .filter_map(|slot| slot.entry())
        .map(|entry| entry.serve_until.since(end));
    let first_ms = untils.min().expect("entries");
    assert!((40_000..=46_000).contains(&first_ms), "{first_ms}");
    let mut waits = BTreeMap::new();
    while world.now < end.plus(90_000) {
        for key in &last {
            if matches!(world.ask(key), Asked::Waiting(_)) {
                *waits.entry(key).or_insert(0) += 1;
            }
        }
        world.run_until(world.now.plus(1000));
    }
    println!("the first would have run out {first_ms} ms after recovery; {waits:?}");
    assert!(waits.is_empty(), "{} ran out", waits.len());
}

/// Asks at once and again each 200 ms: when that was first served, if it was before `until`.
fn first_served(world: &mut World, key: &str, until: UnixMs) -> Option<UnixMs> {
    while world.now < until {
        if let Asked::Served { .. } = world.ask(key) {
            return Some(world.now);
        }
        world.run_until(world.now.plus(200));
    }
    None
}

#[test]
fn a_refused_key_is_served_six_seconds_after_the_upstream_has_healed() {
    const KEY: &str = "https://a.example";
    for (class, status) in [(Class::Denied, 400), (Class::NotFound, 404)] {
        for was_warm in [false, true] {
            let mut slowest = 0;
            for round in 0..25 {
                let mut world = World::new(Upstream::new(HOUR_MS), 71 + round);
                world.upstream.trouble = trouble(class, Some(status));
                let mut begin = START;
                if was_warm {
                    world.warm(KEY);
                    begin = START.plus(HOUR_MS + 20_000);
                }
                // Over all the phases of its pauses.
                let healed = begin.plus(20_000 + 411 * round);
                world.upstream.outage = START.plus(21_000 * u64::from(was_warm))..healed;
                while was_warm && world.now < START.plus(HOUR_MS - 25_000) {
                    world.run_until(world.now.plus(5000));
                    world.served(KEY);
                }
                world.run_until(world.now.max(begin.minus(20_000)));
                assert_eq!(first_served(&mut world, KEY, healed), None);
                let served = first_served(&mut world, KEY, healed.plus(60_000));
                let took = served.expect("served again").since(healed);
                slowest = slowest.max(took);
                assert!(took <= 6000, "{class:?}, warm {was_warm}: {took} ms");
            }
            println!("{class:?}, warm {was_warm}: within {slowest} ms");
        }
    }
}

#[test]
fn nothing_that_the_upstream_refused_is_stored() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = store::Settings {
        mode: store::Mode::Sealed,
        engine: store::Engine::Sled,
        path: folder.path().join("store"),
        key: folder.path().join("foretoken.key"),
        credentials: None,
    };
    let (clock, _crank) = Clock::cranked(START);
    let open = || Store::open(&settings, &Machine::read(), &clock).expect("nobody else uses it");
    let store = open().store;
    let rules = Settings {
        seed: 73,
        ..Settings::default()
    };
    let mut world = World::over(store.clone(), Upstream::new(HOUR_MS), rules);
    world.warm("https://good.example");
    world.upstream.outage = world.now..UnixMs(u64::MAX);
    for (class, status) in [(Class::Denied, 400), (Class::NotFound, 404)] {
        world.upstream.trouble = trouble(class, Some(status));
        let key = format!("https://{status}.example");
        let until = world.now.plus(20_000);
        assert_eq!(first_served(&mut world, &key, until), None);
    }
    assert!(world.upstream.calls.len() >= 5, "it was asked all along");
    assert!(store.close(Duration::from_secs(10)));
    let found = open();
    let keys = found.restored.iter().map(|it| it.key.resource.as_str());
    assert!(keys.eq(["https://good.example"]));
    assert_eq!(found.refused, store::Refused::default());
}

#[test]
fn ten_thousand_callers_of_one_cold_key_are_told_in_time_and_cost_a_call_for_each_pause() {
    const KEY: &str = "https://a.example";
    const DEADLINE_MS: u64 = 20_000;
    // The upstream cannot be reached, fails at once, or hangs until the call's own deadline.
    for (class, latency_ms) in [
        (Class::Unreachable, 1),
        (Class::ServerError, 50),
        (Class::Timeout, 10_000),
    ] {
        let mut world = World::new(Upstream::new(HOUR_MS), 79);
        world.upstream.trouble = trouble(class, None);
        world.upstream.latency_ms = latency_ms;
        let healed = START.plus(60_000);
        world.upstream.outage = START..healed;
        // Half of them at once, the others one by one.
        let mut waiting: VecDeque<_> = (0..5000).map(|_| (world.now, world.ask(KEY))).collect();
        let (mut told, mut slowest) = (0, 0);
        while world.now < healed {
            waiting.push_back((world.now, world.ask(KEY)));
            world.run_until(world.now.plus(12));
            // They wait for the same flights in the order in which they came.
            while let Some((asked, caller)) = waiting.front_mut() {
                let Asked::Waiting(waiter) = caller else {
                    panic!("there is no token")
                };
                let held_ms = world.now.since(*asked);
                match poll(waiter) {
                    Some(Landing::Failed(_)) => drop(waiting.pop_front()),
                    None => {
                        assert!(held_ms <= DEADLINE_MS, "{class:?}: {held_ms} ms");
                        break;
                    }
                    Some(other) => panic!("{other:?}"),
                }
                (told, slowest) = (told + 1, slowest.max(held_ms));
            }
        }
        let calls: Vec<_> = world.upstream.calls.clone();
        println!(
            "{class:?}: {told} told within {slowest} ms, {} calls",
            calls.len()
        );
        assert!(told + waiting.len() == 10_000 && waiting.len() < 2000);
        assert!(calls.len() >= 3);
        let pauses = calls.windows(2).map(|pair| pair[1].since(pair[0]));
        assert!(pauses.min() >= Some(1000 + latency_ms), "{calls:?}");
        // And when it is over, it is over for all.
        world.upstream.latency_ms = 50;
        // A call under way still fails, and then the upstream is probed within 15 s.
        let served = first_served(&mut world, KEY, healed.plus(60_000));
        let took = served.expect("served in the end").since(healed);
        assert!(took <= latency_ms + 15_000 + 500, "{class:?}: {took} ms");
        while let Some((_, Asked::Waiting(mut waiter))) = waiting.pop_front() {
            assert!(poll(&mut waiter).is_some(), "somebody was forgotten");
        }
    }
}

/// A token of ten minutes is renewed when its last minute begins.
fn in_the_last_minute(lifetime: &Lifetime, _floor_ms: u64, _jitter: f64) -> UnixMs {
    lifetime.expires_at().minus(60_000)
}

#[test]
fn an_update_of_seventy_seconds_is_asked_after_in_steps_of_ten_and_over_ten_seconds_later() {
    let settings = Settings {
        rules: Rules {
            due_at: in_the_last_minute,
            ..Rules::default()
        },
        seed: 83,
        ..Settings::default()
    };
    let (warm, cold) = ("https://warm.example", "https://cold.example");
    let mut world = World::with(Upstream::new(600_000), settings);
    world.warm(warm);
    let ends = world.upstream.issued[warm].1;
    let begin = ends.minus(60_000);
    let healed = begin.plus(70_000);
    world.upstream.trouble = trouble(Class::Updating, Some(410));
    world.upstream.outage = begin..healed;
    world.run_until(begin);
    let serve_until = world.cache.slots()[0]
        .entry()
        .expect("an entry")
        .serve_until;
    let (mut again, mut told) = (BTreeMap::new(), 0);
    while again.len() < 2 {
        assert!(world.now < healed.plus(10_000), "{again:?}");
        for key in [warm, cold] {
            match world.ask(key) {
                Asked::Served { token, .. } => {
                    if world.now >= healed {
                        again.entry(key).or_insert(world.now);
                    } else {
                        assert_eq!(token, format!("{warm}#1"));
                    }
                }
                Asked::Waiting(mut waiter) => {
                    let is_over = world.now >= serve_until;
                    assert!(key == cold || is_over, "a token that holds was not served");
                    if let Some(Landing::Failed(error)) = poll(&mut waiter) {
                        assert_eq!(error.class, Class::Updating);
                        told += 1;
                    }
                }
            }
        }
        world.run_until(world.now.plus(100));
    }
    let calls = world.upstream.calls.iter().filter(|at| **at >= begin);
    let calls: Vec<_> = calls.map(|at| at.since(begin)).collect();
    println!("calls at {calls:?} ms, {told} callers told, again at {again:?}");
    assert!(told > 100);
    // Five show that it is not one sick key; what follows is a probe each ten seconds.
    let down: Vec<_> = calls.into_iter().filter(|ms| *ms < 70_000).collect();
    assert!((11..=13).contains(&down.len()), "{down:?}");
    let mut steps = down[4..].windows(2).map(|pair| pair[1] - pair[0]);
    assert!(steps.all(|ms| (10_000..10_100).contains(&ms)), "{down:?}");
}
