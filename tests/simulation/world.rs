//! The world: clock, callers, operators, store and machine, all drawn from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use foretoken::authz::{Caller, Policy};
use foretoken::cache::{
    Asked, Cache, Found, Freshness, KeyId, Landing, Turn, View, Waiter, serve_until,
};
use foretoken::clock::{Boot, Clock, Crank, UnixMs};
use foretoken::protocol::{Force, Shape};
use foretoken::refresh::{Rules, Settings, Work, Writer};
use foretoken::store::{Restored, Store};
use foretoken::telemetry::metrics::Metrics;
use foretoken::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};
use foretoken::upstream::{Class, FetchError};
use ring::digest::{SHA256, digest};

use crate::checker::{Checker, Figures, MAX_WAIT_MS, Note, Wanted};
use crate::upstream::{Fault, Upstream, error};

pub const MINUTE_MS: u64 = 60_000;
pub const HOUR_MS: u64 = 60 * MINUTE_MS;
/// 2026-01-01, so that nothing depends on the epoch being near.
pub const START: UnixMs = UnixMs(1_767_225_600_000);
const WORKERS: usize = 2;
/// How long a process takes to come back; a second of its budget is over by then.
const RESTART_MS: u64 = 1100;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub hours: u64,
    pub keys: usize,
    pub rules: Rules,
    pub freshness: Freshness,
    /// From the first hour on every third key is refused, and asked for every few seconds: more
    /// than the budget can call for. There are no other troubles.
    pub refused: bool,
}

impl Plan {
    pub fn new(seed: u64, hours: u64, keys: usize) -> Self {
        Self {
            seed,
            hours,
            keys,
            rules: Rules::default(),
            freshness: serve_until,
            refused: false,
        }
    }
}

/// What is to happen; the number breaks ties in the order of planning.
type Planned = Reverse<(UnixMs, u64, What)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Tick(usize),
    Lands(u64),
    GivesUp(u64),
    HangsUp(u64),
    /// The regular callers of a key.
    Asks(usize),
    /// Somebody asks for a key that nobody asked for before.
    AsksNew,
    /// One caller forces many keys, one after the other.
    ForcesAll(usize),
    Purges,
    PurgesAll,
    Restarts,
    Sleeps,
    /// Somebody sets the wall clock.
    Steps,
    /// The process looks at its clocks, as it does every second.
    Looks,
}

struct Waiting {
    waiter: Waiter,
    key: usize,
    view: usize,
    wanted: Wanted,
    asked_at: UnixMs,
}

struct Flying {
    id: KeyId,
    key: usize,
    epoch: u64,
    sent: Boot,
    answer: Result<(u64, UnixMs), FetchError>,
}

pub struct World {
    plan: Plan,
    /// What the process takes for the time; the truth is the checker's.
    clock: Clock,
    crank: Crank,
    /// How far somebody has set the wall clock ahead, in milliseconds.
    wall_ahead: i64,
    /// The process has seen a `Date`.
    dated: bool,
    floor_ms: u64,
    checker: Checker,
    upstream: Upstream,
    random: fastrand::Rng,
    store: Store,
    metrics: Metrics,
    cache: Arc<Cache>,
    views: Vec<View>,
    ticking: [bool; WORKERS],
    writer: Writer,
    calendar: BinaryHeap<Planned>,
    planned: u64,
    wake_at: Option<UnixMs>,
    flying: BTreeMap<u64, Flying>,
    waiting: BTreeMap<u64, Waiting>,
    keys: Vec<TokenKey>,
    lives: Vec<u64>,
    gaps: Vec<u64>,
    end: UnixMs,
}

/// Runs a plan to its end, or to the first invariant that breaks.
pub fn run(plan: Plan) -> Result<Figures, String> {
    let mut world = World::new(plan);
    world.draw();
    while world.checker.broken.is_none() && world.step() {}
    world.read_outputs();
    match world.checker.broken {
        Some(broken) => Err(broken),
        None => Ok(world.checker.figures),
    }
}

