//! Clocks that are wrong, stand still and are put right: the real cache, flights, writer and worker
//! on a wall clock and a boot-time clock that the test moves apart, judged by a third, the truth.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foretoken::app::App;
use foretoken::authz::{Caller, Policy};
use foretoken::cache::{Asked as Wish, Cache, Found, KeyId, Landing, Turn, View, Waiter};
use foretoken::clock::{Boot, Clock, Crank, UnixMs};
use foretoken::protocol::Shape;
use foretoken::refresh::{Rules, Settings, Work, Writer};
use foretoken::store::{Restored, Store};
use foretoken::telemetry::metrics::Metrics;
use foretoken::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};
use foretoken::upstream::{Class, Client, FetchError, Kind};
use foretoken_emulator::{Emulator, Fault, FaultKind};
use rustix::process::Signal;

use crate::support::jwt::token_of;
use crate::support::metrics::{scrape, sum};
use crate::support::process::{Served, write_config};
use crate::support::source::{emulator_of, settings_before};
use crate::support::wait::until;
use crate::support::{emulator_settings, http, settings, tcp};

const PLAIN: Wish = Wish {
    shape: Shape::Metadata,
    force: None,
};
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2026-01-01.
const START: UnixMs = UnixMs(1_767_225_600_000);

/// An upstream that knows the truth.
struct Upstream {
    life_ms: u64,
    latency_ms: u64,
    /// It does not answer at all.
    is_dead: bool,
    /// It says what time it is.
    is_dated: bool,
    issued: BTreeMap<String, (u64, UnixMs)>,
    /// When calls began, by boot time.
    calls: Vec<(u64, String)>,
}

/// What is on its way: the resource, and when it was asked for.
struct Question {
    resource: String,
    sent: Boot,
}

struct World {
    truth: UnixMs,
    clock: Clock,
    crank: Crank,
    cache: Arc<Cache>,
    view: View,
    writer: Writer,
    metrics: Metrics,
    upstream: Upstream,
    /// By boot time.
    answers: BTreeMap<(u64, KeyId), Question>,
    wake_at: Option<UnixMs>,
    most_in_flight: usize,
}

/// What one request came to.
enum Asked {
    Served { token: String, expires_in_s: u64 },
    Waiting(Waiter),
}

impl World {
    /// On a machine whose wall clock is so far ahead of the truth.
    fn new(ahead_ms: i64) -> Self {
        let (clock, crank) = Clock::cranked(UnixMs(START.0.saturating_add_signed(ahead_ms)));
        let (cache, metrics) = (Arc::new(Cache::new()), Metrics::new());
        let store = Store::off();
        let settings = Settings {
            max_in_flight: 4,
            max_per_second: 15,
            outage_to_survive_ms: 0,
            rules: Rules::default(),
            seed: 1,
            ..Settings::default()
        };
        let upstream = Upstream {
            life_ms: 24 * HOUR_MS,
            latency_ms: 50,
            is_dead: false,
            is_dated: true,
            issued: BTreeMap::new(),
            calls: Vec::new(),
        };
        Self {
            truth: START,
            view: View::new(Arc::clone(&cache), metrics.clone()),
            writer: Writer::new(settings, "imds", Arc::clone(&cache), store, metrics.clone()),
            clock,
            crank,
            cache,
            metrics,
            upstream,
            answers: BTreeMap::new(),
            wake_at: None,
            most_in_flight: 0,
        }
    }

    /// As the driver does it: first what has become of the clocks, then what has happened.
    fn turn(&mut self, event: impl FnOnce(&mut Writer, UnixMs) -> Work) {
        let seen = self.clock.observe();
        let mut work = self.writer.clock(&seen);
        work.add(event(&mut self.writer, seen.now));
        self.take(work);
    }

    fn take(&mut self, work: Work) {
        self.wake_at = work.wake_at;
        for job in work.jobs {
            let sent = self.clock.boot();
            let resource = job.ask.key.resource.as_str().to_owned();
            self.upstream.calls.push((sent.0, resource.clone()));
            let at = sent.0 + self.upstream.latency_ms;
            let question = Question { resource, sent };
            self.answers.insert((at, job.id), question);
            self.most_in_flight = self.most_in_flight.max(self.answers.len());
        }
    }

