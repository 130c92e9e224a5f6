//! What operators look at, over the sockets at which they look.

use std::os::unix::fs::PermissionsExt;

use foretoken::admin::{Access, Admin};
use foretoken::telemetry::metrics::{Metrics, NAMES};
use foretoken_emulator::{Emulator, Fault, FaultKind};
use rustix::process::Signal;

use crate::support::http::{self, Answer};
use crate::support::jwt::token_of;
use crate::support::metrics::{scrape, sum};
use crate::support::process::{Served, write_config};
use crate::support::wait::until;
use crate::support::{House, emulator_settings};

const ENDPOINTS: [&str; 4] = ["/livez", "/readyz", "/metrics", "/status"];

fn ask(house: &House, method: &str, target: &str, headers: &str) -> Answer {
    let request = format!("{method} {target} HTTP/1.1\r\n{headers}\r\n");
    http::send(house.app.admin_address(), request.as_bytes()).expect("an answer")
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).expect("text")
}

#[test]
fn a_process_is_alive_before_it_is_ready_and_while_it_drains() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let admin = Admin::new(Metrics::new());
    let status = |target| {
        let answer = admin.answer("GET", target, Access::ReadOnly);
        runtime.block_on(answer).status
    };
    assert_eq!((status("/livez"), status("/readyz")), (200, 503));
    assert_eq!((status("/status"), status("/metrics")), (503, 200));
    admin.serving(true);
    assert_eq!((status("/livez"), status("/readyz")), (200, 200));
    admin.serving(false);
    assert_eq!((status("/livez"), status("/readyz")), (200, 503));
}

#[test]
fn a_house_that_serves_is_alive_and_ready() {
    let house = House::start();
    for target in ["/livez", "/readyz"] {
        let answer = http::get(house.app.admin_address(), target);
        assert_eq!((answer.status, text(&answer).as_str()), (200, "ok\n"));
    }
    assert_eq!(http::get(house.app.admin_address(), "/").status, 404);
    let answer = ask(&house, "POST", "/metrics", "Host: localhost\r\n");
    assert_eq!(answer.status, 405);
}

#[test]
fn every_metric_is_there_after_traffic_and_reads_as_prometheus_does() {
    let house = House::start();
    let token = token_of(&http::token(house.address(), "r"));
    house
        .emulator
        .set_fault(Some(Fault::times(FaultKind::Reset, 1)));
    assert_eq!(http::token(house.address(), "s").status, 503);
    let metrics = || http::get(house.app.admin_address(), "/metrics");
    until("both calls are counted", || {
        let samples = scrape(house.app.admin_address());
        sum(&samples, "foretoken_upstream_calls_total", None) == 2
    });
    let answer = metrics();
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
    let exposition = text(&answer);
    assert!(!exposition.contains(&token));

    let samples = scrape(house.app.admin_address());
    for (name, help) in NAMES {
        assert!(samples.iter().any(|sample| sample.name == name), "{name}");
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        assert!(
            exposition.contains(&format!("# TYPE {name} {kind}\n")),
            "{name}"
        );
        assert!(
            exposition.contains(&format!("# HELP {name} {help}\n")),
            "{name}"
        );
    }
    for sample in &samples {
        assert!(
            NAMES.iter().any(|(name, _)| sample.name == *name),
            "{sample:?}"
        );
    }
    // Every series once, or a scraper drops them all.
    for (nth, sample) in samples.iter().enumerate() {
        let same = |other: &&_| {
            let other: &crate::support::metrics::Sample = other;
            (&other.name, &other.labels) == (&sample.name, &sample.labels)
        };
        assert_eq!(samples[nth + 1..].iter().find(same), None);
    }
}

#[test]
fn status_tells_every_key_and_no_token() {
    let house = House::start();
    let client = "r&client_id=00000000-0000-4000-8000-000000000001&xms_cc=cp1&x=y";
    let tokens = [client, "r"].map(|key| token_of(&http::token(house.address(), key)));
    let answer = http::get(house.app.admin_address(), "/status");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = text(&answer);
    for token in &tokens {
        for part in token.split('.') {
            assert!(!body.contains(part));
        }
    }
    let status = answer.json();
    assert_eq!(status["store"], "ok");
    let keys = status["keys"].as_array().expect("keys");
    assert_eq!(keys.len(), 2);
    let upstream = format!("imds {}", house.emulator.address());
    for key in keys {
        assert_eq!(key["upstream"], upstream);
        assert_eq!(
            (&key["resource"], &key["last"]),
            (&"r".into(), &"renewed".into())
        );
        let seconds = |name: &str| key[name].as_u64().expect("seconds");
        assert!(seconds("expires_in_s") <= 86_400);
        assert!(seconds("runway_s") < seconds("expires_in_s"));
        assert!(seconds("next_call_in_s") < seconds("runway_s"));
        assert!(key["hits"].is_u64());
    }
    let of = |identity: &str| keys.iter().find(|key| key["identity"] == identity);
    let named = of("client_id=00000000-0000-4000-8000-000000000001").expect("both keys");
    assert_eq!(named["capabilities"], serde_json::json!(["cp1"]));
    assert_eq!(named["extra_parameters"], serde_json::json!([["x", "y"]]));
    assert!(of("system").is_some());
}

