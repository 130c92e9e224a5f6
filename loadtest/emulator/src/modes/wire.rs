//! What arrives, byte for byte, for every mode of the catalogue: it is held against the table in
//! `wire_table`, and what that cannot say has a test of its own.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::wire_table::WIRE;
use crate::testing::{
    Asker, Connection, RESOURCE, Response, ask, ask_as, every_kind, token_target, unlimited,
};
use crate::{Emulator, Keep, Kind, Limits, Planned, Settings, modes};

/// How a connection ends that its caller leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
    /// It does not.
    Open,
}
use End::{Closed, Open, Reset};

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(20);
/// A connection that is to stay open is watched for so long.
const SHORT: Duration = Duration::from_millis(30);

const BODY: &str = "{\"access_token\":\"ey*\",\"client_id\":\"*\",\"expires_in\":\"*\",\
    \"expires_on\":\"*\",\"ext_expires_in\":\"*\",\"not_before\":\"*\",\
    \"resource\":\"https://management.azure.com\",\"token_type\":\"Bearer\"}";
/// The first and the last bytes of the same.
const HALF: &str = "{\"access_token\":\"ey*";

/// Modes that have a test of their own, beside `door` and in this file.
const ELSEWHERE: [&str; 5] = [
    "connect-refused",
    "backlog-full",
    "tls-plain",
    "tls-other-certificate",
    "exception-as-200",
];

/// Whether all of the bytes are as the pattern says; `*` is anything, `?` one byte.
fn is_like(bytes: &[u8], pattern: &[u8]) -> bool {
    let fits = |at: usize, part: &[u8]| {
        let there = bytes.get(at..at + part.len());
        there.is_some_and(|there| {
            let pairs = there.iter().zip(part);
            pairs
                .into_iter()
                .all(|(byte, wanted)| *wanted == b'?' || byte == wanted)
        })
    };
    let parts: Vec<&[u8]> = pattern.split(|byte| *byte == b'*').collect();
    let (last, before) = parts.split_last().expect("a split has a part");
    let mut at = 0;
    for (nth, part) in before.iter().enumerate() {
        let found = if nth == 0 {
            fits(0, part).then_some(0)
        } else {
            (at..bytes.len()).find(|at| fits(*at, part))
        };
        let Some(found) = found else { return false };
        at = found + part.len();
    }
    let rest = bytes.len().checked_sub(last.len());
    rest.is_some_and(|start| start >= at && (!before.is_empty() || start == 0) && fits(start, last))
}

/// Sends one request that asks for its connection to be closed; the end, if it came before.
fn request(emulator: &Emulator) -> (TcpStream, Option<End>) {
    let mut stream = TcpStream::connect(emulator.address()).unwrap();
    let target = token_target("");
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: t\r\nMetadata: true\r\nConnection: close\r\n\r\n");
    let sent = stream.write_all(request.as_bytes());
    // A reset is told once: to the writer, if it comes that early.
    let end = sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    stream.set_read_timeout(Some(LONG)).unwrap();
    (stream, end.then_some(Reset))
}

/// Reads what there is; the end, if it is one.
fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<End> {
    let mut buffer = vec![0; 65536];
    match stream.read(&mut buffer) {
        Ok(0) => Some(Closed),
        Ok(length) => {
            bytes.extend_from_slice(&buffer[..length]);
            None
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(Reset),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Open),
        Err(error) => panic!("{error}"),
    }
}

/// Everything that arrives until the connection ends.
fn capture(emulator: &Emulator) -> (Vec<u8>, End) {
    let ((mut stream, mut end), mut bytes) = (request(emulator), Vec::new());
    loop {
        if let Some(end) = end {
            return (bytes, end);
        }
        end = read(&mut stream, &mut bytes);
    }
}

/// What arrives until it is like the pattern, and whether the connection is open after it.
fn capture_open(emulator: &Emulator, pattern: &[u8]) -> (Vec<u8>, End) {
    let ((mut stream, _), mut bytes) = (request(emulator), Vec::new());
    while !is_like(&bytes, pattern) {
        if let Some(end) = read(&mut stream, &mut bytes) {
            return (bytes, end);
        }
    }
    stream.set_read_timeout(Some(SHORT)).unwrap();
    let end = read(&mut stream, &mut bytes);
    (bytes, end.unwrap_or(Open))
}

