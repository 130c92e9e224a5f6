//! What a hit costs, from head to finished body: `handle` on a warm worker.
//!
//! Axes: the head of the Python SDK or a short one, one key or a thousand.

use std::future::Future;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foretoken::authz::guard::Header;
use foretoken::authz::{Caller, Policy};
use foretoken::cache::{Cache, Turn, Waiter};
use foretoken::clock::Clock;
use foretoken::protocol::Dialect;
use foretoken::refresh::{Driver, Settings, Writer};
use foretoken::server::handler::{Gate, Live, Outcome, Request, Worker, handle};
use foretoken::store::Store;
use foretoken::telemetry::metrics::Metrics;
use foretoken::token::{AccessToken, Lifetime, Secret};
use foretoken::upstream::{Ask, FetchError, TokenSource};

const SDK_HEAD: [Header<'static>; 9] = [
    (b"Host", b"169.254.169.254"),
    (
        b"User-Agent",
        b"azsdk-python-identity/1.27.0 Python/3.11.7 (Linux-6.18-x86_64-with-glibc2.36)",
    ),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Accept", b"*/*"),
    (b"Connection", b"keep-alive"),
    (b"Metadata", b"true"),
    (b"x-client-SKU", b"MSAL.Python"),
    (b"x-client-Ver", b"1.39.0"),
    (
        b"x-ms-client-request-id",
        b"3b7d0a52-5a31-4b1c-9d1e-0b6f0f7f2d11",
    ),
];
const SHORT_HEAD: [Header<'static>; 2] = [(b"Host", b"127.0.0.1"), (b"Metadata", b"true")];

/// Answers at once with a token of a usual size.
struct Instant(Clock);

impl TokenSource for Instant {
    fn fetch(
        &self,
        _: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        let lifetime = Lifetime {
            received_at: self.0.now(),
            expires_on_s: self.0.now().as_secs() + 86_400,
            not_before_s: None,
            refresh_in_s: None,
        };
        let secret = Secret::new(vec![b'x'; 1600]);
        std::future::ready(Ok(AccessToken {
            secret,
            lifetime,
            client_id: None,
        }))
    }
}

fn wait(mut waiter: Waiter) {
    let mut context = Context::from_waker(Waker::noop());
    while pin!(&mut waiter).poll(&mut context).is_pending() {
        std::thread::yield_now();
    }
}

fn bench(c: &mut Criterion) {
    let clock = Clock::system();
    let store = Store::off();
    let (cache, metrics) = (Arc::new(Cache::new()), Metrics::new());
    let limits = Settings {
        max_in_flight: 64,
        max_per_second: 100_000,
        ..Settings::default()
    };
    let writer = Writer::new(limits, "imds", Arc::clone(&cache), store, metrics.clone());
    let driver =
        Driver::start(writer, Instant(clock.clone()), clock.clone(), vec![]).expect("a thread");
    let live = Arc::new(Live {
        policy: Policy::default(),
        upstream: "imds".into(),
    });
    let mut worker = Worker::new(cache, live, driver.handle(), metrics);

    let gate = Gate {
        id: 0,
        dialects: vec![Dialect::Imds],
        dates_2017: false,
        without_metadata: false,
        arc: None,
    };
    let caller = Caller::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let targets: Vec<String> = (0..1000)
        .map(|i| {
            format!(
                "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://{i}.vault"
            )
        })
        .collect();
    for target in &targets {
        let request = Request {
            gate: &gate,
            caller: &caller,
            method: b"GET",
            target: target.as_bytes(),
            headers: &SHORT_HEAD,
            form: b"",
            head: None,
            turn: Turn::First,
        };
        if let Outcome::Wait(waiter) = handle(&mut worker, &request, clock.now()) {
            wait(waiter);
        }
    }

    let mut group = c.benchmark_group("hit");
    group.throughput(Throughput::Elements(1));
    for (head_name, head) in [("sdk_head", &SDK_HEAD[..]), ("short_head", &SHORT_HEAD[..])] {
        for keys in [1, 1000] {
            let mut next = 0;
            group.bench_function(format!("{head_name}_{keys}_keys"), |b| {
                b.iter(|| {
                    next = (next + 1) % keys;
                    let request = Request {
                        gate: &gate,
                        caller: &caller,
                        method: b"GET",
                        target: targets[next].as_bytes(),
                        headers: black_box(head),
                        form: b"",
                        head: None,
                        turn: Turn::First,
                    };
                    match handle(&mut worker, &request, clock.now()) {
                        Outcome::Answer(parts) => parts[0].len(),
                        _ => panic!("everything is warm"),
                    }
                });
            });
        }
    }
    group.finish();
    driver.stop();
}

criterion_group!(benches, bench);
criterion_main!(benches);
