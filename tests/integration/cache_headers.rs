//! Nothing on the way keeps an answer: every endpoint and refusal, read as raw bytes, says that it
//! must not be stored and what exactly it is, and has nothing to revalidate it by.
//!
//! The rules are those that linters of HTTP answers apply, as far as they concern these.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use foretoken::clock::Clock;
use foretoken_emulator::{Fault, FaultKind};
use tempfile::TempDir;

use crate::support::http::{PATIENCE, connect, token_target};
use crate::support::metrics::{scrape, sum};
use crate::support::wait::until;
use crate::support::{House, emulator_settings, tls};

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const SECRET: &str = "the-secret-of-a-client";
const ALLOWED: &str = "https://vault.azure.net";

/// What each of these would do: let something keep the answer, or ask whether it is still good.
const NEVER: [&str; 9] = [
    "etag",
    "last-modified",
    "expires",
    "age",
    "vary",
    "set-cookie",
    "transfer-encoding",
    "content-encoding",
    "location",
];

/// Reasons of refusals that are not in the table: one takes a full house, and the others have tests of
/// their own.
const NOT_PROVOKED: [&str; 3] = ["timed_out", "full", "challenges"];

/// Everything that came back on a connection, of which one answer must be the whole.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> Vec<u8> {
    // The server may have refused the rest already.
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.flush();
    let mut answer = Vec::new();
    // A reset after the answer is the server's way to end what it did not read.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn ask(address: SocketAddr, request: &str) -> Vec<u8> {
    exchange(&mut connect(address).expect("a connection"), request)
}

/// What is wrong with an answer; nothing, if it is as it should be.
fn complaints(answer: &[u8], status: u16, kind: &str, head_only: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |good: bool, what: String| {
        if !good {
            wrong.push(what);
        }
    };
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        let seen = String::from_utf8_lossy(answer).into_owned();
        return vec![format!("no answer: {seen:?}")];
    };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let head = str::from_utf8(head).expect("a head is ASCII");
    let mut lines = head.split("\r\n");
    let first = lines.next().expect("a status line");
    let reason = first.strip_prefix(&format!("HTTP/1.1 {status} "));
    let spelled = reason.is_some_and(|it| !it.is_empty() && it.trim() == it);
    check(spelled, format!("status line {first:?}"));
    let headers: Vec<_> = lines
        .map(|line| line.split_once(": ").expect("a header"))
        .collect();
    let all = |name: &str| -> Vec<&str> {
        let same = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        same.map(|(_, value)| *value).collect()
    };
    let length = body.len().to_string();
    for (name, value) in [
        ("Cache-Control", "no-store"),
        ("Pragma", "no-cache"),
        ("Content-Type", kind),
    ] {
        check(all(name) == [value], format!("{name}: {:?}", all(name)));
    }
    if head_only {
        check(body.is_empty(), "a body".to_owned());
        check(all("content-length").len() == 1, "no length".to_owned());
    } else {
        check(!body.is_empty(), "no body".to_owned());
        check(
            all("content-length") == [length.as_str()],
            format!("{length} bytes: {:?}", all("content-length")),
        );
    }
    for name in NEVER {
        check(all(name).is_empty(), format!("{name}: {:?}", all(name)));
    }
    let dates = all("date");
    let date = dates
        .first()
        .and_then(|it| httpdate::parse_http_date(it).ok());
    let written = date.map(httpdate::fmt_http_date);
    check(
        dates.len() == 1 && written.as_deref() == dates.first().copied(),
        format!("Date: {dates:?}"),
    );
    #[expect(clippy::disallowed_methods, reason = "a test's own look at the clock")]
    let now = SystemTime::now();
    let minute = Duration::from_mins(1);
    let fresh = date.is_some_and(|it| it + minute > now && it < now + minute);
    check(fresh, format!("not now: {dates:?}"));
    check(
        (status == 405) != all("allow").is_empty(),
        format!("Allow: {:?}", all("allow")),
    );
    check(
        !matches!(status, 429 | 503) || all("retry-after").len() == 1,
        "no Retry-After".to_owned(),
    );
    let is_json = kind.starts_with("application/json") && !head_only;
    check(
        !is_json || serde_json::from_slice::<serde_json::Value>(body).is_ok(),
        "no JSON".to_owned(),
    );
    wrong
}

/// Collects what is wrong over a whole table, so that a failure shows all of it.
#[derive(Default)]
struct Lint {
    wrong: Vec<String>,
    looked_at: usize,
}

impl Lint {
    fn look(&mut self, what: &str, answer: &[u8], status: u16, kind: &str) {
        let head_only = what.contains("HEAD ");
        let wrong = complaints(answer, status, kind, head_only);
        self.wrong
            .extend(wrong.iter().map(|it| format!("{what}: {it}")));
        self.looked_at += 1;
    }