    /// What the client makes of an answer that arrives now.
    fn answer(&mut self, question: &Question) -> Result<AccessToken, FetchError> {
        if self.upstream.is_dead {
            return Err(FetchError::of(Class::Unreachable));
        }
        if self.upstream.is_dated {
            let date = UnixMs(self.truth.as_secs() * 1000);
            self.clock.learn(date, question.sent);
        }
        let Upstream {
            issued, life_ms, ..
        } = &mut self.upstream;
        let held = issued.entry(question.resource.clone());
        let held = held.or_insert((0, UnixMs(0)));
        // As IMDS: the same token until late.
        if held.1.since(self.truth) < 5 * MINUTE_MS {
            *held = (held.0 + 1, self.truth.plus(*life_ms));
        }
        let received_at = self.clock.now();
        let lifetime = Lifetime {
            received_at,
            expires_on_s: held.1.as_secs(),
            not_before_s: None,
            refresh_in_s: None,
        };
        if lifetime.expires_at() <= received_at {
            return Err(FetchError::of(Class::BadExpiry));
        }
        let secret = Secret::new(format!("{}#{}", question.resource, held.0).into_bytes());
        Ok(AccessToken {
            secret,
            lifetime,
            client_id: None,
        })
    }

    /// Lets time pass on all clocks: never more than a second without a look, as the driver.
    fn run(&mut self, ms: u64) {
        let end = self.clock.boot().0 + ms;
        while self.clock.boot().0 < end {
            let boot = self.clock.boot().0;
            let answer = self
                .answers
                .keys()
                .next()
                .map(|(at, _)| at.saturating_sub(boot));
            let now = self.clock.now();
            let wake = self.wake_at.map(|at| at.since(now));
            let waits = [answer, wake, Some(1000), Some(end - boot)];
            let wait = waits.into_iter().flatten().min().unwrap_or(1000);
            self.crank.advance(wait);
            self.truth = self.truth.plus(wait);
            while let Some(first) = self.answers.first_entry() {
                let (at, id) = *first.key();
                if at > self.clock.boot().0 {
                    break;
                }
                let question = first.remove();
                let answer = self.answer(&question);
                self.turn(|writer, now| writer.landed(now, id, answer));
            }
            let used = self.view.tick();
            self.turn(|writer, now| writer.used(now, &used));
        }
    }

    /// The machine is suspended: its clocks go on, nothing runs.
    fn suspend(&mut self, ms: u64) {
        self.crank.advance(ms);
        self.truth = self.truth.plus(ms);
    }

    /// The machine is paused from outside: its clocks stand still.
    fn pause(&mut self, ms: u64) {
        self.truth = self.truth.plus(ms);
    }

    fn ask(&mut self, resource: &str) -> Asked {
        let place = self.view.find(0, resource.as_bytes()).unwrap_or_else(|| {
            let caller = Caller::Unix { uid: 0, gid: 0 };
            let permit = Policy::default()
                .permit(&caller, None, key(resource))
                .expect("a local caller");
            let target = resource.as_bytes();
            self.view
                .remember(0, target, PLAIN, permit)
                .expect("room for the key")
        });
        let now = self.clock.now();
        match self.view.look(place, now, Turn::First) {
            Found::Body(parts) => {
                let body: serde_json::Value =
                    serde_json::from_slice(&parts.concat()).expect("a JSON body");
                let number = |name: &str| -> u64 {
                    let text = body[name].as_str().and_then(|text| text.parse().ok());
                    text.expect("digits")
                };
                let ends = UnixMs(number("expires_on") * 1000);
                assert!(self.truth < ends, "{resource}: an expired token was served");
                assert_eq!(number("expires_in"), ends.since(now) / 1000);
                Asked::Served {
                    token: body["access_token"].as_str().expect("a string").to_owned(),
                    expires_in_s: number("expires_in"),
                }
            }
            Found::Wait(waiter, leader) => {
                if let Some((slot, leader)) = leader {
                    self.turn(|writer, now| writer.demanded(now, slot, leader));
                }
                Asked::Waiting(waiter)
            }
            Found::Full | Found::Nothing => panic!("there is room"),
        }
    }