impl World {
    fn new(plan: Plan) -> Self {
        let metrics = Metrics::new();
        let (clock, crank) = Clock::cranked(START);
        let store = Store::off();
        let cache = Arc::new(Cache::with_freshness(plan.freshness));
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let floor_ms = [0, 0, 6 * HOUR_MS, 20 * HOUR_MS][random.usize(..4)];
        Self {
            clock,
            crank,
            wall_ahead: 0,
            dated: false,
            floor_ms,
            checker: Checker::new(plan.seed, START, plan.keys),
            upstream: Upstream::new(plan.seed),
            views: views(&cache, &metrics),
            ticking: [false; WORKERS],
            writer: writer(&plan, floor_ms, random.u64(..), &cache, &store, &metrics),
            store,
            metrics,
            cache,
            random,
            calendar: BinaryHeap::new(),
            planned: 0,
            wake_at: None,
            flying: BTreeMap::new(),
            waiting: BTreeMap::new(),
            keys: Vec::new(),
            lives: Vec::new(),
            gaps: Vec::new(),
            end: START.plus(plan.hours * HOUR_MS),
            plan,
        }
    }

    fn now(&self) -> UnixMs {
        self.checker.now
    }

    /// Time passes on all clocks.
    fn pass_until(&mut self, at: UnixMs) {
        let ms = at.since(self.now());
        self.crank.advance(ms);
        self.checker.now = self.now().plus(ms);
        self.compare_clocks();
    }

    fn compare_clocks(&mut self) {
        let time = self.clock.now();
        self.checker.clock_shows(time);
        let behind = self.now().since(time);
        // A `Date` has whole seconds. At a start the wall clock is all there is.
        let right = behind <= 1100 || !self.dated;
        self.checker.holds(right, "T-4 never behind", |_| {
            format!("the process is {behind} ms behind")
        });
    }

    /// As the driver does it: what has become of the clocks, then what has happened.
    fn turn(&mut self, event: impl FnOnce(&mut Writer, UnixMs) -> Work) {
        let seen = self.clock.observe();
        self.compare_clocks();
        if seen.doubtful || self.checker.ahead_ms > 1100 {
            let now = self.now();
            self.checker.excuse(now);
        }
        let mut work = self.writer.clock(&seen);
        work.add(event(&mut self.writer, seen.now));
        self.writer.survey(seen.now, &mut work);
        self.take(work);
    }

    /// I9: what operators see holds no token.
    fn read_outputs(&mut self) {
        let status = format!("{:?}{}", self.writer.status(), self.metrics.render());
        let token = |part: &str| part.starts_with(|it: char| it.is_ascii_digit());
        let found = status.split('#').skip(1).any(token);
        self.checker
            .holds(!found, "I9 no token in any output", |_| status.clone());
    }

    fn at(&mut self, at: UnixMs, what: What) {
        self.planned += 1;
        self.calendar.push(Reverse((at, self.planned, what)));
    }

    /// Draws keys, their callers, and the troubles.
    fn draw(&mut self) {
        if self.plan.refused {
            let from = START.plus(HOUR_MS);
            self.upstream.refuse_some(from, self.end);
        } else {
            self.upstream.draw_faults(START, self.end);
        }
        for key in 0..self.plan.keys {
            self.add_key();
            let life = self.lives[key];
            // One key in ten is hot, one in ten idles for lives, the rest is asked for now and then.
            self.gaps[key] = match key % 10 {
                _ if self.plan.refused => match key % 3 {
                    0 => 3000,
                    _ => life / 8,
                },
                0 => 60_000,
                1 => life * 3,
                _ => (life >> self.random.u32(1..6)).max(5 * MINUTE_MS),
            };
            let first = START.plus(self.random.u64(..10 * MINUTE_MS));
            self.at(first, What::Asks(key));
        }
        if self.plan.refused {
            return;
        }
        for (what, mean) in [
            (What::AsksNew, 10 * MINUTE_MS),
            (What::ForcesAll(0), 8 * HOUR_MS),
            (What::Purges, 3 * HOUR_MS),
            (What::PurgesAll, 40 * HOUR_MS),
            (What::Restarts, 15 * HOUR_MS),
            (What::Sleeps, 20 * HOUR_MS),
            (What::Steps, 20 * HOUR_MS),
        ] {
            self.again(what, mean);
        }
    }

    fn again(&mut self, what: What, mean_ms: u64) {
        let at = self.now().plus(self.random.u64(1..2 * mean_ms));
        self.at(at, what);
    }