    /// Panics with everything that was wrong, or if fewer answers came than the table has.
    fn end(self, least: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(self.looked_at >= least, "{} answers", self.looked_at);
    }
}

/// A dialect on a listener of its own.
struct Spoken {
    name: &'static str,
    more: String,
    method: &'static str,
    path: &'static str,
    version: &'static str,
    proof: String,
}

fn spoken(folder: &TempDir) -> Vec<Spoken> {
    let path = folder.path().display();
    let (imds, oauth2) = ("/metadata/identity/oauth2/token", "/oauth2/token");
    let of = |name, method, path, version, proof: &str, more: String| Spoken {
        name,
        more,
        method,
        path,
        version,
        proof: proof.to_owned(),
    };
    let metadata = "Metadata: true\r\n";
    let (header, secret) = (
        format!("X-IDENTITY-HEADER: {SECRET}\r\n"),
        format!("Secret: {SECRET}\r\n"),
    );
    let none = String::new;
    let tls = format!("tls = \"{path}/tls\"");
    let arc = format!("arc_folder = \"{path}/tokens\"\narc_allow_agent = true");
    vec![
        of("imds", "GET", imds, "2018-02-01", metadata, none()),
        of(
            "app-service",
            "GET",
            "/msi/token",
            "2019-08-01",
            &header,
            none(),
        ),
        of(
            "app-service-2017",
            "GET",
            "/MSI/token/",
            "2017-09-01",
            &secret,
            none(),
        ),
        of(
            "vm-extension",
            "GET",
            oauth2,
            "2018-02-01",
            metadata,
            none(),
        ),
        of(
            "vm-extension",
            "POST",
            oauth2,
            "2018-02-01",
            metadata,
            none(),
        ),
        of(
            "cloud-shell",
            "POST",
            oauth2,
            "2018-02-01",
            metadata,
            none(),
        ),
        of(
            "service-fabric",
            "GET",
            imds,
            "2019-07-01-preview",
            &secret,
            tls,
        ),
        of("arc", "GET", imds, "2020-06-01", metadata, arc),
    ]
}

fn house(all: &[Spoken]) -> House {
    let listeners = all.iter().map(|it| {
        let Spoken { name, more, .. } = it;
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\ndialects = [\"{name}\"]\n{more}\n")
    });
    let client = format!(
        "[[client]]\nname = \"a\"\nsecret = \"{SECRET}\"\nidentities = [\"system\"]\n\
         resources = [\"{ALLOWED}\"]\n"
    );
    House::start_with(
        emulator_settings(),
        &(listeners.collect::<String>() + &client),
    )
}

/// Requests for this dialect, and the status of the answer to each.
fn table(it: &Spoken) -> Vec<(&'static str, u16, String)> {
    let Spoken {
        name,
        method,
        path,
        version,
        proof,
        ..
    } = it;
    let framed = if *method == "POST" {
        "Content-Length: 0\r\n"
    } else {
        ""
    };
    let request = |method: &str, target: &str, headers: &str| {
        format!("{method} {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")
    };
    let own = format!("Host: localhost\r\n{proof}{framed}");
    let good = format!("{path}?api-version={version}&resource={ALLOWED}");
    let with = |more: &str| request(method, &good, &format!("{own}{more}\r\n"));
    let host = |line: &str| request(method, &good, &format!("{line}{proof}{framed}"));
    let wrong_method = if *method == "GET" && *path != "/oauth2/token" {
        "POST"
    } else {
        "PUT"
    };
    let asks_secret = proof.contains(SECRET);
    let (answered, unproven) = match *name {
        "arc" => (401, 400),
        _ if asks_secret => (200, 401),
        _ => (200, 400),
    };
    let long = "x".repeat(5000);
    let empty = format!("Host: localhost\r\n{proof}Content-Length: 0\r\n");
    let mut table = vec![
        ("good", answered, request(method, &good, &own)),
        (
            "unproven",
            unproven,
            request(method, &good, &format!("Host: localhost\r\n{framed}")),
        ),
        (
            "no resource",
            400,
            request(method, &format!("{path}?api-version={version}"), &own),
        ),
        ("elsewhere", 404, request(method, "/elsewhere", &own)),
        ("wrong method", 405, request(wrong_method, &good, &empty)),
        (
            "HEAD ",
            405,
            request("HEAD", &good, &format!("Host: localhost\r\n{proof}")),
        ),
        ("no host", 400, host("")),
        ("foreign host", 403, host("Host: evil.example\r\n")),
        ("forwarded", 400, with("Via: 1.1 proxy")),
        ("browser", 403, with("Origin: http://localhost")),
        ("switching", 400, with("Upgrade: h2c")),
        ("framing", 400, with("Content-Length: +1")),
        (
            "syntax",
            400,
            request(method, &good, "Host: localhost\r\n: x\r\n"),
        ),
        (
            "line end",
            400,
            format!("{method} {good} HTTP/1.1\nHost: localhost\n\n"),
        ),
        ("bad method", 400, request("get", &good, &own)),
        (
            "not a path",
            400,
            request(method, "http://localhost/", &own),
        ),
        (
            "target",
            414,
            request(method, &format!("{path}?{long}"), &own),
        ),
        ("head", 431, with(&format!("X-Long: {long}{long}"))),
    ];
    if *method == "POST" {
        let bare = format!("Host: localhost\r\n{proof}");
        table.push(("no length", 411, request(method, &good, &bare)));
        let large = format!("{bare}Content-Length: 9000\r\n");
        table.push(("large", 413, request(method, &good, &large)));
    } else {
        table.push(("body", 400, with("Content-Length: 5")));
    }
    if asks_secret {
        let other = format!("{path}?api-version={version}&resource=https://other.example");
        table.push(("not allowed", 403, request(method, &other, &own)));
    }
    table
}