    /// Served at once.
    fn served(&mut self, resource: &str) -> (String, u64) {
        match self.ask(resource) {
            Asked::Served {
                token,
                expires_in_s,
            } => (token, expires_in_s),
            Asked::Waiting(_) => panic!("a caller of {resource} had to wait"),
        }
    }

    /// Served at once, or after one call that brought something.
    fn obtained(&mut self, resource: &str) -> (String, u64) {
        if let Asked::Waiting(mut waiter) = self.ask(resource) {
            let mut landing = None;
            for _ in 0..200 {
                self.run(100);
                landing = poll(&mut waiter);
                if landing.is_some() {
                    break;
                }
            }
            assert!(matches!(landing, Some(Landing::Arrived)), "{resource}");
        }
        self.served(resource)
    }

    /// As many keys with tokens, of all ages up to the oldest.
    fn warm(&mut self, count: usize, oldest_ms: u64) -> Vec<String> {
        let keys: Vec<_> = (0..count).map(|i| format!("https://{i}.example")).collect();
        for key in &keys {
            self.obtained(key);
            self.run(oldest_ms / count as u64);
        }
        keys
    }

    /// How far the timeline is from the truth.
    fn off_ms(&self) -> u64 {
        let now = self.clock.now();
        now.since(self.truth).max(self.truth.since(now))
    }

    /// Calls since this moment of boot time, and how long after it the first began.
    fn calls_since(&self, boot: Boot) -> (usize, Option<u64>) {
        let calls = self.upstream.calls.iter().filter(|(at, _)| *at >= boot.0);
        let first = calls.clone().next().map(|(at, _)| at - boot.0);
        (calls.count(), first)
    }

    fn check_budget(&self) {
        assert!(self.most_in_flight <= 4);
        let calls = &self.upstream.calls;
        for many in calls.windows(16) {
            assert!(many[15].0 - many[0].0 > 1000, "more than 15 in a second");
        }
    }

    fn steps(&self) -> u64 {
        let text = self.metrics.render();
        let lines = text.lines();
        let lines = lines.filter(|line| line.starts_with("foretoken_clock_steps_total{"));
        let value = |line: &str| {
            line.rsplit(' ')
                .next()
                .and_then(|it| it.parse::<u64>().ok())
        };
        lines.map(|line| value(line).expect("a number")).sum()
    }
}

fn key(resource: &str) -> TokenKey {
    TokenKey {
        upstream: "imds".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(resource.as_bytes()).expect("a resource"),
        capabilities: vec![],
        extras: vec![],
        client: None,
    }
}

fn poll(waiter: &mut Waiter) -> Option<Landing> {
    match pin!(waiter).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(landing) => Some(landing),
        Poll::Pending => None,
    }
}

#[test]
fn after_eight_hours_of_suspend_what_is_valid_is_served_and_what_is_due_is_renewed() {
    let mut world = World::new(0);
    let keys = world.warm(20, HOUR_MS);
    world.suspend(8 * HOUR_MS);
    let resumed = world.clock.boot();
    for key in &keys {
        world.served(key);
    }
    world.run(10_000);
    assert_eq!(world.calls_since(resumed).0, 0, "nothing is due");

    // The second time it sleeps past half of their lives.
    world.suspend(8 * HOUR_MS);
    let resumed = world.clock.boot();
    world.run(10_000);
    let (calls, first) = world.calls_since(resumed);
    assert_eq!(calls, keys.len());
    assert!(first <= Some(1000), "{first:?}");

    // The third time past their ends: nobody is served what is over.
    world.suspend(9 * HOUR_MS);
    for key in &keys {
        world.obtained(key);
    }
    assert_eq!(world.steps(), 0, "boot time counts a suspend");
    world.check_budget();
}