    fn add_key(&mut self) -> usize {
        let key = self.keys.len();
        let resource = format!("key-{key}");
        self.keys.push(TokenKey {
            upstream: "imds".into(),
            identity: Identity::System,
            resource: Resource::from_decoded(resource.as_bytes()).expect("a resource"),
            capabilities: vec![],
            extras: vec![],
            client: None,
        });
        let lives = [
            24 * HOUR_MS,
            24 * HOUR_MS,
            8 * HOUR_MS,
            HOUR_MS,
            10 * MINUTE_MS,
        ];
        let first = if self.plan.refused { 3 } else { 0 };
        let life = lives[self.random.usize(first..lives.len())];
        self.lives.push(life);
        self.gaps.push(0);
        self.checker.books(key);
        key
    }

    /// Does the next thing; `false` at the end.
    fn step(&mut self) -> bool {
        let next = self.calendar.peek().map(|Reverse((at, ..))| *at);
        let Some(next) = next.filter(|at| *at < self.end) else {
            return false;
        };
        let time = self.clock.now();
        let wake_at = self.wake_at.map(|at| self.now().plus(at.since(time)));
        if let Some(wake_at) = wake_at.filter(|at| *at <= next) {
            self.pass_until(wake_at);
            self.turn(Writer::woken);
            // It never asks to be woken in the past again.
            let time = self.clock.now();
            let stuck = self.wake_at.is_some_and(|at| at <= time);
            self.checker.holds(!stuck, "it does not stand still", |_| {
                "woken in vain".into()
            });
            return true;
        }
        let Some(Reverse((at, _, what))) = self.calendar.pop() else {
            return false;
        };
        self.pass_until(at);
        self.perform(what);
        true
    }

    fn perform(&mut self, what: What) {
        match what {
            What::Tick(view) => {
                self.ticking[view] = false;
                // In an order of its own: the view's is that of a table with a random hash.
                let mut used = self.views[view].tick();
                used.sort_unstable();
                self.turn(|writer, now| writer.used(now, &used));
            }
            What::Lands(call) => self.land(call),
            What::GivesUp(number) => {
                if let Some(waiting) = self.waiting.remove(&number) {
                    self.look(
                        waiting.key,
                        waiting.view,
                        waiting.wanted,
                        Turn::Last,
                        |world| {
                            let Waiting {
                                key,
                                wanted,
                                asked_at,
                                ..
                            } = waiting;
                            world.checker.given_up(key, wanted, asked_at);
                        },
                    );
                }
            }
            What::HangsUp(number) => {
                if let Some(waiting) = self.waiting.remove(&number) {
                    self.checker.note(Note::HungUp(waiting.key));
                }
            }
            What::Asks(key) => {
                let wanted = match self.random.u8(..) {
                    0 => Wanted::Bypass,
                    1 => Wanted::NotHeld,
                    _ => Wanted::Any,
                };
                // Some come together.
                let callers = if self.random.u8(..32) == 0 { 5 } else { 1 };
                for _ in 0..callers {
                    self.ask(key, wanted);
                }
                let gap = self.gaps[key];
                self.again(What::Asks(key), gap);
            }
            What::AsksNew => {
                let key = self.add_key();
                self.ask(key, Wanted::Any);
                self.again(What::AsksNew, 10 * MINUTE_MS);
            }
            What::ForcesAll(key) => {
                self.ask(key, Wanted::Bypass);
                if key + 1 < self.plan.keys {
                    self.at(self.now().plus(20), What::ForcesAll(key + 1));
                } else {
                    self.again(What::ForcesAll(0), 8 * HOUR_MS);
                }
            }
            What::Purges => {
                let key = self.random.usize(..self.plan.keys);
                self.purge(Some(key));
                self.again(What::Purges, 3 * HOUR_MS);
            }
            What::PurgesAll => {
                self.purge(None);
                self.again(What::PurgesAll, 40 * HOUR_MS);
            }
            What::Restarts => {
                self.restart();
                self.again(What::Restarts, 15 * HOUR_MS);
            }
            What::Sleeps => {
                // A pause of the machine, or a night.
                let ms = [30_000, 10 * MINUTE_MS, 8 * HOUR_MS][self.random.usize(..3)];
                self.checker.note(Note::Slept(ms));
                let now = self.now().plus(ms);
                self.pass_until(now);
                self.checker.excuse(now);
                self.again(What::Sleeps, 20 * HOUR_MS);
            }
            What::Looks => self.turn(Writer::woken),
            What::Steps => {
                // Every other time it is put right.
                let day = 24 * HOUR_MS.cast_signed();
                let most = [2000, 5 * 60_000, 3_600_000, day][self.random.usize(..4)];
                let to = match self.wall_ahead {
                    0 => self.random.i64(-most..=most),
                    _ => 0,
                };
                self.checker.note(Note::Stepped(to));
                self.crank.step(to - self.wall_ahead);
                self.wall_ahead = to;
                self.at(self.now().plus(1000), What::Looks);
                self.again(What::Steps, 20 * HOUR_MS);
            }
        }
    }

