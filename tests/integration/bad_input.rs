//! Whatever a caller sends, and whatever the upstream does: a clear answer, no upstream call that
//! was not owed, and the next good request is served.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use foretoken::app::App;
use foretoken_emulator::{Emulator, Fault, FaultKind};

use crate::support::http::{self, Answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::nobody::Nobody;
use crate::support::wait::until;
use crate::support::{House, emulator_settings, settings, tcp};

const PATH: &str = "/metadata/identity/oauth2/token";
const GOOD: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r";

/// What may become of the connection after a refusal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next request on it is served.
    GoesOn,
    /// The server closes it: where the next request starts is in doubt.
    Closes,
}
use Then::{Closes, GoesOn};

/// A request that is right but for what is replaced in it.
fn request(method: &str, target: &str, headers: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\n{headers}\r\n").into_bytes()
}

const HEADERS: &str = "Host: 169.254.169.254\r\nMetadata: true\r\n";

/// Sends a bad request and a good one after it, on the same connection and on another one.
fn refused(house: &House, bad: &[u8], status: u16, then: Then) -> Answer {
    let shown = String::from_utf8_lossy(&bad[..bad.len().min(300)]).into_owned();
    let calls = house.emulator.counts().total;
    let mut stream = http::connect(house.address()).expect("a connection");
    stream.write_all(bad).expect("an open connection");
    let answer = http::read_answer(&mut stream).expect("an answer");
    assert_eq!(answer.status, status, "{shown}");
    assert_eq!(house.emulator.counts().total, calls, "{shown}");
    if then == GoesOn {
        assert_eq!(answer.header("connection"), None, "{shown}");
        stream.write_all(&http::token_request("r")).expect("open");
        let next = http::read_answer(&mut stream).expect("an answer");
        assert_eq!(audience_of(&next), "r", "{shown}");
    } else {
        assert_eq!(answer.header("connection"), Some("close"), "{shown}");
        assert_eq!(stream.read(&mut [0]).expect("an end"), 0, "{shown}");
    }
    assert_eq!(audience_of(&http::token(house.address(), "r")), "r");
    answer
}

/// As [`refused`], and the answer has the shape of IMDS's errors.
fn refused_as_imds(house: &House, bad: &[u8], status: u16, then: Then) -> String {
    let answer = refused(house, bad, status, then);
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert!(body["error"].is_string(), "{body}");
    let words = body["error_description"].as_str().expect("words");
    assert!(!words.is_empty());
    words.to_owned()
}

/// A house that has served its one resource, so that good requests call nobody.
fn warm_house() -> House {
    let house = House::start();
    assert_eq!(audience_of(&http::token(house.address(), "r")), "r");
    house
}

#[test]
fn another_method_is_refused_and_told_which_one_is_taken() {
    let house = warm_house();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let request = request(method, GOOD, HEADERS);
        let answer = refused(&house, &request, 405, Closes);
        assert_eq!(answer.header("allow"), Some("GET"), "{method}");
        assert!(answer.json()["error_description"].is_string());
    }
}