#[test]
fn a_pause_of_thirty_seconds_is_made_up_for_when_the_wall_clock_is() {
    let mut world = World::new(0);
    let keys = world.warm(20, HOUR_MS);
    world.pause(30_000);
    let resumed = world.clock.boot();
    world.run(3000);
    world.crank.step(30_000);
    assert_eq!(world.off_ms(), 0);
    for key in &keys {
        world.served(key);
    }
    world.run(10_000);
    assert_eq!(world.calls_since(resumed).0, 0);
    assert_eq!(world.steps(), 0);
}

#[test]
fn a_host_that_starts_hours_off_learns_the_time_from_the_first_answer() {
    for ahead_ms in [DAY, -DAY, HOUR, -HOUR, 30 * DAY] {
        let mut world = World::new(ahead_ms);
        let (token, left) = world.obtained("https://first.example");
        assert!((86_390..=86_400).contains(&left), "{left} s left");
        assert!(world.off_ms() <= 1100, "{} ms off", world.off_ms());
        world.run(30 * MINUTE_MS);
        let before = world.clock.boot();
        // Somebody puts the wall clock right: nothing is in doubt.
        world.crank.step(-ahead_ms);
        assert_eq!(world.served("https://first.example").0, token);
        world.run(10 * MINUTE_MS);
        assert!(world.off_ms() <= 1100);
        assert_eq!(world.calls_since(before).0, 0);
        assert_eq!(world.served("https://first.example").0, token);
        assert_eq!(world.steps(), 0);
    }
}

#[test]
fn on_a_host_minutes_behind_or_ahead_no_token_is_served_past_its_end_elsewhere() {
    for ahead_ms in [-299_000, -240_000, -60_000, -3000, 0, 3000, 60_000, 299_000] {
        let mut world = World::new(ahead_ms);
        world.upstream.life_ms = 30 * MINUTE_MS;
        world.obtained("https://first.example");
        let end = world.truth.plus(30 * MINUTE_MS);
        // It is not renewed: what counts is how its last seconds are judged, which `ask` does by a
        // clock that is right, with no leeway.
        world.upstream.is_dead = true;
        let mut last = world.truth;
        while world.truth < end.plus(10 * MINUTE_MS) {
            world.run(250);
            if let Asked::Served { .. } = world.ask("https://first.example") {
                last = world.truth;
            }
        }
        // The margin, the second that a `Date` leaves open, and what we are ahead.
        let lost_ms = end.since(last);
        let ahead = u64::try_from(ahead_ms).unwrap_or(0);
        assert!(lost_ms <= 17_000 + ahead, "{ahead_ms}: {lost_ms} ms lost");
        let skew = world.metrics.render();
        let skew = skew
            .lines()
            .find_map(|line| line.strip_prefix("foretoken_clock_skew_seconds "));
        let skew: f64 = skew.expect("a gauge").parse().expect("a number");
        #[expect(clippy::cast_precision_loss, reason = "minutes in milliseconds")]
        let expected = -ahead_ms as f64 / 1000.0;
        assert!((skew - expected).abs() < 1.1, "{ahead_ms}: {skew}");
        assert_eq!(world.steps(), 0, "nothing is in doubt");
    }
}

/// How the upstream is after the step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Up,
    Late,
    Down,
    Undated,
}

#[test]
fn a_jump_of_hours_serves_nothing_expired_and_loses_nothing_that_is_valid() {
    let jumps = [
        -DAY,
        -6 * HOUR,
        -HOUR,
        -10_000,
        400_000,
        HOUR,
        6 * HOUR,
        DAY,
    ];
    for by_ms in jumps {
        for was_right in [true, false] {
            for after in [After::Up, After::Late, After::Down, After::Undated] {
                jump(by_ms, was_right, after);
            }
        }
    }
}