    fn ask(&mut self, key: usize, wanted: Wanted) {
        self.checker.note(Note::Asked(key, wanted));
        self.checker.figures.requests += 1;
        let view = self.random.usize(..WORKERS);
        let now = self.now();
        if !std::mem::replace(&mut self.ticking[view], true) {
            self.at(now.plus(1000), What::Tick(view));
        }
        let last = std::mem::replace(&mut self.checker.books(key).last_asked, now);
        let waiter = self.look(key, view, wanted, Turn::First, |_| ());
        let Some(waiter) = waiter else {
            self.checker.figures.hits += 1;
            // Where the upstream gives a new token whenever it is asked.
            if self.upstream.repeat_above == 100 && self.lives[key] > self.floor_ms * 5 / 4 {
                self.checker.has_floor(key, self.floor_ms, last);
            }
            return;
        };
        self.checker.waits(key, wanted, last);
        self.planned += 1;
        let number = self.planned;
        self.at(now.plus(MAX_WAIT_MS), What::GivesUp(number));
        if self.random.u8(..10) == 0 {
            let patience = self.random.u64(..3000);
            self.at(now.plus(patience), What::HangsUp(number));
        }
        let waiting = Waiting {
            waiter,
            key,
            view,
            wanted,
            asked_at: now,
        };
        self.waiting.insert(number, waiting);
        self.listen();
    }

    /// Looks a key up as the handler does; the waiter, if there is nothing to be served yet.
    fn look(
        &mut self,
        key: usize,
        view: usize,
        wanted: Wanted,
        turn: Turn,
        nothing: impl FnOnce(&mut Self),
    ) -> Option<Waiter> {
        let now = self.clock.now();
        let held = self.checker.books(key).held;
        let (target, force) = match (wanted, held) {
            (Wanted::Bypass, _) => (format!("b{key}"), Some(Force::Always)),
            (Wanted::NotHeld, Some(held)) => {
                let token = format!("key-{key}#{}", held.number);
                let hash = digest(&SHA256, token.as_bytes());
                let hash = hash.as_ref().try_into().expect("32 bytes");
                (format!("h{token}"), Some(Force::IfHash(hash)))
            }
            _ => (format!("k{key}"), None),
        };
        let known = self.views[view].find(0, target.as_bytes());
        let place = known.unwrap_or_else(|| {
            let caller = Caller::Unix { uid: 0, gid: 0 };
            let permit = Policy::default()
                .permit(&caller, None, self.keys[key].clone())
                .expect("a local caller");
            let asked = Asked {
                shape: Shape::Metadata,
                force,
            };
            self.views[view]
                .remember(0, target.as_bytes(), asked, permit)
                .expect("room for the key")
        });
        match self.views[view].look(place, now, turn) {
            Found::Body(parts) => {
                let body = parts.concat();
                let body = std::str::from_utf8(&body).expect("a JSON body");
                let member = |name: &str| {
                    let from = body.find(name).expect("a member") + name.len();
                    let text = &body[from..];
                    text[..text.find('"').expect("an end")].to_owned()
                };
                let token = member("\"access_token\":\"");
                let ends = member("\"expires_on\":\"").parse().expect("digits");
                let slot = self.cache.find(&self.keys[key]);
                let entry = slot.and_then(|slot| slot.entry());
                let generation = entry.map_or(0, |entry| entry.generation);
                self.checker.served(key, &token, ends, generation);
                None
            }
            Found::Wait(waiter, leader) => {
                if let Some((slot, leader)) = leader {
                    if leader.is_forced() {
                        self.checker.forced(key);
                    }
                    self.turn(|writer, now| writer.demanded(now, slot, leader));
                }
                Some(waiter)
            }
            Found::Full => {
                self.checker
                    .holds(false, "room for every key", |_| format!("key {key}"));
                None
            }
            Found::Nothing => {
                nothing(self);
                None
            }
        }
    }