#[test]
fn the_answer_to_a_head_request_has_no_body() {
    let house = warm_house();
    let mut stream = http::connect(house.address()).expect("a connection");
    let head = request("HEAD", GOOD, &format!("{HEADERS}Connection: close\r\n"));
    stream.write_all(&head).expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn paths_that_only_resemble_the_endpoint_are_not_found() {
    let house = warm_house();
    for path in [
        "/",
        "/metadata/identity/oauth2/token//",
        "/metadata/identity/oauth2/tokens",
        "/Metadata/identity/oauth2/token",
        "/metadata/identity/oauth2/%74oken",
        "/metadata/identity/../identity/oauth2/token",
        "/metadata/instance",
        "/metadata/identity/oauth2/token;x",
    ] {
        let target = format!("{path}?api-version=2018-02-01&resource=r");
        let words = refused_as_imds(&house, &request("GET", &target, HEADERS), 404, GoesOn);
        assert!(words.contains("no such endpoint"), "{words}");
    }
}

#[test]
fn platform_metadata_is_not_found_with_and_without_the_header() {
    let house = warm_house();
    let target = "/metadata/identity/getplatformmetadata?cred-api-version=2.0";
    for headers in [HEADERS, "Host: 169.254.169.254\r\n"] {
        refused_as_imds(&house, &request("GET", target, headers), 404, GoesOn);
    }
}

#[test]
fn the_metadata_header_must_be_there_once_and_exact() {
    let house = warm_house();
    for lines in [
        "",
        "Metadata: True\r\n",
        "Metadata: TRUE\r\n",
        "Metadata: false\r\n",
        "Metadata:\r\n",
        "Metadata: true, true\r\n",
        "Metadata: true\r\nMetadata: true\r\n",
        "Metadata: true\r\nmetadata: false\r\n",
        "X-Metadata: true\r\n",
    ] {
        let headers = format!("Host: 169.254.169.254\r\n{lines}");
        let words = refused_as_imds(&house, &request("GET", GOOD, &headers), 400, GoesOn);
        assert_eq!(words, "Required metadata header not specified", "{lines}");
    }
}

#[test]
fn each_mistake_in_the_query_is_named() {
    let house = warm_house();
    let long = "x".repeat(600);
    let cases = [
        ("resource=r&api-version=2017-12-01", "api-version"),
        ("resource=r&api-version=latest", "api-version"),
        ("resource=r&api-version=", "api-version"),
        ("api-version=2018-02-01", "resource"),
        ("api-version=2018-02-01&resource=", "resource"),
        ("api-version=2018-02-01&resource=a%0d%0ab", "resource"),
        ("api-version=2018-02-01&resource=r&resource=r", "twice"),
        ("api-version=2018-02-01&resource=r&%72esource=s", "twice"),
        (
            "api-version=2018-02-01&api-version=2018-02-01&resource=r",
            "twice",
        ),
        (
            "api-version=2018-02-01&resource=r&client_id=a&client_id=a",
            "twice",
        ),
        (
            "api-version=2018-02-01&resource=r&client_id=a&object_id=b",
            "more than one",
        ),
        (
            "api-version=2018-02-01&resource=r&client_id=a&msi_res_id=/b",
            "more than one",
        ),
        (
            "api-version=2018-02-01&resource=r&msi_res_id=/b&mi_res_id=/b",
            "more than one",
        ),
        (
            "api-version=2018-02-01&resource=r&object_id=a&msi-res-id=/b",
            "more than one",
        ),
        (
            "api-version=2018-02-01&resource=r&client_id=&object_id=",
            "more than one",
        ),
        (
            "api-version=2018-02-01&resource=r&client_id=a%00b",
            "characters",
        ),
        (
            "api-version=2018-02-01&resource=r&client_id=%C3%A9",
            "characters",
        ),
        ("api-version=2018-02-01&resource=r&Client_Id=a", "nearly"),
        ("api-version=2018-02-01&resource=r&Client_Id=a", "nearly"),
        ("api-version=2018-02-01&Resource=r", "nearly"),
        ("api-version=2018-02-01&%72esource=r", "escapes"),
        ("api-version=2018-02-01&resource=r&client%5fid=a", "escapes"),
        ("api-version=2018-02-01&resource=%zz", "percent"),
        ("api-version=2018-02-01&resource=r%", "percent"),
        ("api-version=2018-02-01&resource=r&x=%ff", "not text"),
    ];
    for (query, word) in cases {
        let target = format!("{PATH}?{query}");
        let words = refused_as_imds(&house, &request("GET", &target, HEADERS), 400, GoesOn);
        assert!(words.contains(word), "{query}: {words}");
    }
    let target = format!("{GOOD}&client_id={long}");
    let words = refused_as_imds(&house, &request("GET", &target, HEADERS), 400, GoesOn);
    assert!(words.contains("longer than"), "{words}");
    // Without any version the real endpoint answers with a list, in a shape of its own.
    let target = format!("{PATH}?resource=r");
    let answer = refused(&house, &request("GET", &target, HEADERS), 400, GoesOn);
    assert!(answer.json()["newest-versions"].is_array());
}

#[test]
fn too_long_targets_and_too_many_headers_are_refused_by_their_own_statuses() {
    let house = warm_house();
    let long = format!("{GOOD}&x={}", "y".repeat(5000));
    refused_as_imds(&house, &request("GET", &long, HEADERS), 414, Closes);
    for count in [63, 98] {
        let many = format!("{HEADERS}{}", "A: b\r\n".repeat(count));
        refused_as_imds(&house, &request("GET", GOOD, &many), 431, Closes);
    }
    // From here on the HTTP library answers, without a body.
    let many = format!("{HEADERS}{}", "A: b\r\n".repeat(200));
    refused(&house, &request("GET", GOOD, &many), 431, Closes);
    let huge = format!("{HEADERS}A: {}\r\n", "b".repeat(40_000));
    sent_and_closed(&house, &request("GET", GOOD, &huge));
}

/// Sends what need not be read to its end; the connection ends, with a 4xx if with anything.
fn sent_and_closed(house: &House, bytes: &[u8]) {
    let calls = house.emulator.counts().total;
    let mut stream = http::connect(house.address()).expect("a connection");
    // The server may close before it has read everything: then this fails, or the read does.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let shown = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
        "{shown}"
    );
    assert_eq!(house.emulator.counts().total, calls);
    assert_eq!(audience_of(&http::token(house.address(), "r")), "r");
}