#[test]
fn no_answer_of_a_token_endpoint_can_be_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = spoken(&folder);
    let house = house(&all);
    let trust = tls::trusting(&folder.path().join("tls/cert.pem"));
    let mut lint = Lint::default();
    for (it, address) in all.iter().zip(&house.addresses()[1..]) {
        for (what, status, request) in table(it) {
            let answer = if it.name == "service-fabric" {
                exchange(&mut tls::connect(*address, &trust), &request)
            } else {
                ask(*address, &request)
            };
            let what = format!("{} {}: {what}", it.name, it.method);
            lint.look(&what, &answer, status, JSON);
            if (it.name, status) == ("arc", 401) {
                let head = String::from_utf8_lossy(&answer).into_owned();
                let named = head.split_once("Basic realm=").expect("a challenge").1;
                let file = named.split("\r\n").next().expect("a line");
                let key = std::fs::read_to_string(file).expect("the key file");
                let proof = format!("Metadata: true\r\nAuthorization: Basic {key}\r\n");
                let proven = request.replace("Metadata: true\r\n", &proof);
                lint.look("arc: proven", &ask(*address, &proven), 200, JSON);
            }
        }
    }
    too_slow(&mut lint, house.address(), JSON);
    lint.end(150);
    each_reason_was_provoked(&house);
}

/// Half a head, and nothing more.
fn too_slow(lint: &mut Lint, address: SocketAddr, kind: &str) {
    let answer = ask(address, "GET /livez HTTP/1.1\r\nHost: local");
    lint.look("too slow", &answer, 408, kind);
}

/// A refusal that is added must come into the table, or into the list of those that are not in it.
fn each_reason_was_provoked(house: &House) {
    let samples = scrape(house.app.admin_address());
    let counted = samples
        .iter()
        .filter(|it| it.name == "foretoken_refusals_total" && it.value > 0);
    let seen: BTreeSet<_> = counted.map(|it| it.labels[0].1.clone()).collect();
    let documented = include_str!("../../docs/metrics.md");
    let (_, reasons) = documented
        .split_once("says why the request was turned away:")
        .expect("the list of reasons");
    let (reasons, _) = reasons.split_once("\n\n").expect("its end");
    let listed = reasons.split('`').skip(1).step_by(2);
    let missing: Vec<_> = listed
        .filter(|it| !seen.contains(*it) && !NOT_PROVOKED.contains(it))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {seen:?}");
}

#[test]
fn no_failure_of_the_upstream_can_be_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = spoken(&folder);
    let mut lint = Lint::default();
    for (theirs, ours) in [
        (400, 400),
        (403, 403),
        (404, 404),
        (410, 410),
        (429, 429),
        (500, 503),
    ] {
        // A house for each: what one of them refuses stands for seconds.
        let house = house(&all);
        let trust = tls::trusting(&folder.path().join("tls/cert.pem"));
        let kind = FaultKind::Status {
            status: theirs,
            retry_after_s: None,
        };
        house.emulator.set_fault(Some(Fault::always(kind)));
        for (it, address) in all.iter().zip(&house.addresses()[1..]) {
            if it.name == "arc" {
                continue;
            }
            let (_, _, good) = table(it).swap_remove(0);
            let answer = if it.name == "service-fabric" {
                exchange(&mut tls::connect(*address, &trust), &good)
            } else {
                ask(*address, &good)
            };
            lint.look(&format!("{} {theirs}", it.name), &answer, ours, JSON);
        }
    }
    lint.end(42);
}