/// The wall clock jumps: away from the truth, or back to it.
fn jump(by_ms: i64, was_right: bool, after: After) {
    println!("jump {by_ms} was right {was_right} {after:?}");
    let mut world = World::new(if was_right { 0 } else { -by_ms });
    // A wrong clock is only known to be wrong once somebody says so.
    world.upstream.is_dated = was_right;
    world.upstream.life_ms = if by_ms < 0 && !was_right {
        // A host that is ahead takes no token that ends before its own time.
        by_ms.unsigned_abs() + 24 * HOUR_MS
    } else {
        24 * HOUR_MS
    };
    let keys = world.warm(40, 10 * MINUTE_MS);
    world.run(HOUR_MS);
    let settled_off = world.off_ms();
    let jumped = world.clock.boot();
    world.crank.step(by_ms);
    world.upstream.is_dead = after == After::Down;
    world.upstream.is_dated = after != After::Undated;
    world.upstream.latency_ms = if after == After::Late { 3000 } else { 50 };

    // At once: `ask` panics at what is over in truth.
    let mut waiting: Vec<_> = keys.iter().map(|key| world.ask(key)).collect();
    world.run(3 * MINUTE_MS);
    let (calls, first) = world.calls_since(jumped);
    assert!(
        first <= Some(1000),
        "the first check began after {first:?} ms"
    );
    for asked in &mut waiting {
        if let Asked::Waiting(waiter) = asked {
            assert!(poll(waiter).is_some(), "a caller was left alone");
        }
    }
    assert_eq!(world.steps(), 1);
    world.check_budget();
    match after {
        After::Up | After::Late => {
            assert_eq!(calls, keys.len(), "each key once");
            assert!(world.off_ms() <= 1100, "{} ms off", world.off_ms());
            for key in &keys {
                world.served(key);
            }
        }
        After::Down => {
            // The later clock decides: what it does not end is served on.
            let later = world.clock.now();
            let lasting = world.cache.slots().into_iter().filter(|slot| {
                let entry = slot.entry();
                entry.is_some_and(|entry| later < entry.serve_until)
            });
            let lasting: Vec<_> = lasting
                .map(|slot| slot.key().resource.as_str().to_owned())
                .collect();
            let all = by_ms < DAY || !was_right;
            assert_eq!(lasting.len(), if all { keys.len() } else { 0 });
            for key in &lasting {
                world.served(key);
            }
            // It is back: no token was lost for good.
            world.upstream.is_dead = false;
            world.run(2 * MINUTE_MS);
            for key in &keys {
                world.obtained(key);
            }
            world.run(10 * MINUTE_MS);
            assert!(world.off_ms() <= 1100, "{} ms off", world.off_ms());
            for key in &keys {
                world.served(key);
            }
        }
        After::Undated => {
            // Nobody says what time it is: the later clock stays in force.
            assert!(world.clock.observe().doubtful);
            assert!(world.clock.now() >= world.truth.minus(settled_off.min(1100)));
            assert!(calls >= keys.len() || by_ms == DAY && was_right);
        }
    }
    world.check_budget();
}

#[test]
fn a_clock_that_jumps_to_and_fro_costs_one_call_for_each_key_and_jump() {
    let mut world = World::new(0);
    let keys = world.warm(100, 10 * MINUTE_MS);
    let before = world.clock.boot();
    for by_ms in [3 * HOUR, -3 * HOUR, -DAY, DAY, 2 * DAY, -2 * DAY] {
        world.crank.step(by_ms);
        for key in &keys {
            let _ = world.ask(key);
        }
        world.run(30_000);
        assert!(world.off_ms() <= 1100);
        for key in &keys {
            world.served(key);
        }
    }
    let (calls, _) = world.calls_since(before);
    println!("{calls} calls, {} steps", world.steps());
    // Every second jump goes back to the truth, which the upstream has told.
    assert_eq!(world.steps(), 3);
    assert_eq!(calls, 3 * keys.len());
    world.check_budget();
}

#[test]
fn a_key_that_seems_unused_for_days_only_by_a_step_is_checked_and_not_dropped() {
    for is_dead in [false, true] {
        let mut world = World::new(0);
        let keys = world.warm(10, MINUTE_MS);
        world.run(1000);
        world.upstream.is_dead = is_dead;
        let jumped = world.clock.boot();
        world.crank.step(2 * DAY);
        world.run(10_000);
        if is_dead {
            assert!(world.calls_since(jumped).0 > 0);
            continue;
        }
        assert_eq!(world.calls_since(jumped).0, keys.len());
        for key in &keys {
            assert_eq!(world.served(key).0, format!("{key}#1"));
        }
    }
}