#[test]
fn nothing_can_be_changed_over_tcp() {
    let house = House::start();
    let token = token_of(&http::token(house.address(), "r"));
    for target in ["/purge?all", "/purge?resource=r", "/purge"] {
        let answer = ask(&house, "POST", target, "Host: localhost\r\n");
        assert_eq!(answer.status, 403, "{target}");
        assert!(text(&answer).contains("admin socket"));
    }
    assert_eq!(
        ask(&house, "GET", "/purge?all", "Host: localhost\r\n").status,
        405
    );
    assert_eq!(token_of(&http::token(house.address(), "r")), token);
    assert_eq!(house.emulator.counts().total, 1);
}

#[test]
fn a_web_page_cannot_read_the_keys_names() {
    let house = House::start();
    token_of(&http::token(
        house.address(),
        "https://secret-vault.example",
    ));
    for headers in [
        "Host: evil.example\r\n",
        "Host: localhost\r\nOrigin: http://evil.example\r\n",
        "Host: localhost\r\nReferer: http://evil.example/\r\n",
        "Host: localhost\r\nX-Forwarded-For: 10.0.0.1\r\n",
        "",
    ] {
        for target in ENDPOINTS {
            let answer = ask(&house, "GET", target, headers);
            assert_eq!(answer.status, 403, "{target} {headers}");
            assert_eq!(text(&answer), "not accepted\n");
        }
    }
}

#[test]
fn a_purge_over_the_admin_socket_ends_the_tokens_it_names() {
    let house = House::start();
    let state = house.folder.path();
    let socket = std::fs::metadata(state.join("admin.sock")).expect("a socket");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);

    for resource in ["a", "b", "c"] {
        token_of(&http::token(house.address(), resource));
    }
    let answer = http::purge(state, "resource=b");
    assert_eq!(
        (answer.status, text(&answer).as_str()),
        (200, "purged 1 keys\n")
    );
    for (resource, calls) in [("a", 1), ("b", 2), ("c", 1)] {
        token_of(&http::token(house.address(), resource));
        let counts = house.emulator.counts();
        assert_eq!(counts.calls_for("system", resource), calls, "{resource}");
    }
    let answer = http::purge(state, "all");
    assert_eq!(
        (answer.status, text(&answer).as_str()),
        (200, "purged 3 keys\n")
    );
    let status = http::get(house.app.admin_address(), "/status").json();
    assert_eq!(status["keys"], serde_json::json!([]));
    token_of(&http::token(house.address(), "a"));
    assert_eq!(house.emulator.counts().calls_for("system", "a"), 2);
    for query in ["", "everything", "all&resource=a", "resource=%zz"] {
        assert_eq!(http::purge(state, query).status, 400, "{query}");
    }
}

#[test]
fn without_a_folder_for_the_store_it_serves_says_so_and_warns_once() {
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").expect("a file");
    let store = format!("[store]\npath = {:?}\n", file.join("store"));
    let config = write_config(folder.path(), emulator.address(), &store);
    let mut served = Served::start(&config, folder.path());

    let token = token_of(&http::token(served.address, "r"));
    assert_eq!(token_of(&http::token(served.address, "r")), token);
    assert_eq!(emulator.counts().total, 1);
    let ready = http::get(served.admin, "/readyz");
    assert_eq!(ready.status, 200);
    assert!(
        text(&ready).starts_with("degraded: store: "),
        "{}",
        text(&ready)
    );
    let status = http::get(served.admin, "/status").json();
    assert_ne!(status["store"], "ok");
    let samples = scrape(served.admin);
    assert_eq!(sum(&samples, "foretoken_store_degraded", None), 1);

    served.end(Signal::TERM);
    let log = served.log();
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("\"WARN\""))
        .collect();
    let stored: Vec<_> = warnings
        .iter()
        .filter(|line| !line.contains("did not close"))
        .collect();
    assert_eq!(stored.len(), 1, "{stored:#?}");
}