fn spoilt(emulator: &Emulator, mode: &str) -> (Vec<u8>, End) {
    emulator.set_mode(Planned::new(mode).times(1)).unwrap();
    capture(emulator)
}

#[test]
fn every_mode_arrives_as_it_is_described() {
    let emulator = unlimited();
    for (name, end, pattern) in WIRE {
        let pattern = pattern
            .replace("BODY", BODY)
            .replace("HALF", HALF)
            .replace("OK*", "HTTP/1.1 200 OK\r\n*")
            .replace("OKC", "HTTP/1.1 200 OK\r\nC")
            .replace("OKD", "HTTP/1.1 200 OK\r\nD");
        emulator.set_mode(Planned::new(*name).times(1)).unwrap();
        let (bytes, ended) = match end {
            Open => capture_open(&emulator, pattern.as_bytes()),
            Closed | Reset => capture(&emulator),
        };
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(3000)]);
        assert_eq!(ended, *end, "{name}: {start}");
        assert!(
            is_like(&bytes, pattern.as_bytes()),
            "{name}: {start:?} is not {pattern:?}"
        );
        assert_eq!(emulator.counts().spoilt_by(name), 1, "{name}");
        let whole = ask(&emulator, "");
        assert!(
            is_like(whole.body.as_bytes(), BODY.as_bytes()),
            "{name} goes on: {}",
            whole.body
        );
    }
}

#[test]
fn no_mode_is_without_a_test() {
    let tested: BTreeSet<&str> = WIRE
        .iter()
        .map(|(name, ..)| *name)
        .chain(ELSEWHERE)
        .collect();
    let statuses = super::statuses::statuses();
    let is_status = |name: &str| statuses.iter().any(|it| it.name == name);
    let wanted: BTreeSet<&str> = modes()
        .iter()
        .filter(|mode| !mode.kinds().is_empty() && !is_status(mode.name()))
        .map(super::Mode::name)
        .collect();
    assert_eq!(tested, wanted);
}

#[test]
fn every_status_arrives_with_each_way_to_say_when_to_come_back() {
    let emulator = unlimited();
    let statuses = [
        400, 401, 403, 404, 405, 408, 410, 429, 500, 501, 502, 503, 504,
    ];
    for status in statuses {
        for (suffix, header) in [
            ("", None),
            ("-after-seconds", Some("7")),
            ("-after-date", Some("???, ?? ??? 20?? ??:??:?? GMT")),
            ("-after-absurd", Some("99999999999")),
            ("-after-negative", Some("-5")),
        ] {
            let name = format!("status-{status}{suffix}");
            emulator.set_mode(Planned::new(&*name).times(1)).unwrap();
            let reply = ask(&emulator, "");
            assert_eq!(reply.status, status, "{name}");
            let found = reply.header("retry-after");
            assert_eq!(found.is_some(), header.is_some(), "{name}: {found:?}");
            if let (Some(found), Some(header)) = (found, header) {
                assert!(
                    is_like(found.as_bytes(), header.as_bytes()),
                    "{name}: {found}"
                );
            }
        }
    }
    assert_eq!(emulator.counts().tokens_issued, 0);
}

#[test]
fn lengths_are_wrong_by_what_they_say() {
    let emulator = unlimited();
    let body = ask(&emulator, "").body.len();
    for (name, lengths) in [
        ("length-too-long", vec![body + 100]),
        ("length-too-short", vec![body - 100]),
        ("length-twice", vec![body, body]),
        ("length-twice-differing", vec![body, body - 1]),
        ("gzip-named", vec![body]),
        ("gzip", vec![body + 23]),
        ("json-truncated", vec![body / 2]),
        ("half-body", vec![body]),
    ] {
        let (bytes, _) = spoilt(&emulator, name);
        let text = String::from_utf8_lossy(&bytes);
        let told: Vec<usize> = text
            .lines()
            .filter_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
            .collect();
        assert_eq!(told, lengths, "{name}");
    }
    let sizes = [
        ("huge-header", 1 << 18),
        ("huge-body", 1 << 21),
        ("huge-token", 1 << 20),
        ("endless-head", 1 << 23),
    ];
    for (name, at_least) in sizes {
        assert!(spoilt(&emulator, name).0.len() > at_least, "{name}");
    }
}