#[test]
fn keys_that_nobody_asks_for_any_more_are_checked_like_the_others() {
    let mut world = World::new(0);
    let keys = world.warm(20, MINUTE_MS);
    // Renewed late in their lives; unused for a whole one once the clock has jumped.
    world.run(25 * HOUR_MS);
    let jumped = world.clock.boot();
    world.crank.step(6 * HOUR);
    world.run(1500);
    let at_once = world.calls_since(jumped).0;
    assert!(
        (1..15).contains(&at_once),
        "{at_once} calls: they are spread"
    );
    world.run(10_000);
    assert_eq!(world.calls_since(jumped).0, keys.len());
}

#[test]
fn a_call_that_began_before_the_step_is_no_check() {
    let mut world = World::new(0);
    world.upstream.latency_ms = 2000;
    let resource = "https://a.example";
    let Asked::Waiting(mut waiter) = world.ask(resource) else {
        panic!("nothing is warm")
    };
    let asked = world.clock.boot();
    world.run(1000);
    world.crank.step(6 * HOUR);
    world.run(1500);
    assert!(matches!(poll(&mut waiter), Some(Landing::Arrived)));
    assert!(world.clock.observe().doubtful, "its date is of before");
    world.served(resource);
    world.run(4000);
    assert!(world.off_ms() <= 1100);
    world.served(resource);
    assert_eq!(world.calls_since(asked).0, 2);
}

fn restored(resource: &str, received_at: UnixMs, ends: UnixMs) -> Restored {
    let lifetime = Lifetime {
        received_at,
        expires_on_s: ends.as_secs(),
        not_before_s: None,
        refresh_in_s: None,
    };
    Restored {
        key: key(resource),
        token: Arc::new(AccessToken {
            secret: Secret::new(format!("{resource}#1").into_bytes()),
            lifetime,
            client_id: None,
        }),
        generation: 5,
        last_used: received_at,
    }
}

impl World {
    /// As the driver starts.
    fn restore(&mut self, all: Vec<Restored>) {
        for one in &all {
            let (resource, ends) = (one.key.resource.as_str(), one.token.lifetime.expires_at());
            self.upstream.issued.insert(resource.to_owned(), (1, ends));
        }
        let newest = all.iter().map(|one| one.token.lifetime.received_at).max();
        self.clock.remember(newest.expect("a record"));
        let work = self.writer.restore_seen(&self.clock.observe(), all);
        self.take(work);
    }
}

#[test]
fn a_start_with_a_wall_clock_before_the_newest_record_is_a_step() {
    let mut world = World::new(-DAY);
    let (valid, over) = ("https://valid.example", "https://over.example");
    let received = START.minus(HOUR_MS);
    world.restore(vec![
        restored(valid, received, START.plus(10 * HOUR_MS)),
        restored(over, START.minus(20 * HOUR_MS), START.minus(2 * HOUR_MS)),
    ]);
    assert_eq!(world.steps(), 1);
    assert_eq!(world.served(valid).0, "https://valid.example#1");
    // By the wall clock alone it would have a day to go.
    assert!(matches!(world.ask(over), Asked::Waiting(_)));
    world.run(5000);
    assert!(world.off_ms() <= 1100);
    assert_eq!(world.served(over).0, "https://over.example#2");
    assert_eq!(world.upstream.calls.len(), 2);
}

