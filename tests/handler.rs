//! The handler on plain values. A hit allocates nothing: counted, in a binary of its own because
//! the allocator is global.

#![allow(
    unsafe_code,
    reason = "a global allocator cannot be written without it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use foretoken::authz::guard::Header;
use foretoken::authz::{Caller, Policy};
use foretoken::cache::{Cache, Turn, Waiter};
use foretoken::clock::{Clock, Crank, UnixMs};
use foretoken::protocol::Dialect;
use foretoken::refresh::{Driver, Settings, Writer};
use foretoken::server::arc_keys::ArcKeys;
use foretoken::server::handler::{Gate, Live, Outcome, Request, Worker, handle, recall};
use foretoken::server::head::{self, MAX_HEADERS};
use foretoken::store::Store;
use foretoken::telemetry::metrics::Metrics;
use foretoken::token::{AccessToken, Lifetime, Secret};
use foretoken::upstream::{Ask, FetchError, TokenSource};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread what it hands out.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell of the
// calling thread, needs no allocation itself and never unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Answers at once with an hour-long token.
struct Instant(Clock);

impl TokenSource for Instant {
    fn fetch(
        &self,
        ask: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        let lifetime = Lifetime {
            received_at: self.0.now(),
            expires_on_s: self.0.now().as_secs() + 3600,
            not_before_s: Some(self.0.now().as_secs()),
            refresh_in_s: None,
        };
        let secret = Secret::new(ask.key.resource.as_str().as_bytes().to_vec());
        std::future::ready(Ok(AccessToken {
            secret,
            lifetime,
            client_id: Some("id".into()),
        }))
    }
}

fn gate() -> Gate {
    Gate {
        id: 0,
        dialects: vec![Dialect::Imds],
        dates_2017: false,
        without_metadata: false,
        arc: None,
    }
}

fn worker() -> (Worker, Clock, Crank, Driver) {
    let (clock, crank) = Clock::cranked(UnixMs(1_767_225_600_000));
    let store = Store::off();
    let (cache, metrics) = (Arc::new(Cache::new()), Metrics::new());
    let limits = Settings {
        max_in_flight: 4,
        max_per_second: 100,
        ..Settings::default()
    };
    let writer = Writer::new(limits, "imds", Arc::clone(&cache), store, metrics.clone());
    let source = Instant(clock.clone());
    let driver = Driver::start(writer, source, clock.clone(), vec![]).expect("a thread");
    let live = Arc::new(Live {
        policy: Policy::default(),
        upstream: "imds".into(),
    });
    (
        Worker::new(cache, live, driver.handle(), metrics),
        clock,
        crank,
        driver,
    )
}

fn wait(mut waiter: Waiter) {
    let mut context = Context::from_waker(Waker::noop());
    while pin!(&mut waiter).poll(&mut context).is_pending() {
        std::thread::yield_now();
    }
}

#[test]
fn a_hit_allocates_nothing_once_the_worker_has_seen_the_target() {
    let (mut worker, clock, crank, driver) = worker();
    let gate = gate();
    let caller = Caller::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let headers: [Header<'_>; 6] = [
        (b"Host", b"169.254.169.254"),
        (b"User-Agent", b"azsdk-python-identity/1.27.0 Python/3.11.7"),
        (b"Metadata", b"true"),
        (b"Accept-Encoding", b"gzip, deflate"),
        (
            b"x-ms-client-request-id",
            b"0f0e2d56-0000-4000-8000-000000000000",
        ),
        (b"Connection", b"keep-alive"),
    ];
    let targets: Vec<String> = (0..50)
        .map(|i| {
            let path = "/metadata/identity/oauth2/token";
            format!("{path}?api-version=2018-02-01&resource=https://{i}.example&client_id=c{i}")
        })
        .collect();
    let request = |target: &'static str| Request {
        gate: Box::leak(Box::new(gate.clone())),
        caller: Box::leak(Box::new(caller.clone())),
        method: b"GET",
        target: target.as_bytes(),
        headers: Box::leak(Box::new(headers)),
        form: b"",
        head: None,
        turn: Turn::First,
    };
    let requests: Vec<_> = targets
        .iter()
        .map(|target| request(target.clone().leak()))
        .collect();

    let learning = allocations(|| {
        for request in &requests {
            match handle(&mut worker, request, clock.now()) {
                Outcome::Wait(waiter) => wait(waiter),
                _ => panic!("nothing is warm"),
            }
        }
    });
    assert!(learning > 0, "the counter counts");

    let mut bytes = 0;
    let hits = allocations(|| {
        for round in 0..200 {
            // The second moves on, so that the digits of `expires_in` change.
            crank.advance(if round % 10 == 0 { 1000 } else { 0 });
            for request in &requests {
                match handle(&mut worker, request, clock.now()) {
                    Outcome::Answer(parts) => {
                        bytes += parts.iter().map(|part| part.len()).sum::<usize>();
                    }
                    _ => panic!("everything is warm"),
                }
            }
        }
    });
    assert!(bytes > 0);
    assert_eq!(hits, 0, "10,000 hits allocated");
    driver.stop();
}

