//! What benches share: a warm cache, workers in front of it, and heads as real clients send them.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use foretoken::authz::guard::{Facts, Header};
use foretoken::authz::{Caller, Client, Clients, Permit, Policy};
use foretoken::cache::{Cache, Turn};
use foretoken::clock::{Clock, UnixMs};
use foretoken::protocol::{Dialect, Proof, parse, recognise};
use foretoken::refresh::{Driver, Settings, Writer};
use foretoken::server::handler::{Gate, Live, Outcome, Request, Worker, handle};
use foretoken::server::head::{self, MAX_HEADERS};
use foretoken::store::Store;
use foretoken::telemetry::metrics::Metrics;
use foretoken::token::{AccessToken, Identity, Lifetime, Secret};
use foretoken::upstream::{Ask, Class, FetchError, TokenSource};

/// The first second of 2026, at which the clock stands.
pub const NOW: UnixMs = UnixMs(1_767_225_600_000);
/// Tokens of managed identities are 1.5 to 2 kB long.
const TOKEN_BYTES: usize = 1600;
const SECRET: &str = "69418689F1E342DD946CB82994CDA3CB";

/// Nothing is asked of it: everything is warm.
struct Nobody;

impl TokenSource for Nobody {
    fn fetch(
        &self,
        _: Ask,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        std::future::ready(Err(FetchError::of(Class::Unreachable)))
    }
}

/// A cache, and what workers in front of it need.
pub struct House {
    pub cache: Arc<Cache>,
    pub clock: Clock,
    live: Arc<Live>,
    metrics: Metrics,
    driver: Driver,
}

impl Default for House {
    fn default() -> Self {
        let (clock, _) = Clock::cranked(NOW);
        let (cache, metrics) = (Arc::new(Cache::new()), Metrics::new());
        let (held, counted) = (Arc::clone(&cache), metrics.clone());
        let writer = Writer::new(Settings::default(), "imds", held, Store::off(), counted);
        let driver = Driver::start(writer, Nobody, clock.clone(), vec![]).expect("a thread");
        let client = Client {
            name: "bench".into(),
            secret: Secret::new(SECRET.into()),
            identities: vec![Identity::System],
            resources: vec![],
            default_identity: None,
        };
        let live = Arc::new(Live {
            policy: Policy {
                clients: Clients::new([client].into()),
                ..Policy::default()
            },
            upstream: "imds".into(),
        });
        Self {
            cache,
            clock,
            live,
            metrics,
            driver,
        }
    }
}

impl House {
    pub fn worker(&self) -> Worker {
        let (cache, live) = (Arc::clone(&self.cache), Arc::clone(&self.live));
        Worker::new(cache, live, self.driver.handle(), self.metrics.clone())
    }

    /// Puts a token into the cache for what these bytes ask for.
    pub fn warm(&self, gate: &Gate, bytes: &[u8]) {
        self.publish(&self.permit(gate, bytes));
    }

    /// Gives a key another token.
    pub fn publish(&self, permit: &Permit) {
        let slot = self.cache.lookup(permit).expect("there is room");
        slot.publish(self.cache.entry(permit.key(), Arc::new(token()), []));
    }