#[test]
fn tokens_that_are_over_only_by_the_clock_at_start_come_back_when_it_is_put_right() {
    let mut world = World::new(DAY);
    let received = START.minus(HOUR_MS);
    let keys = [
        "https://a.example",
        "https://b.example",
        "https://c.example",
    ];
    // The third is over in truth as well.
    let ends = [12, 12, 0].map(|hours| START.plus(hours * HOUR_MS));
    let records = keys.iter().zip(ends);
    let records = records
        .map(|(key, ends)| restored(key, received, ends))
        .collect();
    let seen = world.clock.observe();
    let work = world.writer.restore_seen(&seen, records);
    world.take(work);
    world.upstream.is_dead = true;
    assert!(
        matches!(world.ask(keys[0]), Asked::Waiting(_)),
        "over, for all it knows"
    );
    world.run(MINUTE_MS);
    assert!(matches!(world.ask(keys[1]), Asked::Waiting(_)));
    // The upstream is back, and its answer to somebody else says what time it is.
    world.run(MINUTE_MS);
    world.upstream.is_dead = false;
    world.obtained("https://other.example");
    let calls = world.upstream.calls.len();
    world.served(keys[1]);
    assert_eq!(world.upstream.calls.len(), calls, "it needed no call");
    let (held, _, _) = world.writer.purge(world.clock.now(), None);
    assert!(
        (2..=3).contains(&held),
        "{held}: the third is not among them"
    );
    assert!(matches!(world.ask(keys[1]), Asked::Waiting(_)));
}

/// A host a day ahead, and the key of a stored token that only its clock has ended.
fn a_day_ahead_with_one_stored() -> (World, &'static str) {
    let mut world = World::new(DAY);
    let key = "https://a.example";
    let record = restored(key, START.minus(HOUR_MS), START.plus(12 * HOUR_MS));
    let seen = world.clock.observe();
    let work = world.writer.restore_seen(&seen, vec![record]);
    world.take(work);
    (world, key)
}

#[test]
fn a_purge_ends_tokens_that_are_over_by_the_clock_at_start_too() {
    let (mut world, key) = a_day_ahead_with_one_stored();
    let (held, _, work) = world.writer.purge(world.clock.now(), None);
    world.take(work);
    assert_eq!(held, 1);
    world.obtained("https://other.example");
    assert!(
        matches!(world.ask(key), Asked::Waiting(_)),
        "purged is purged"
    );
}

#[test]
fn a_purge_ends_a_stored_token_whose_key_was_being_asked_for_when_the_clock_was_put_right() {
    let (mut world, key) = a_day_ahead_with_one_stored();
    world.upstream.latency_ms = 500;
    let Asked::Waiting(_waiter) = world.ask("https://other.example") else {
        panic!("nothing is warm");
    };
    world.run(400);
    let Asked::Waiting(_other) = world.ask(key) else {
        panic!("over, for all it knows");
    };
    // The answer to the first decides while the second's call is under way.
    world.run(200);
    let (held, _, _) = world
        .writer
        .purge(world.clock.now(), Some(&|it| it.resource.as_str() == key));
    assert_eq!(held, 2, "the key in use, and its stored token");
}

#[test]
fn a_record_of_a_host_that_was_a_day_ahead_costs_one_check_and_is_not_lost() {
    for is_dead in [false, true] {
        let mut world = World::new(0);
        let keys = ["https://a.example", "https://b.example"];
        let record = |key| restored(key, START.plus(24 * HOUR_MS), START.plus(20 * HOUR_MS));
        world.upstream.is_dead = is_dead;
        world.restore(keys.map(record).into());
        assert_eq!(world.cache.len(), 2, "the earlier clock leaves them alive");
        for key in keys {
            assert!(matches!(world.ask(key), Asked::Waiting(_)), "not unchecked");
        }
        world.run(10_000);
        if is_dead {
            assert!(world.off_ms() > 23 * HOUR_MS, "the later clock decides");
            world.upstream.is_dead = false;
            world.run(5 * MINUTE_MS);
            for key in keys {
                world.obtained(key);
            }
        } else {
            assert_eq!(world.upstream.calls.len(), 2);
        }
        assert!(world.off_ms() <= 1100);
        for key in keys {
            assert_eq!(world.served(key).0, format!("{key}#1"));
        }
    }
}

