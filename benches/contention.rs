//! What does a miss cost while others miss?
//!
//! `miss_{one_key,own_keys}_{threads}_threads`: joining a flight, leading one and landing it, on one
//! shared cache, for the same key or for keys of their own.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foretoken::authz::{Caller, Permit, Policy};
use foretoken::cache::{Cache, Joined};
use foretoken::token::{Identity, Resource, TokenKey};
use foretoken::upstream::{Class, FetchError};

fn permit(resource: &str) -> Permit {
    let key = TokenKey {
        upstream: "imds".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(resource.as_bytes()).expect("a resource"),
        capabilities: vec![],
        extras: vec![],
        client: None,
    };
    Policy::default()
        .permit(&Caller::Unix { uid: 0, gid: 0 }, None, key)
        .expect("a local caller")
}

/// Look-up, flight, landing: what a miss costs beside the upstream.
fn miss(cache: &Cache, permit: &Permit, error: &Arc<FetchError>) -> bool {
    let slot = cache.lookup(permit).expect("there is room");
    match slot.join() {
        Joined::Waiting(waiter, Some(leader)) => {
            slot.fail(error);
            drop((leader, waiter));
            true
        }
        Joined::Waiting(waiter, None) => {
            drop(waiter);
            false
        }
        Joined::Gone | Joined::Crowded => panic!("nobody purges here"),
    }
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("contention");
    group.throughput(Throughput::Elements(1));
    let error = Arc::new(FetchError::of(Class::Timeout));
    for (name, same_key) in [("one_key", true), ("own_keys", false)] {
        for rivals in [0, 1] {
            let cache = Arc::new(Cache::new());
            let stop = Arc::new(AtomicBool::new(false));
            let done = Arc::new(AtomicU64::new(0));
            let threads: Vec<_> = (0..rivals)
                .map(|number| {
                    let (cache, stop, error, done) = (
                        Arc::clone(&cache),
                        Arc::clone(&stop),
                        Arc::clone(&error),
                        Arc::clone(&done),
                    );
                    std::thread::spawn(move || {
                        let own = if same_key {
                            "r".to_owned()
                        } else {
                            format!("rival {number}")
                        };
                        let permit = permit(&own);
                        while !stop.load(Ordering::Relaxed) {
                            black_box(miss(&cache, &permit, &error));
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let mine = permit("r");
            group.bench_function(format!("miss_{name}_{}_threads", rivals + 1), |b| {
                b.iter(|| miss(&cache, &mine, &error));
            });
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().expect("a rival ends");
            }
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