    /// What a request comes to, as the handler finds out.
    pub fn permit(&self, gate: &Gate, bytes: &[u8]) -> Permit {
        let mut headers: [Header<'_>; MAX_HEADERS] = [(b"", b""); MAX_HEADERS];
        let (head, count) = head::read(bytes, &mut headers)
            .expect("a good head")
            .expect("a whole one");
        let mut parts = head.target.splitn(2, |byte| *byte == b'?');
        let path = parts.next().unwrap_or_default();
        let query = parts.next().unwrap_or_default();
        let dialect = recognise(&gate.dialects, path, query).expect("a known path");
        let facts = Facts::read(headers[..count].iter().copied());
        let policy = &self.live.policy;
        let proven = match dialect.proof() {
            Proof::Secret(header) => {
                let secret = facts.secret(header).expect("a secret");
                Some(policy.clients.prove(secret).expect("the right one"))
            }
            _ => None,
        };
        let wish = parse(dialect, query, &bytes[head.len..]).expect("a good request");
        let key = wish.into_key(&self.live.upstream);
        policy.permit(&caller(), proven, key).expect("allowed")
    }

    /// Ends the refresh thread: a hit does not ask it for anything.
    pub fn stop(self) -> Clock {
        self.driver.stop();
        self.clock
    }
}

pub fn token() -> AccessToken {
    AccessToken {
        secret: Secret::new(vec![b'x'; TOKEN_BYTES]),
        lifetime: Lifetime {
            received_at: NOW,
            expires_on_s: NOW.as_secs() + 86_400,
            not_before_s: Some(NOW.as_secs()),
            refresh_in_s: None,
        },
        client_id: Some("aaaaaaaa-1111-4222-8333-444444444444".into()),
    }
}

pub fn caller() -> Caller {
    Caller::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

pub fn gate(dialect: Dialect) -> Gate {
    Gate {
        id: 0,
        dialects: vec![dialect],
        dates_2017: false,
        without_metadata: false,
        arc: None,
    }
}

/// Reads one request and answers it, which must be a hit: how long the body is.
pub fn hit(worker: &mut Worker, gate: &Gate, bytes: &[u8]) -> usize {
    let mut headers: [Header<'_>; MAX_HEADERS] = [(b"", b""); MAX_HEADERS];
    let Ok(Some((head, count))) = head::read(bytes, &mut headers) else {
        panic!("a good head");
    };
    let request = Request {
        gate,
        caller: &caller(),
        method: head.method,
        target: head.target,
        headers: &headers[..count],
        form: &bytes[head.len..],
        head: None,
        turn: Turn::First,
    };
    match handle(worker, &request, NOW) {
        Outcome::Answer(parts) => parts.iter().map(|part| part.len()).sum(),
        _ => panic!("everything is warm"),
    }
}

/// A resource of its own for each number, all of one length.
pub fn resource(number: usize) -> String {
    format!("https://{number:05}.vault.azure.net")
}

/// As few bytes as a request can have.
pub fn short(number: usize) -> Vec<u8> {
    let resource = resource(number);
    format!(
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource} \
         HTTP/1.1\r\nHost: 127.0.0.1\r\nMetadata: true\r\n\r\n"
    )
    .into_bytes()
}

/// Python's azure-identity 1.27.0.
pub fn python_sdk(number: usize) -> Vec<u8> {
    let resource = resource(number);
    format!(
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource} \
         HTTP/1.1\r\nHost: 169.254.169.254\r\n\
         User-Agent: azsdk-python-identity/1.27.0 Python/3.11.7 (Linux-6.18-x86_64-with-glibc2.36)\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\nMetadata: true\r\n\
         x-client-SKU: MSAL.Python\r\nx-client-Ver: 1.39.0\r\n\
         x-ms-client-request-id: 3b7d0a52-5a31-4b1c-9d1e-{number:012x}\r\n\r\n"
    )
    .into_bytes()
}

/// Node's @azure/identity 4.13.1 with a resource id: the longest recorded head.
pub fn longest(number: usize) -> Vec<u8> {
    let resource = resource(number).replace(':', "%3A").replace('/', "%2F");
    format!(
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}\
         &msi_res_id=%2Fsubscriptions%2F00000000-0000-4000-8000-000000000001%2FresourceGroups%2Frg-one\
         %2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fid-one HTTP/1.1\r\n\
         Metadata: true\r\nx-client-SKU: msal.js.node\r\nx-client-VER: 5.6.0\r\n\
         x-ms-client-request-id: 26366b71-d8b6-486b-a841-{number:012x}\r\n\
         Content-Type: application/x-www-form-urlencoded;charset=utf-8\r\n\
         Accept-Encoding: gzip,deflate\r\n\
         User-Agent: azsdk-js-identity/4.13.1 core-rest-pipeline/1.24.0 Node/20.20.2 \
         (Linux 6.18.44-fc-v669; x64)\r\nHost: 169.254.169.254\r\nConnection: keep-alive\r\n\r\n"
    )
    .into_bytes()
}

/// A request of Python's SDK in a dialect; Arc has no hit without a challenge before it.
pub fn of_dialect(dialect: Dialect, number: usize) -> Vec<u8> {
    let resource = resource(number);
    let (path, secret) = match dialect {
        Dialect::Imds => return python_sdk(number),
        Dialect::CloudShell => {
            let form = format!("resource={resource}");
            return format!(
                "POST /oauth2/token HTTP/1.1\r\nHost: localhost:50342\r\nMetadata: true\r\n\
                 User-Agent: azsdk-python-identity/1.27.0 Python/3.11.7\r\nAccept: */*\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
                form.len()
            )
            .into_bytes();
        }
        Dialect::AppService => ("/msi/token?api-version=2019-08-01", "X-IDENTITY-HEADER"),
        Dialect::AppService2017 => ("/MSI/token?api-version=2017-09-01", "secret"),
        Dialect::ServiceFabric => (
            "/metadata/identity/oauth2/token?api-version=2019-07-01-preview",
            "Secret",
        ),
        Dialect::VmExtension => ("/oauth2/token?api-version=2018-02-01", "Metadata"),
        Dialect::Arc => panic!("each request of Arc is a challenge first"),
    };
    let value = if secret == "Metadata" { "true" } else { SECRET };
    format!(
        "GET {path}&resource={resource} HTTP/1.1\r\nHost: localhost:42356\r\n\
         User-Agent: azsdk-python-identity/1.27.0 Python/3.11.7\r\nAccept: */*\r\n\
         Accept-Encoding: gzip, deflate\r\n{secret}: {value}\r\n\r\n"
    )
    .into_bytes()
}