#[test]
fn a_target_that_is_remembered_is_no_permit_for_another_caller() {
    let (mut worker, clock, _crank, driver) = worker();
    let gate = gate();
    let headers: [Header<'_>; 2] = [(b"Host", b"localhost"), (b"Metadata", b"true")];
    let target = b"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r";
    let ask = |worker: &mut Worker, ip: [u8; 4]| {
        let caller = Caller::Tcp(IpAddr::from(ip));
        let request = Request {
            gate: &gate,
            caller: &caller,
            method: b"GET",
            target,
            headers: &headers,
            form: b"",
            head: None,
            turn: Turn::First,
        };
        match handle(worker, &request, clock.now()) {
            Outcome::Answer(_) => "answer",
            Outcome::Wait(waiter) => {
                wait(waiter);
                "wait"
            }
            Outcome::Refuse(refusal, _) => refusal.reason(),
            Outcome::Challenge(_) => "challenge",
        }
    };
    assert_eq!(ask(&mut worker, [10, 0, 0, 4]), "denied");
    assert_eq!(ask(&mut worker, [127, 0, 0, 1]), "wait");
    assert_eq!(ask(&mut worker, [127, 0, 0, 1]), "answer");
    assert_eq!(ask(&mut worker, [10, 0, 0, 4]), "denied");
    driver.stop();
}

#[test]
fn a_head_that_is_known_is_not_read_again_and_serves_only_who_may_have_the_token() {
    let (mut worker, clock, _crank, driver) = worker();
    let gate = gate();
    let local = Caller::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let ask = |id: u32| {
        format!(
            "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=r HTTP/1.1\r\n\
             Host: localhost\r\nMetadata: true\r\nx-ms-client-request-id: {id:08x}\r\n\r\n"
        )
    };
    let first = ask(1);
    assert!(recall(&mut worker, &gate, &local, first.as_bytes(), clock.now()).is_none());
    let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
    let read = head::read(first.as_bytes(), &mut headers).expect("good");
    let (head, count) = read.expect("whole");
    let request = Request {
        gate: &gate,
        caller: &local,
        method: head.method,
        target: head.target,
        headers: &headers[..count],
        form: b"",
        head: Some(first.as_bytes()),
        turn: Turn::First,
    };
    match handle(&mut worker, &request, clock.now()) {
        Outcome::Wait(waiter) => wait(waiter),
        _ => panic!("nothing is warm"),
    }
    assert!(matches!(
        handle(&mut worker, &request, clock.now()),
        Outcome::Answer(_)
    ));
    let behind = ask(2) + "GET /next";
    let allocated = allocations(|| {
        for _ in 0..1000 {
            match recall(&mut worker, &gate, &local, behind.as_bytes(), clock.now()) {
                Some((len, Outcome::Answer(_))) => assert_eq!(len, first.len()),
                _ => panic!("it is known, and warm"),
            }
        }
    });
    assert_eq!(allocated, 0);
    // What may be secret is not kept, wanted or not.
    for secret in [
        "Authorization: Basic x",
        "X-IDENTITY-HEADER: x",
        "Secret: x",
        "Cookie: x",
    ] {
        let bytes = first.replace("Metadata: true", &format!("Metadata: true\r\n{secret}"));
        let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
        let read = head::read(bytes.as_bytes(), &mut headers).expect("good");
        let (_, count) = read.expect("whole");
        let request = Request {
            headers: &headers[..count],
            head: Some(bytes.as_bytes()),
            ..request
        };
        for _ in 0..3 {
            assert!(matches!(
                handle(&mut worker, &request, clock.now()),
                Outcome::Answer(_)
            ));
        }
        let known = recall(&mut worker, &gate, &local, bytes.as_bytes(), clock.now());
        assert!(known.is_none(), "{secret}");
    }
    let mut other = |gate: &Gate, ip: [u8; 4]| {
        let caller = Caller::Tcp(IpAddr::from(ip));
        recall(&mut worker, gate, &caller, first.as_bytes(), clock.now()).is_some()
    };
    assert!(!other(&gate, [10, 0, 0, 4]));
    let next = Gate {
        id: 1,
        ..gate.clone()
    };
    assert!(!other(&next, [127, 0, 0, 1]), "another listener");
    assert!(other(&gate, [127, 0, 0, 1]));
    driver.stop();
}

#[test]
fn a_caller_without_arcs_key_leaves_nothing_behind() {
    let (mut worker, clock, _crank, driver) = worker();
    let folder = tempfile::tempdir().expect("a folder");
    let keys = ArcKeys::open(&folder.path().join("tokens"), None, true).expect("a folder for keys");
    let gate = Gate {
        dialects: vec![Dialect::Arc],
        arc: Some(Arc::new(keys)),
        ..gate()
    };
    let caller = Caller::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let headers: [Header<'_>; 2] = [(b"Host", b"localhost"), (b"Metadata", b"true")];
    for i in 0..100 {
        let path = "/metadata/identity/oauth2/token";
        let target = format!("{path}?api-version=2020-06-01&resource=https://{i}");
        let request = Request {
            gate: &gate,
            caller: &caller,
            method: b"GET",
            target: target.as_bytes(),
            headers: &headers,
            form: b"",
            head: None,
            turn: Turn::First,
        };
        let outcome = handle(&mut worker, &request, clock.now());
        assert!(matches!(outcome, Outcome::Challenge(_)));
    }
    assert!(worker.cache().is_empty(), "{} keys", worker.cache().len());
    driver.stop();
}
