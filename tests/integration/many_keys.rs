//! The worker alone, with very many keys over a month: nothing but its own events and its own clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use foretoken::cache::serve_until;
use foretoken::clock::UnixMs;
use foretoken::refresh::{Action, Event, Settings, Step, Worker, schedule};
use foretoken::token::Lifetime;

const HOUR_MS: u64 = 3_600_000;
const LIFE_MS: u64 = 24 * HOUR_MS;
const MONTH_MS: u64 = 30 * 24 * HOUR_MS;
/// 2026-01-01, so that nothing depends on the epoch being near.
const START: UnixMs = UnixMs(1_767_225_600_000);
const LATENCY_MS: u64 = 50;

/// How many keys there are; `./recipes month` has more.
fn keys() -> usize {
    let asked = std::env::var("FORETOKEN_MONTH_KEYS").ok();
    asked.map_or(2000, |keys| keys.parse().expect("a number of keys"))
}

fn token_of_a_day(received_at: UnixMs) -> Lifetime {
    Lifetime {
        received_at,
        expires_on_s: received_at.plus(LIFE_MS).as_secs(),
        not_before_s: None,
        refresh_in_s: None,
    }
}

/// The worker, what it holds as we see it, and the calls under way.
struct Month {
    worker: Worker,
    held: Vec<Lifetime>,
    landings: BinaryHeap<Reverse<(UnixMs, u64)>>,
    calls: u64,
    urgent: u64,
    over: u64,
    least_left_ms: u64,
}

impl Month {
    fn take(&mut self, now: UnixMs, step: Step) -> Option<UnixMs> {
        for action in step.actions {
            let Action::Fetch(id) = action else {
                panic!("{action:?}: all keys are in use and the upstream is well")
            };
            let held = &self.held[index(id)];
            self.calls += 1;
            self.urgent += u64::from(now >= schedule::urgent_from(held));
            self.over += u64::from(now >= serve_until(held));
            self.least_left_ms = self.least_left_ms.min(held.expires_at().since(now));
            self.landings.push(Reverse((now.plus(LATENCY_MS), id)));
        }
        step.wake_at
    }
}

fn index(id: u64) -> usize {
    usize::try_from(id).expect("an index")
}

#[test]
fn no_window_of_any_key_is_missed_in_a_month() {
    let keys = keys();
    let settings = Settings {
        seed: 97,
        ..Settings::default()
    };
    let mut month = Month {
        worker: Worker::new(settings),
        held: Vec::new(),
        landings: BinaryHeap::new(),
        calls: 0,
        urgent: 0,
        over: 0,
        least_left_ms: u64::MAX,
    };
    let mut wake_at = None;
    // As after a restart: tokens of every age up to a third of their life.
    for id in 0..keys {
        let age = LIFE_MS / 3 * id as u64 / keys as u64;
        let lifetime = token_of_a_day(START.minus(age));
        month.held.push(lifetime);
        let event = Event::Restored(id as u64, lifetime, START);
        let step = month.worker.step(START, event);
        wake_at = month.take(START, step);
    }
    let mut now = START;
    while now < START.plus(MONTH_MS) {
        let landing = month.landings.peek().map(|Reverse((at, _))| *at);
        let next = [landing, wake_at].into_iter().flatten().min();
        now = next.expect("there is always something to do").max(now);
        if landing == Some(now) {
            let Some(Reverse((_, id))) = month.landings.pop() else {
                continue;
            };
            let lifetime = token_of_a_day(now);
            month.held[index(id)] = lifetime;
            // Somebody has used it since it was fetched last.
            let step = month.worker.step(now, Event::Used(id, now));
            month.take(now, step);
            let step = month.worker.step(now, Event::Fetched(id, lifetime, false));
            wake_at = month.take(now, step);
        } else {
            let step = month.worker.step(now, Event::Woken);
            wake_at = month.take(now, step);
        }
    }
    let ended = month.held.iter().filter(|held| now >= serve_until(held));
    assert_eq!(ended.count(), 0, "keys were forgotten");
    let lives = month.calls / keys as u64;
    println!(
        "{keys} keys: {} calls in a month, {lives} for each, {} urgent, {} over; never less than \
         {} min left",
        month.calls,
        month.urgent,
        month.over,
        month.least_left_ms / 60_000
    );
    assert_eq!((month.urgent, month.over), (0, 0));
    // At half of the life at the latest, and what the budget takes.
    assert!(month.least_left_ms >= LIFE_MS / 2 - 600_000);
    assert!((59..=66).contains(&lives), "{lives}");
}
