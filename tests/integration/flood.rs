//! A flood of resources that nobody asked for before: the keys in use notice nothing, memory stays
//! bounded, and a new key gets its place.
//!
//! The real cache, view, writer and worker on virtual time. `./recipes flood` floods ten times as
//! much and holds the memory to its cap.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use foretoken::authz::{Caller, Policy};
use foretoken::cache::{Asked, Cache, Found, KeyId, Landing, Limits, Turn, View, Waiter};
use foretoken::clock::UnixMs;
use foretoken::protocol::Shape;
use foretoken::refresh::{Settings, Work, Writer};
use foretoken::store::Store;
use foretoken::telemetry::metrics::Metrics;
use foretoken::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};
use foretoken::upstream::{Ask, Class, FetchError};

const START: UnixMs = UnixMs(1_767_225_600_000);
const LIFE_MS: u64 = 120_000;
const LATENCY_MS: u64 = 50;
const MAX_KEYS: usize = 1000;
/// Beyond what the process has when the flood begins. The keys' share is 6 KB each.
const CAP_BYTES: usize = 32 << 20;
/// As long as a caller waits at most.
const PATIENCE_MS: u64 = 20_000;

/// What the upstream says to resources of the flood.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Junk {
    /// There is no such resource.
    Refused,
    /// A token for whatever is asked.
    Granted,
}

/// What a request came to.
enum Got {
    Served,
    Waiting(Waiter),
    Full,
}

struct World {
    now: UnixMs,
    cache: Arc<Cache>,
    view: View,
    writer: Writer,
    junk: Junk,
    calls: usize,
    answers: BTreeMap<(UnixMs, KeyId), Result<AccessToken, FetchError>>,
    wake_at: Option<UnixMs>,
    tick_at: UnixMs,
    most_keys: usize,
}

impl World {
    fn new(junk: Junk) -> Self {
        let limits = Limits {
            max_keys: MAX_KEYS,
            ..Limits::default()
        };
        let cache = Arc::new(Cache::new().with_limits(limits));
        let metrics = Metrics::new();
        let store = Store::off();
        let settings = Settings::default();
        let writer = Writer::new(settings, "imds", Arc::clone(&cache), store, metrics.clone());
        Self {
            now: START,
            view: View::new(Arc::clone(&cache), metrics),
            writer,
            cache,
            junk,
            calls: 0,
            answers: BTreeMap::new(),
            wake_at: None,
            tick_at: START,
            most_keys: 0,
        }
    }

    /// Lets time pass, event by event, as the driver and a worker do.
    fn run_until(&mut self, until: UnixMs) {
        loop {
            let answer_at = self.answers.keys().next().map(|(at, _)| *at);
            let next = [answer_at, self.wake_at, Some(self.tick_at)];
            let next = next.into_iter().flatten().min().expect("a tick");
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            if self.tick_at <= self.now {
                self.tick_at = self.now.plus(1000);
                let used = self.view.tick();
                let work = self.writer.used(self.now, &used);
                self.take(work);
            }
            while let Some(first) = self.answers.first_entry() {
                let (at, id) = *first.key();
                if at > self.now {
                    break;
                }
                let answer = first.remove();
                let work = self.writer.landed(self.now, id, answer);
                self.take(work);
            }
            if self.wake_at.is_some_and(|at| at <= self.now) {
                let work = self.writer.woken(self.now);
                self.take(work);
            }
        }
        self.now = until;
    }

    fn take(&mut self, mut work: Work) {
        self.writer.survey(self.now, &mut work);
        self.most_keys = self.most_keys.max(self.cache.len());
        self.wake_at = work.wake_at;
        for job in work.jobs {
            self.calls += 1;
            let answer = self.answer(&job.ask);
            self.answers
                .insert((self.now.plus(LATENCY_MS), job.id), answer);
        }
    }

    fn answer(&self, ask: &Ask) -> Result<AccessToken, FetchError> {
        let resource = ask.key.resource.as_str();
        if self.junk == Junk::Refused && resource.starts_with("junk") {
            return Err(FetchError::of(Class::Denied));
        }
        let ends = self.now.plus(LIFE_MS);
        Ok(AccessToken {
            secret: Secret::new(format!("{resource}#{}", self.now.0).into_bytes()),
            lifetime: Lifetime {
                received_at: self.now.plus(LATENCY_MS),
                expires_on_s: ends.as_secs(),
                not_before_s: None,
                refresh_in_s: None,
            },
            client_id: None,
        })
    }

    fn ask(&mut self, resource: &str) -> Got {
        let target = resource.as_bytes();
        let found = self.view.find(0, target).map(Ok);
        let place = found.unwrap_or_else(|| {
            let key = TokenKey {
                upstream: "imds".into(),
                identity: Identity::System,
                resource: Resource::from_decoded(target).expect("a resource"),
                capabilities: vec![],
                extras: vec![],
                client: None,
            };
            let caller = Caller::Unix { uid: 0, gid: 0 };
            let permit = Policy::default().permit(&caller, None, key);
            let plain = Asked {
                shape: Shape::Metadata,
                force: None,
            };
            self.view
                .remember(0, target, plain, permit.expect("a local caller"))
        });
        let Ok(place) = place else {
            return Got::Full;
        };
        match self.view.look(place, self.now, Turn::First) {
            Found::Body(_) => Got::Served,
            Found::Full | Found::Nothing => Got::Full,
            Found::Wait(waiter, leader) => {
                if let Some((slot, leader)) = leader {
                    let work = self.writer.demanded(self.now, slot, leader);
                    self.take(work);
                }
                Got::Waiting(waiter)
            }
        }
    }