    /// Answers those whose flights have landed.
    fn listen(&mut self) {
        let mut landed = Vec::new();
        for (number, waiting) in &mut self.waiting {
            let waiter = pin!(&mut waiting.waiter);
            if let Poll::Ready(landing) = waiter.poll(&mut Context::from_waker(Waker::noop())) {
                landed.push((*number, landing));
            }
        }
        for (number, landing) in landed {
            let Some(mut waiting) = self.waiting.remove(&number) else {
                continue;
            };
            let Waiting {
                key, view, wanted, ..
            } = waiting;
            let asked_at = waiting.asked_at;
            match landing {
                Landing::Arrived | Landing::Gone => {
                    let waiter = self.look(key, view, wanted, Turn::Again, |_| ());
                    if let Some(waiter) = waiter {
                        waiting.waiter = waiter;
                        self.waiting.insert(number, waiting);
                        return self.listen();
                    }
                }
                Landing::Failed(error) => {
                    self.look(key, view, wanted, Turn::Last, |world| {
                        world.checker.refused(key, &error, asked_at);
                    });
                }
                Landing::Lost => self.checker.holds(false, "I5 one answer each", |_| {
                    format!("the flight of key {key} was dropped")
                }),
            }
        }
    }

    fn take(&mut self, work: Work) {
        self.wake_at = work.wake_at;
        let now = self.now();
        for job in work.jobs {
            let key = number_of(&job.ask.key);
            self.checker.figures.forced += u64::from(job.ask.revoked.is_some());
            self.checker.call(key);
            if let Some(window) = self.upstream.window(now).copied() {
                let most = window.most_calls();
                self.checker
                    .holds(window.calls < most, "U-3 tries in an outage", |_| {
                        let minutes = window.to.since(window.from) / MINUTE_MS;
                        format!("more than {most} within {minutes} min, {:?}", window.fault)
                    });
                // What is about some keys excuses no others.
                if !matches!(window.fault, Fault::Some(..)) {
                    self.checker.excuse(now);
                }
            }
            let call = self.upstream.call(now, key, self.lives[key]);
            self.planned += 1;
            let number = self.planned;
            self.at(now.plus(call.latency_ms), What::Lands(number));
            let flying = Flying {
                id: job.id,
                key,
                epoch: self.checker.books(key).epoch,
                sent: self.clock.boot(),
                answer: call.answer,
            };
            self.flying.insert(number, flying);
        }
    }

    fn land(&mut self, call: u64) {
        let now = self.now();
        let Some(flying) = self.flying.remove(&call) else {
            return;
        };
        let (key, id) = (flying.key, flying.id);
        // Who answers says what time it is.
        let silent = [Class::Unreachable, Class::Timeout, Class::Lost];
        let answers = |error: &FetchError| !silent.contains(&error.class);
        if flying.answer.as_ref().err().is_none_or(answers) {
            let date = UnixMs(now.as_secs() * 1000);
            self.clock.learn(date, flying.sent);
            self.dated = true;
        }
        let time = self.clock.now();
        let answer = match flying.answer {
            // What the client says of a token that is over.
            Ok((_, ends)) if ends <= time => Err(error(Class::BadExpiry, 0, None)),
            answer => answer,
        };
        self.compare_clocks();
        let counts = self.checker.books(key).epoch == flying.epoch;
        self.checker.landed(key, counts, &answer);
        let token = answer.map(|(number, ends)| AccessToken {
            secret: Secret::new(format!("key-{key}#{number}").into_bytes()),
            lifetime: Lifetime {
                received_at: time,
                expires_on_s: ends.as_secs(),
                not_before_s: None,
                refresh_in_s: None,
            },
            client_id: None,
        });
        self.turn(|writer, now| writer.landed(now, id, token));
        self.listen();
    }