#[test]
fn dates_are_off_by_what_they_say() {
    let emulator = unlimited();
    for (name, shift_s) in [
        ("date-5m-ahead", 300),
        ("date-5m-behind", -300),
        ("date-1d-ahead", 86_400),
        ("date-1d-behind", -86_400),
        ("status-503-after-date", 7),
        ("retry-after-past", -86_400),
    ] {
        let before_s = crate::time::unix_ms() / 1000;
        let (bytes, _) = spoilt(&emulator, name);
        let after_s = crate::time::unix_ms() / 1000;
        let text = String::from_utf8(bytes).unwrap();
        let header = if name.starts_with("date") {
            "\r\nDate: "
        } else {
            "\r\nRetry-After: "
        };
        let told = text
            .split(header)
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next()
            .unwrap();
        let possible = (before_s..=after_s)
            .map(|now_s| crate::time::http_date(now_s.saturating_add_signed(shift_s)));
        assert!(
            possible.into_iter().any(|date| date == told),
            "{name}: {told}"
        );
    }
}

#[test]
fn tokens_of_another_date_say_so_themselves() {
    let emulator = unlimited();
    for (name, from_s, to_s) in [
        ("expired-token", -7200, -3600),
        ("not-yet-valid-token", 3600, 3600 + 86_400),
        ("ending-token", -3598, 2),
        ("short-token", 0, 10),
        ("older-token", -8 * 3600, 16 * 3600),
    ] {
        emulator.set_mode(Planned::new(name).times(1)).unwrap();
        let before_s = crate::time::unix_ms() / 1000;
        let reply = ask(&emulator, "");
        let claims = reply.claims();
        let near = |claim: &str, shift_s: i64| {
            let told = claims[claim].as_u64().unwrap();
            let wanted = before_s.saturating_add_signed(shift_s);
            (wanted..=wanted + 5).contains(&told)
        };
        assert!(near("exp", to_s), "{name}: {claims}");
        assert!(near("nbf", from_s - 300), "{name}: {claims}");
        let expires_on = reply.json()["expires_on"].as_str().unwrap().to_owned();
        assert_eq!(expires_on, claims["exp"].to_string(), "{name}");
        assert_ne!(
            ask(&emulator, "").token(),
            reply.token(),
            "{name} is not repeated"
        );
    }
}

#[test]
fn a_token_stays_unchanged_whatever_is_asked_for() {
    let emulator = unlimited();
    let first = ask(&emulator, "").token();
    emulator.set_reissue_below(1.0);
    emulator.set_mode("unchanged").unwrap();
    assert_eq!(ask(&emulator, "&bypass_cache=true").token(), first);
    assert_eq!(ask(&emulator, "").token(), first);
    emulator.clear_mode("unchanged");
    assert_ne!(ask(&emulator, "").token(), first);
}

#[test]
fn a_race_is_lost_when_the_next_request_is_written() {
    let emulator = unlimited();
    for (name, kind) in [
        ("keep-alive-race", None),
        ("keep-alive-race-reset", Some(ErrorKind::ConnectionReset)),
    ] {
        emulator.set_mode(Planned::new(name).times(1)).unwrap();
        let mut connection = Connection::open(&emulator);
        connection.get(&token_target("")).unwrap().token();
        let error = connection.get(&token_target("")).unwrap_err();
        if let Some(kind) = kind {
            assert_eq!(error.kind(), kind, "{name}");
        }
        assert_eq!(emulator.counts().spoilt_by(name), 1);
    }
}