#[test]
fn the_client_tells_the_clock_what_time_the_upstream_has() {
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = settings(emulator.address(), folder.path(), "");
    // The emulator goes by the real time; we start a day ahead of it and stand still.
    let truth = Clock::system();
    let ahead = truth.now().plus(24 * HOUR_MS);
    let (clock, crank) = Clock::cranked(ahead);
    let source = Arc::clone(&settings.upstream.source);
    let client = Client::new(source, clock.clone()).expect("nobody to trust");
    let app = App::start_with(&settings, client, clock.clone()).expect("Foretoken starts");
    let is_right = || {
        clock
            .now()
            .since(truth.now())
            .max(truth.now().since(clock.now()))
            < HOUR_MS
    };
    let first = token_of(&http::token(tcp(&app), "https://a.example"));
    assert!(is_right(), "the first date is believed");

    // The refresh thread finds a step by itself, asks again, and is told.
    crank.step(6 * HOUR);
    until("the check", || emulator.counts().total == 2);
    until("the decision", is_right);
    assert_eq!(
        token_of(&http::token(tcp(&app), "https://a.example")),
        first
    );
    // A refusal is dated like a token.
    emulator.set_fault(Some(Fault::always(FaultKind::Status {
        status: 500,
        retry_after_s: None,
    })));
    crank.step(-12 * HOUR);
    until("a failed check", || emulator.counts().total >= 3);
    until("the decision", || {
        is_right() && clock.earliest() == clock.now()
    });
    app.stop();
}

#[test]
fn a_life_told_in_seconds_is_counted_on_the_timeline_as_its_own_answer_left_it() {
    for ahead_ms in [DAY, -DAY, 30 * DAY] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let emulator = emulator_of(Kind::WorkloadIdentity, &folder, |_| ());
        let settings = settings_before(&emulator, "workload-identity", &folder, "");
        let truth = Clock::system();
        let (clock, _crank) = Clock::cranked(UnixMs(truth.now().0.saturating_add_signed(ahead_ms)));
        let source = Arc::clone(&settings.upstream.source);
        let client = Client::new(source, clock.clone()).expect("a certificate to trust");
        let app = App::start_with(&settings, client, clock.clone()).expect("Foretoken starts");
        let answer = http::token(tcp(&app), "https://a.example").json();
        let number = |name: &str| -> u64 {
            let text = answer[name].as_str().and_then(|text| text.parse().ok());
            text.expect("digits")
        };
        // The emulator's tokens live for a day, and the answer took no minute.
        let left = number("expires_on").saturating_sub(truth.now().as_secs());
        assert!(
            (86_340..=86_460).contains(&left),
            "{ahead_ms}: {left} s left"
        );
        assert!(
            (86_340..=86_460).contains(&number("expires_in")),
            "{ahead_ms}"
        );
        app.stop();
    }
}

#[test]
fn a_process_that_was_stopped_past_a_due_renewal_makes_it_when_it_goes_on() {
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = write_config(folder.path(), emulator.address(), "");
    let mut served = Served::start(&config, folder.path());
    emulator.set_lifetime_s(24);
    let resource = "https://a.example";
    let answer = http::token(served.address, resource);
    let ends_s = answer.json()["expires_on"].as_str().map(str::parse);
    let ends_s: u64 = ends_s.expect("an end").expect("digits");
    let first = token_of(&answer);
    served.signal(Signal::STOP);
    assert_eq!(emulator.counts().total, 1, "half of its life is not over");
    // Past half of the life; nothing is asked meanwhile.
    std::thread::sleep(Duration::from_secs(13));
    assert_eq!(emulator.counts().total, 1);

    let resumed = Clock::system();
    let at = resumed.now();
    served.signal(Signal::CONT);
    // Nobody asks: it finds what is due by itself.
    until("the renewal", || emulator.counts().total == 2);
    let arrived = UnixMs(emulator.counts().arrivals_unix_ms[1]);
    println!("it began {} ms after the stop ended", arrived.since(at));
    assert!(arrived >= at, "it was stopped");
    assert!(
        arrived < UnixMs(ends_s * 1000),
        "while the token was still good"
    );
    emulator.set_lifetime_s(3600);
    let text = scrape(served.admin);
    assert_eq!(sum(&text, "foretoken_clock_steps_total", None), 0);
    until("the new token", || {
        token_of(&http::token(served.address, resource)) != first
    });
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
}