    fn purge(&mut self, key: Option<usize>) {
        self.checker.note(Note::Purged(key));
        self.checker.figures.purges += 1;
        match key {
            Some(key) => self.checker.forgotten(key),
            None => (0..self.keys.len()).for_each(|key| self.checker.forgotten(key)),
        }
        // A thousand keys without a token are a minute's calls.
        if key.is_none() {
            let now = self.now();
            self.checker.excuse(now);
        }
        let wanted = key.map(|key| self.keys[key].clone());
        self.turn(|writer, now| match wanted {
            Some(wanted) => {
                let which = move |key: &TokenKey| *key == wanted;
                writer.purge(now, Some(&which)).2
            }
            None => writer.purge(now, None).2,
        });
        self.listen();
    }

    /// The process ends and comes back: callers and calls are gone, and so is what the disk did not
    /// get in time.
    fn restart(&mut self) {
        self.read_outputs();
        self.waiting.clear();
        self.flying.clear();
        let mut slots = self.cache.slots();
        slots.sort_by_key(|slot| slot.id());
        let mut restored = Vec::new();
        self.checker.restarted();
        let now = self.now().plus(RESTART_MS);
        self.pass_until(now);
        // It starts with what the wall clock shows, and with the newest token's receipt.
        let wall = UnixMs(now.0.saturating_add_signed(self.wall_ahead));
        (self.clock, self.crank) = Clock::cranked(wall);
        self.dated = false;
        for slot in slots {
            let key = number_of(slot.key());
            let entry = slot.entry().filter(|_| self.random.u8(..20) > 0);
            if let Some(entry) = entry {
                restored.push(Restored {
                    key: slot.key().clone(),
                    token: Arc::clone(&entry.token),
                    generation: entry.generation,
                    last_used: self.checker.books(key).last_asked,
                });
            }
        }
        let newest = restored.iter().map(|it| it.token.lifetime.received_at);
        if let Some(newest) = newest.max() {
            self.clock.remember(newest);
        }
        self.compare_clocks();
        let seen = self.clock.observe();
        let mut kept = vec![false; self.keys.len()];
        for old in &restored {
            kept[number_of(&old.key)] = now.min(seen.earliest) < old.token.lifetime.expires_at();
        }
        for (key, kept) in kept.into_iter().enumerate() {
            let held = self.checker.books(key).held;
            self.checker.forgotten(key);
            let books = self.checker.books(key);
            if kept {
                books.held = held;
            } else {
                books.generation = 0;
            }
        }
        self.cache = Arc::new(Cache::with_freshness(self.plan.freshness));
        self.views = views(&self.cache, &self.metrics);
        let drawn = self.random.u64(..);
        let (cache, store, metrics) = (&self.cache, &self.store, &self.metrics);
        self.writer = writer(&self.plan, self.floor_ms, drawn, cache, store, metrics);
        if let Some(window) = self.upstream.window(now) {
            window.allowance += 60;
        }
        self.checker.excuse(now);
        let work = self.writer.restore_seen(&seen, restored);
        self.take(work);
    }
}

fn number_of(key: &TokenKey) -> usize {
    let number = key.resource.as_str().strip_prefix("key-");
    let number = number.and_then(|number| number.parse().ok());
    number.expect("a key of ours")
}

fn views(cache: &Arc<Cache>, metrics: &Metrics) -> Vec<View> {
    let view = |_| View::new(Arc::clone(cache), metrics.clone());
    (0..WORKERS).map(view).collect()
}

fn writer(
    plan: &Plan,
    floor_ms: u64,
    seed: u64,
    cache: &Arc<Cache>,
    store: &Store,
    metrics: &Metrics,
) -> Writer {
    let settings = Settings {
        max_in_flight: 4,
        max_per_second: 15,
        outage_to_survive_ms: floor_ms,
        rules: plan.rules,
        seed,
        ..Settings::default()
    };
    let (cache, store) = (Arc::clone(cache), store.clone());
    Writer::new(settings, "imds", cache, store, metrics.clone())
}