    /// Asks for a key that nobody asked for before; how long it took to get a place and an answer.
    fn arrives(&mut self, resource: &str, patience_ms: u64) -> Option<(u64, u64)> {
        let began = self.now;
        let mut placed = None;
        while self.now.since(began) <= patience_ms {
            match self.ask(resource) {
                Got::Served => {
                    let placed = placed.unwrap_or(self.now);
                    return Some((placed.since(began), self.now.since(began)));
                }
                Got::Full => self.run_until(self.now.plus(100)),
                Got::Waiting(mut waiter) => {
                    placed = placed.or(Some(self.now));
                    self.run_until(self.now.plus(100));
                    let _ = poll(&mut waiter);
                }
            }
        }
        None
    }
}

fn poll(waiter: &mut Waiter) -> Option<Landing> {
    match pin!(waiter).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(landing) => Some(landing),
        Poll::Pending => None,
    }
}

/// What the process has in memory.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.map_or(0, |pages: usize| pages * 4096)
}

/// How many resources the flood has, and whether this process does nothing else.
fn size() -> (usize, bool) {
    match std::env::var("FORETOKEN_FLOOD") {
        Ok(typed) => (typed.parse().expect("a number"), true),
        Err(_) => (100_000, false),
    }
}

/// Fifty keys in use, and every millisecond a resource that nobody asked for before. `seats` of its
/// callers wait at the same time, as connections that stay open; the rest hang up at once.
fn flood(junk: Junk, seats: usize) -> World {
    let (resources, alone) = size();
    let mut world = World::new(junk);
    let live: Vec<String> = (0..50).map(|i| format!("https://{i}.live")).collect();
    for key in &live {
        world.arrives(key, PATIENCE_MS).expect("a token");
    }
    let before = resident_bytes();
    let mut random = fastrand::Rng::with_seed(47);
    let mut waiting: VecDeque<(UnixMs, Waiter)> = VecDeque::new();
    let (mut hits, mut refused) = (0, 0);
    for nth in 0..resources {
        world.run_until(world.now.plus(1));
        waiting.retain_mut(|(_, waiter)| poll(waiter).is_none());
        while waiting
            .front()
            .is_some_and(|(since, _)| world.now.since(*since) > PATIENCE_MS)
        {
            waiting.pop_front();
        }
        match world.ask(&format!("junk {nth}")) {
            Got::Waiting(waiter) if waiting.len() < seats => {
                waiting.push_back((world.now, waiter));
            }
            Got::Waiting(_) => {}
            Got::Full => refused += 1,
            Got::Served => panic!("nobody asked for it before"),
        }
        assert!(world.cache.len() <= MAX_KEYS);
        if nth % 20 == 0 {
            let key = &live[random.usize(..live.len())];
            assert!(
                matches!(world.ask(key), Got::Served),
                "{key} after {nth} resources"
            );
            hits += 1;
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "{junk:?}, {seats} seats: {resources} resources, {hits} hits of 50 keys in use, {} calls, \
         at most {} keys of {MAX_KEYS}, {refused} without a place",
        world.calls, world.most_keys
    );
    if alone {
        println!("{} KB more memory, of {}", grown / 1024, CAP_BYTES / 1024);
    }
    assert!(world.most_keys <= MAX_KEYS);
    assert!(!alone || grown < CAP_BYTES, "{grown} bytes");
    world
}

#[test]
fn a_flood_of_refused_resources_costs_the_keys_in_use_nothing() {
    let mut world = flood(Junk::Refused, 100);
    let (placed, served) = world
        .arrives("https://new.example", 60_000)
        .expect("a token");
    println!("a new key: a place after {placed} ms, its token after {served} ms");
    assert!(placed <= 5000);
    // What the flood leaves is gone within the time that a refusal stands.
    world.run_until(world.now.plus(30_000));
    assert!(world.cache.len() <= 51, "{}", world.cache.len());
}

#[test]
fn a_flood_of_granted_resources_takes_no_place_from_keys_in_use_and_leaves_some_to_new_ones() {
    let mut world = flood(Junk::Granted, 100);
    let (placed, served) = world
        .arrives("https://new.example", 60_000)
        .expect("a token");
    println!("a new key: a place after {placed} ms, its token after {served} ms");
    assert!(placed <= 5000);
}

#[test]
fn an_index_full_of_keys_that_callers_wait_for_has_places_again_when_they_leave() {
    let mut world = World::new(Junk::Refused);
    let mut waiting = Vec::new();
    for nth in 0..2 * MAX_KEYS {
        if let Got::Waiting(waiter) = world.ask(&format!("junk {nth}")) {
            waiting.push(waiter);
        }
    }
    assert_eq!(world.cache.len(), MAX_KEYS);
    assert!(matches!(world.ask("https://new.example"), Got::Full));
    // Everybody hangs up. No key that somebody waits for was dropped before.
    let awaited = waiting.iter_mut().map(poll).filter(Option::is_none);
    assert!(awaited.count() >= MAX_KEYS - 10);
    drop(waiting);
    let (placed, served) = world
        .arrives("https://new.example", 20_000)
        .expect("a token");
    assert!(placed <= 5000 && served <= 10_000, "{placed} {served}");
}