#[test]
fn good_answers_hold_a_genuine_token_and_bad_ones_never_the_one_asked_for_untouched() {
    let emulator = unlimited();
    let genuine = ask(&emulator, "").token();
    for mode in modes().iter().filter(|mode| mode.kinds().contains(&"imds")) {
        let hangs = WIRE
            .iter()
            .any(|(name, end, _)| *name == mode.name() && *end == Open);
        if ELSEWHERE.contains(&mode.name()) || hangs {
            continue;
        }
        let (bytes, _) = spoilt(&emulator, mode.name());
        let text = String::from_utf8_lossy(&bytes);
        let untouched = text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json")
            && text.contains(&format!("{{\"access_token\":\"{genuine}\",\"client_id\""))
            && text.ends_with(&format!(
                "\"resource\":\"{RESOURCE}\",\"token_type\":\"Bearer\"}}"
            ));
        match mode.keep() {
            Keep::Yes if mode.group() != crate::Group::Expiry => {
                assert!(text.contains(&genuine), "{}", mode.name());
            }
            Keep::Yes => assert!(text.contains("\"access_token\":\"ey"), "{}", mode.name()),
            Keep::No if untouched => {
                // The right body: what is wrong is in the head, or what is left out of the body.
                let head_is_wrong =
                    text.contains("\r\nContent-Length: ") || text.contains("Transfer-Encoding");
                assert!(
                    head_is_wrong || !text.contains("expires_on"),
                    "{}",
                    mode.name()
                );
            }
            Keep::No | Keep::Either => {}
        }
    }
}

/// Answers of the kinds that have a mode of their own, and of those that speak TLS.
#[test]
fn modes_apply_to_the_kinds_that_they_name_and_spoil_them() {
    for kind in every_kind("modes") {
        let asker = Asker::new(kind.clone());
        let emulator = &asker.emulator;
        let right = names_in(&ask_as(&kind, &asker));
        for mode in modes() {
            let named = mode.kinds().contains(&kind.name());
            let name = mode.name();
            if mode.group() == crate::Group::Connect {
                assert_eq!(mode.fault(&kind).is_some(), named, "{} {name}", kind.name());
                continue;
            }
            let set = emulator.set_mode(Planned::new(name));
            assert_eq!(set.is_ok(), named, "{} {name}", kind.name());
            if let Some(crate::FaultKind::Edit { members }) = mode.fault(&kind) {
                let mut told = members.iter().filter(|(_, value)| !value.is_null());
                let in_place = told.all(|(member, _)| right.contains(member));
                assert!(
                    in_place,
                    "{} has nothing for {name} to replace",
                    kind.name()
                );
            }
            let changes_members =
                matches!(mode.group(), crate::Group::Member | crate::Group::Expiry)
                    && name.starts_with("no-");
            if named && changes_members {
                let spoilt = names_in(&ask_as(&kind, &asker));
                assert_ne!(spoilt, right, "{} {name}", kind.name());
            }
            if named
                && matches!(
                    name,
                    "exception-as-200" | "identity-not-found" | "token-empty"
                )
            {
                let spoilt = ask_as(&kind, &asker);
                assert!(
                    spoilt.json()["access_token"]
                        .as_str()
                        .is_none_or(str::is_empty)
                );
                let says_so = spoilt.json().get("ExceptionMessage").is_some();
                assert_eq!(says_so, name == "exception-as-200", "{}", spoilt.body);
            }
            emulator.clear_modes();
        }
    }
}

fn names_in(reply: &Response) -> Vec<String> {
    crate::testing::names(&reply.body)
}

#[test]
fn plain_http_answers_a_tls_handshake() {
    let emulator = Emulator::start(Settings {
        kind: Kind::Entra(crate::Entra::default()),
        limits: Limits::NONE,
        ..Settings::default()
    })
    .unwrap();
    emulator
        .set_mode(Planned::new("tls-plain").times(1))
        .unwrap();
    let error = Connection::open(&emulator).get("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    let (bytes, end) = {
        emulator
            .set_mode(Planned::new("tls-plain").times(1))
            .unwrap();
        capture(&emulator)
    };
    assert_eq!((&bytes[..12], end), (&b"HTTP/1.1 400"[..], Closed));
}
