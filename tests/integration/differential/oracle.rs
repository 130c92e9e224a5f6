//! The second opinion: hyper reads and writes, and the handler is asked by a worker that has seen
//! nothing before, so that nothing remembered can speak for it.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use foretoken::authz::{Caller, Clients, Policy};
use foretoken::cache::{Cache, Landing, Turn};
use foretoken::clock::Clock;
use foretoken::config::Settings;
use foretoken::protocol::Dialect;
use foretoken::refresh::{self, Driver, Writer};
use foretoken::server::arc_keys::ArcKeys;
use foretoken::server::handler::{Gate, Live, Outcome, Request, Worker, handle};
use foretoken::server::{ExpiresOn, Refusal};
use foretoken::store::Store;
use foretoken::telemetry::metrics::Metrics;
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::ours::Source;

/// Marks what the handler answered; what hyper answers by itself has no such header.
pub const MARK: &str = "x-answered-by-the-handler";
/// More than any stream and all of its answers.
const PIPE_BYTES: usize = 1 << 20;

pub struct Oracle {
    runtime: Runtime,
    house: Rc<House>,
    gates: Vec<Rc<Gate>>,
    driver: Driver,
}

/// What workers are made of.
struct House {
    cache: Arc<Cache>,
    live: Arc<Live>,
    refresh: refresh::Handle,
    metrics: Metrics,
    clock: Clock,
}

impl Oracle {
    pub fn start(settings: &Settings, clock: &Clock) -> Self {
        let cache = Arc::new(Cache::new().with_limits(settings.limits));
        let metrics = Metrics::new();
        let limits = refresh::Settings {
            max_in_flight: settings.upstream.max_in_flight,
            max_per_second: settings.upstream.max_per_second,
            ..refresh::Settings::default()
        };
        let name = settings.upstream.source.name();
        let (held, counted) = (Arc::clone(&cache), metrics.clone());
        let writer = Writer::new(limits, &name, held, Store::off(), counted);
        let source = Source(clock.clone());
        let driver = Driver::start(writer, source, clock.clone(), vec![]).expect("a thread");
        let live = Live {
            policy: Policy {
                clients: Clients::new(Arc::clone(&settings.clients)),
                remote_callers: settings.server.remote_callers,
            },
            upstream: name.as_str().into(),
        };
        let gates = settings.server.listeners.iter().zip(0..);
        let gates = gates.map(|(listener, id)| {
            let arc = listener.arc.as_ref().map(|arc| {
                let keys = ArcKeys::open(&arc.folder, None, arc.allow_agent);
                Arc::new(keys.expect("a folder of our own"))
            });
            Rc::new(Gate {
                id,
                dialects: listener.dialects.clone(),
                dates_2017: listener.expires_on_2017 == ExpiresOn::Date,
                without_metadata: listener.without_metadata,
                arc,
            })
        });
        Self {
            gates: gates.collect(),
            house: Rc::new(House {
                cache,
                live: Arc::new(live),
                refresh: driver.handle(),
                metrics,
                clock: clock.clone(),
            }),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            driver,
        }
    }

    /// As a client on a connection of its own: all bytes, the end, and all that came back.
    pub fn send(&self, listener: usize, bytes: &[u8]) -> Vec<u8> {
        let (house, gate) = (Rc::clone(&self.house), Rc::clone(&self.gates[listener]));
        LocalSet::new().block_on(&self.runtime, async move {
            let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
            let connection = http1::Builder::new().half_close(true).serve_connection(
                TokioIo::new(server),
                service_fn(move |request| serve(Rc::clone(&house), Rc::clone(&gate), request)),
            );
            let playing = async {
                client.write_all(bytes).await.expect("there is room");
                client.shutdown().await.expect("a pipe");
                let mut answers = Vec::new();
                client.read_to_end(&mut answers).await.expect("a pipe");
                answers
            };
            // What hyper complains of is the client's doing, and is seen by the client.
            let ((), answers) = tokio::join!(
                async {
                    let _ = connection.await;
                },
                playing
            );
            answers
        })
    }

    pub fn stop(self) {
        self.driver.stop();
    }
}

/// What the connection loop does around the handler, in plain words.
async fn serve(
    house: Rc<House>,
    gate: Rc<Gate>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let is_post = head.method == hyper::Method::POST;
    let form = if is_post {
        match body.collect().await {
            Ok(body) => body.to_bytes(),
            // hyper has the last word on a body that it cannot read.
            Err(_) => return Ok(Response::new(Full::default())),
        }
    } else {
        Bytes::new()
    };
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
        .collect();
    let target = head
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let caller = Caller::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut worker = Worker::new(
        Arc::clone(&house.cache),
        Arc::clone(&house.live),
        house.refresh.clone(),
        house.metrics.clone(),
    );
    let turn = Cell::new(Turn::First);
    let mut trouble = None;
    loop {
        let request = Request {
            gate: &gate,
            caller: &caller,
            method: head.method.as_str().as_bytes(),
            target: target.as_bytes(),
            headers: &headers,
            form: &form,
            head: None,
            turn: turn.get(),
        };
        let waiter = match handle(&mut worker, &request, house.clock.now()) {
            Outcome::Answer(parts) => return Ok(found(parts.concat())),
            Outcome::Refuse(refusal, dialect) => {
                return Ok(refused(&trouble.unwrap_or(refusal), dialect, None, is_post));
            }
            Outcome::Challenge(keys) => {
                let issued = keys.issue(house.clock.now()).expect("a key file");
                let realm = format!("Basic realm={}", issued.path.display());
                return Ok(refused(
                    &Refusal::Challenged,
                    Dialect::Arc,
                    Some(realm),
                    false,
                ));
            }
            Outcome::Wait(waiter) => waiter,
        };
        trouble = match waiter.await {
            Landing::Arrived | Landing::Gone => {
                turn.set(Turn::Again);
                continue;
            }
            Landing::Failed(error) => Some(Refusal::Upstream(error)),
            Landing::Lost => Some(Refusal::Lost),
        };
        turn.set(Turn::Last);
    }
}

fn with_headers(status: u16, body: Vec<u8>) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(MARK, "")
        .header("content-type", "application/json; charset=utf-8")
        .header("cache-control", "no-store")
        .header("pragma", "no-cache")
        .body(Full::from(body))
        .expect("plain headers")
}

fn found(body: Vec<u8>) -> Response<Full<Bytes>> {
    with_headers(200, body)
}

fn refused(
    refusal: &Refusal,
    dialect: Dialect,
    challenge: Option<String>,
    is_post: bool,
) -> Response<Full<Bytes>> {
    let rejection = refusal.render(dialect, 0);
    let mut response = with_headers(rejection.status, rejection.body);
    let mut add = |name: &'static str, value: String| {
        let value = value.parse().expect("a header's value");
        response.headers_mut().insert(name, value);
    };
    if let Some(seconds) = rejection.retry_after_s {
        add("retry-after", seconds.to_string());
    }
    if let Some(methods) = rejection.allow {
        add("allow", methods.to_owned());
    }
    if let Some(challenge) = challenge {
        add("www-authenticate", challenge);
    }
    if rejection.close || is_post {
        add("connection", "close".to_owned());
    }
    response
}