#[test]
fn garbage_and_half_requests_harm_nobody() {
    let house = warm_house();
    let good = http::token_request("s");
    sent_and_closed(&house, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    sent_and_closed(&house, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    sent_and_closed(&house, b"GET\r\n\r\n");
    sent_and_closed(&house, b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n");
    sent_and_closed(&house, &[0; 3000]);
    sent_and_closed(&house, &vec![b'A'; 100_000]);
    sent_and_closed(&house, b"GET / HTTP/1.1\r\nHost: localhost\r\nA b\r\n\r\n");
    sent_and_closed(&house, b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n");
    sent_and_closed(&house, b"\r\n\r\n\r\n");
    for cut in [1, 3, 10, good.len() / 2, good.len() - 1] {
        sent_and_closed(&house, &good[..cut]);
    }
}

#[test]
fn targets_that_are_not_paths_are_refused() {
    let house = warm_house();
    for target in [
        "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r",
        "https://localhost/",
        "*",
    ] {
        let words = refused_as_imds(&house, &request("GET", target, HEADERS), 400, Closes);
        assert!(words.contains("not a path"), "{words}");
    }
    refused_as_imds(
        &house,
        &request("CONNECT", "localhost:80", HEADERS),
        400,
        Closes,
    );
}

#[test]
fn a_request_has_one_host_and_it_is_ours() {
    let house = warm_house();
    for (lines, status) in [
        ("", 400),
        ("Host: localhost\r\nHost: localhost\r\n", 400),
        ("Host:\r\n", 400),
        ("Host: localhost:http\r\n", 400),
        ("Host: evil.example\r\n", 403),
        ("Host: 169.254.169.254.evil.example\r\n", 403),
    ] {
        let headers = format!("{lines}Metadata: true\r\n");
        refused_as_imds(&house, &request("GET", GOOD, &headers), status, Closes);
    }
}

#[test]
fn forwarded_and_browser_requests_are_refused() {
    let house = warm_house();
    for (line, status) in [
        ("X-Forwarded-For: 10.0.0.1", 400),
        ("x-forwarded-host: localhost", 400),
        ("Forwarded: for=10.0.0.1", 400),
        ("Via: 1.1 proxy", 400),
        ("X-Real-IP: 10.0.0.1", 400),
        ("Origin: http://localhost", 403),
        ("Referer: http://localhost/", 403),
        ("Sec-Fetch-Site: same-origin", 403),
        ("Upgrade: h2c", 400),
        ("Expect: 100-continue", 400),
    ] {
        let headers = format!("{HEADERS}{line}\r\n");
        refused_as_imds(&house, &request("GET", GOOD, &headers), status, Closes);
    }
}

#[test]
fn a_body_ends_the_connection_so_that_it_cannot_be_taken_for_a_request() {
    let house = warm_house();
    let inner = String::from_utf8(http::token_request("smuggled")).expect("text");
    for body in [
        format!("{HEADERS}Content-Length: {}\r\n\r\n{inner}", inner.len()),
        format!(
            "{HEADERS}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n",
            inner.len()
        ),
        format!("{HEADERS}Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello"),
        format!("{HEADERS}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
    ] {
        let request = request("GET", GOOD, &body);
        sent_and_closed(&house, &request);
        let answer = http::send(house.address(), &request);
        assert!(answer.is_ok_and(|answer| answer.status == 400), "{body}");
    }
    assert_eq!(house.emulator.counts().calls_for("system", "smuggled"), 0);
    let empty = format!("{HEADERS}Content-Length: 0\r\n");
    let answer = http::send(house.address(), &request("GET", GOOD, &empty));
    assert_eq!(audience_of(&answer.expect("an answer")), "r");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let house = warm_house();
    // The first one is cold, so that the second could overtake it.
    house.emulator.set_latency_ms(100);
    let both = [http::token_request("cold"), http::token_request("r")].concat();
    let mut stream = http::connect(house.address()).expect("a connection");
    stream.write_all(&both).expect("open");
    let audiences: Vec<_> = (0..2)
        .map(|_| audience_of(&http::read_answer(&mut stream).expect("an answer")))
        .collect();
    assert_eq!(audiences, ["cold", "r"]);
}

/// Whether the probe that clients send first is answered as the real endpoint answers it.
fn assert_probe(address: SocketAddr) {
    let probe = format!("GET {PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    let answer = http::send(address, probe.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 400);
    let words = "Required metadata header not specified";
    assert_eq!(answer.json()["error_description"], words);
}

#[test]
fn probes_are_answered_while_the_upstream_hangs() {
    let house = House::start();
    house
        .emulator
        .set_fault(Some(Fault::always(FaultKind::Hang).for_all_requests()));
    // Every place upstream is taken, and more callers wait than there are workers.
    let mut waiting = Vec::new();
    for number in 0..20 {
        let mut stream = http::connect(house.address()).expect("a connection");
        let request = http::token_request(&format!("r{number}"));
        stream.write_all(&request).expect("open");
        waiting.push(stream);
    }
    until("calls hang", || house.emulator.counts().in_progress == 4);
    for _ in 0..20 {
        assert_probe(house.address());
    }
    assert_eq!(house.emulator.counts().total, 4);
}

#[test]
fn a_dead_upstream_at_the_start_is_no_reason_not_to_start() {
    let nobody = Nobody::new();
    let upstream = nobody.address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let app = App::start(&settings(upstream, folder.path(), "")).expect("Foretoken starts");
    let address = tcp(&app);
    let ready = http::get(app.admin_address(), "/readyz");
    assert_eq!((ready.status, &*ready.body), (200, &b"ok\n"[..]));
    for _ in 0..5 {
        assert_probe(address);
    }
    let refused = http::token(address, "r");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let words = refused.json()["error_description"].to_string();
    assert!(words.contains("unreachable"), "{words}");

    drop(nobody);
    let emulator = Emulator::start(foretoken_emulator::Settings {
        listen: upstream,
        ..emulator_settings()
    });
    let emulator = emulator.expect("the emulator starts");
    // The refusal stands for a moment.
    until("the key heals", || http::token(address, "r").status == 200);
    assert_eq!(audience_of(&http::token(address, "r")), "r");
    assert_eq!(emulator.counts().total, 1);
}

fn status(status: u16) -> FaultKind {
    FaultKind::Status {
        status,
        retry_after_s: None,
    }
}

/// Every fault that ends at once, with the status that callers of a cold key get, the wait asked
/// of them, and the label under which it is counted.
fn faults() -> Vec<(FaultKind, u16, Option<&'static str>, &'static str)> {
    let asking = |status, seconds| FaultKind::Status {
        status,
        retry_after_s: Some(seconds),
    };
    let resource = "https://other.example".to_owned();
    let client_id = "ffffffff-0000-4000-8000-000000000000".to_owned();
    vec![
        (status(400), 400, None, "denied"),
        (status(403), 403, None, "denied"),
        (status(404), 404, None, "not_found"),
        (asking(410, 70), 410, Some("70"), "updating"),
        (status(429), 429, Some("1"), "throttled"),
        (asking(429, 7), 429, Some("7"), "throttled"),
        (status(500), 503, Some("1"), "server_error"),
        (asking(503, 9), 503, Some("9"), "server_error"),
        (FaultKind::Reset, 503, Some("1"), "unreachable"),
        (
            FaultKind::Truncate { send_bytes: 100 },
            503,
            Some("1"),
            "unreachable",
        ),
        (FaultKind::Html, 503, Some("1"), "malformed"),
        (
            FaultKind::OtherResource { resource },
            503,
            Some("1"),
            "wrong_resource",
        ),
        (
            FaultKind::OtherClient { client_id },
            503,
            Some("1"),
            "wrong_client",
        ),
    ]
}

/// One client id for all, so that an answer for another client is noticed.
const RESOURCE: &str = "r&client_id=00000000-0000-4000-8000-000000000001";

#[test]
fn a_fault_on_a_cold_key_is_told_truthfully_and_nothing_of_it_is_kept() {
    let house = House::start();
    let read = |name, label| sum(&scrape(house.app.admin_address()), name, label);
    for (number, (kind, status, retry_after, class)) in faults().into_iter().enumerate() {
        let key = format!("{RESOURCE}&n={number}");
        let calls = house.emulator.counts().total;
        let counted = read("foretoken_upstream_calls_total", Some(class));
        let held = read("foretoken_keys", None);
        house.emulator.set_fault(Some(Fault::always(kind.clone())));
        let answer = http::token(house.address(), &key);
        assert_eq!(answer.status, status, "{kind:?}");
        assert_eq!(answer.header("retry-after"), retry_after, "{kind:?}");
        let body = answer.json();
        assert!(body["error"].is_string(), "{body}");
        let words = body["error_description"].as_str().expect("words");
        // The source's own refusals keep its words; for the rest ours say what happened.
        assert!(status != 503 || words.contains(class), "{kind:?}: {words}");
        assert_eq!(body.get("access_token"), None);
        // The books are kept after the caller has its answer.
        until("the failure is counted and its key dropped", || {
            let now = read("foretoken_upstream_calls_total", Some(class));
            (now - counted, read("foretoken_keys", None)) == (1, held)
        });

        // The next caller is not told of it any more: it leads a call of its own.
        house.emulator.set_fault(None);
        let answer = http::token(house.address(), &key);
        assert_eq!(audience_of(&answer), "r", "{kind:?}");
        assert_eq!(house.emulator.counts().total, calls + 2, "{kind:?}");
    }
}

#[test]
fn a_dripping_upstream_is_slow_and_no_failure() {
    let house = House::start();
    house
        .emulator
        .set_fault(Some(Fault::always(FaultKind::Drip {
            chunk_bytes: 200,
            pause_ms: 20,
        })));
    assert_eq!(audience_of(&http::token(house.address(), "r")), "r");
    assert_eq!(house.emulator.counts().total, 1);
}

#[test]
fn a_hanging_upstream_is_given_up_and_told_as_a_timeout() {
    let house = House::start();
    house
        .emulator
        .set_fault(Some(Fault::times(FaultKind::Hang, 1)));
    let answer = http::token(house.address(), "r");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let words = answer.json()["error_description"].to_string();
    assert!(words.contains("timeout"), "{words}");
    until("the call is closed", || {
        house.emulator.counts().in_progress == 0
    });
    until("the key heals", || {
        http::token(house.address(), "r").status == 200
    });
    assert_eq!(audience_of(&http::token(house.address(), "r")), "r");
    assert_eq!(house.emulator.counts().total, 2);
}

/// One house for each fault, all at once: each takes a token's short life.
#[test]
fn a_warm_key_is_served_through_any_fault_while_its_token_is_valid_and_heals_afterwards() {
    let mut kinds: Vec<_> = faults().into_iter().map(|(kind, ..)| kind).collect();
    kinds.push(FaultKind::Hang);
    std::thread::scope(|scope| {
        for kind in kinds {
            scope.spawn(move || serve_through(&kind));
        }
    });
}

fn serve_through(kind: &FaultKind) {
    let house = House::start_with(
        foretoken_emulator::Settings {
            lifetime_s: 5,
            ..emulator_settings()
        },
        "",
    );
    let first = token_of(&http::token(house.address(), RESOURCE));
    house.emulator.set_fault(Some(Fault::always(kind.clone())));
    // At half of the life a renewal is tried, and spoilt.
    let mut served = 0;
    until("a renewal is spoilt", || {
        assert_eq!(
            token_of(&http::token(house.address(), RESOURCE)),
            first,
            "{kind:?}"
        );
        served += 1;
        house.emulator.counts().faulted >= 1
    });
    for _ in 0..20 {
        assert_eq!(
            token_of(&http::token(house.address(), RESOURCE)),
            first,
            "{kind:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(served > 1, "{kind:?}");

    // Past its end the token is not served; and once the source is well, the key is not stuck.
    until("the token has run out", || {
        let answer = http::token(house.address(), RESOURCE);
        answer.status != 200 || token_of(&answer) != first
    });
    house.emulator.set_fault(None);
    until("the key heals", || {
        let answer = http::token(house.address(), RESOURCE);
        answer.status == 200 && token_of(&answer) != first
    });
}
