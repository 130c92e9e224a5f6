//! How long does a start wait for its stored tokens, and how long does a change take until it is on
//! disk, with each engine?

#![allow(missing_docs)] // criterion's macros make public items

use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use foretoken::clock::{Clock, UnixMs};
use foretoken::store::machine::Machine;
use foretoken::store::{Engine, Mode, Settings, Store};
use foretoken::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};

/// Tokens of managed identities are 1.5 to 2 kB long.
const TOKEN_BYTES: usize = 2048;
const PATIENCE: Duration = Duration::from_secs(30);

fn key(number: u64) -> TokenKey {
    let resource = format!("https://{number}.example");
    TokenKey {
        upstream: "imds http://169.254.169.254".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(resource.as_bytes()).expect("a plain resource"),
        capabilities: Vec::new(),
        extras: Vec::new(),
        client: None,
    }
}

fn token(clock: &Clock) -> Arc<AccessToken> {
    let now = clock.now();
    Arc::new(AccessToken {
        secret: Secret::new(vec![b'x'; TOKEN_BYTES]),
        lifetime: Lifetime {
            received_at: now,
            expires_on_s: now.as_secs() + 86_400,
            not_before_s: None,
            refresh_in_s: None,
        },
        client_id: None,
    })
}

fn stores(c: &mut Criterion) {
    let (clock, machine) = (Clock::system(), Machine::read());
    for (engine, name) in [(Engine::Sled, "sled"), (Engine::Log, "log")] {
        for records in [1_000, 8_000] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let settings = Settings {
                mode: Mode::Sealed,
                engine,
                path: folder.path().join("store"),
                key: folder.path().join("key"),
                credentials: None,
            };
            let open = || Store::open(&settings, &machine, &clock).expect("nobody else uses it");
            let store = open().store;
            (0..records).for_each(|n| store.put(&key(n), &token(&clock), 1, UnixMs(n)));
            assert!(store.close(PATIENCE));

            let mut group = c.benchmark_group("store");
            group.sample_size(10);
            group.bench_function(BenchmarkId::new(format!("open_{name}"), records), |b| {
                b.iter_custom(|times| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..times {
                        let start = WallTime.start();
                        let opened = open();
                        spent += WallTime.end(start);
                        assert_eq!(opened.restored.len() as u64, records);
                        assert!(opened.store.close(PATIENCE));
                    }
                    spent
                });
            });
            let store = open().store;
            let mut generation = 1;
            group.bench_function(BenchmarkId::new(format!("change_{name}"), records), |b| {
                b.iter(|| {
                    generation += 1;
                    store.put(&key(0), &token(&clock), generation, UnixMs(0));
                    // Removals are not gathered for a second; this one removes nothing.
                    store.remove(&key(u64::MAX));
                    assert!(store.settle(PATIENCE));
                });
            });
            assert!(store.close(PATIENCE));
            group.finish();
        }
    }
}

criterion_group!(benches, stores);
criterion_main!(benches);