#[test]
fn no_answer_of_an_admin_endpoint_can_be_kept() {
    let house = House::start();
    let admin = house.app.admin_address();
    let mut lint = Lint::default();
    let long = "x".repeat(5000);
    let plain = "Host: localhost\r\n";
    let metrics = "text/plain; version=0.0.4; charset=utf-8";
    let request = |method: &str, target: &str, headers: &str| {
        format!("{method} {target} HTTP/1.1\r\n{headers}\r\n")
    };
    for (status, kind, bytes) in [
        (200, TEXT, request("GET", "/livez", plain)),
        (200, TEXT, request("GET", "/readyz", plain)),
        (200, metrics, request("GET", "/metrics", plain)),
        (200, "application/json", request("GET", "/status", plain)),
        (404, TEXT, request("GET", "/nothing", plain)),
        (405, TEXT, request("POST", "/status", plain)),
        (405, TEXT, request("HEAD", "/status", plain)),
        (405, TEXT, request("GET", "/purge", plain)),
        (403, TEXT, request("POST", "/purge?all", plain)),
        (
            403,
            TEXT,
            request("GET", "/status", "Host: evil.example\r\n"),
        ),
        (
            403,
            TEXT,
            request("GET", "/status", "Host: localhost\r\nOrigin: null\r\n"),
        ),
        (
            403,
            TEXT,
            request("GET", "/status", "Host: localhost\r\nContent-Length: 1\r\n"),
        ),
        (
            400,
            TEXT,
            request("GET", "/status", "Host: localhost\r\n: x\r\n"),
        ),
        (400, TEXT, request("get", "/status", plain)),
        (414, TEXT, request("GET", &format!("/{long}"), plain)),
        (
            431,
            TEXT,
            request("GET", "/status", &format!("X-Long: {long}{long}\r\n")),
        ),
    ] {
        let what = bytes.lines().next().expect("a line");
        lint.look(what, &ask(admin, &bytes), status, kind);
    }
    too_slow(&mut lint, admin, TEXT);

    let socket = house.folder.path().join("admin.sock");
    for (status, kind, bytes) in [
        (200, "application/json", request("GET", "/status", plain)),
        (200, TEXT, request("POST", "/purge?all", plain)),
        (400, TEXT, request("POST", "/purge?nothing", plain)),
        (405, TEXT, request("GET", "/purge", plain)),
        (
            403,
            TEXT,
            request("POST", "/purge?all", "Host: evil.example\r\n"),
        ),
    ] {
        let mut stream = UnixStream::connect(&socket).expect("the admin socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let answer = exchange(&mut stream, &bytes);
        let _ = stream.shutdown(Shutdown::Both);
        lint.look(&format!("socket: {bytes}"), &answer, status, kind);
    }
    lint.end(22);
}

/// A call to this upstream ends by its own deadline of ten seconds, and one goes out at a time: the
/// third caller's turn comes when it has waited for as long as anybody is held.
#[test]
fn a_caller_whose_turn_does_not_come_is_told_after_twenty_seconds_and_that_is_not_kept() {
    let house = House::start_with(emulator_settings(), "max_in_flight = 1\n");
    house
        .emulator
        .set_fault(Some(Fault::always(FaultKind::Hang)));
    let address = house.address();
    let read = |name, label| sum(&scrape(house.app.admin_address()), name, label);
    let asked: Vec<_> = (1..=3)
        .map(|place| {
            let target = token_target(&format!("https://{place}.example"));
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: localhost\r\nMetadata: true\r\n\
                 Connection: close\r\n\r\n"
            );
            let caller = std::thread::spawn(move || {
                let clock = Clock::system();
                let begun = clock.now();
                let answer = ask(address, &request);
                (answer, clock.now().since(begun))
            });
            // In this order.
            until("it waits", || read("foretoken_keys", None) == place);
            caller
        })
        .collect();
    let mut lint = Lint::default();
    for (caller, expected) in asked.into_iter().zip([10..14, 15..24, 20..24]) {
        let (answer, took_ms) = caller.join().expect("a thread");
        lint.look("held", &answer, 503, JSON);
        println!("told after {took_ms} ms");
        // The last digits are those of a busy machine.
        assert!(expected.contains(&((took_ms + 50) / 1000)), "{took_ms}");
    }
    lint.end(3);
    // The second caller's call ends as its patience does; the first one's ended long before.
    let timed_out = read("foretoken_refusals_total", Some("timed_out"));
    assert!((1..=2).contains(&timed_out), "{timed_out}");
}
