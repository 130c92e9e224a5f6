//! Every recorded request of a real client, byte for byte, to a Foretoken in front of the emulator.
//!
//! `tests/golden/recordings` holds one file for each client, version and case of the IMDS protocol
//! (kind `imds`: at the real address; `pod`: at the one named by
//! `AZURE_POD_IDENTITY_AUTHORITY_HOST`). Only the requests matter here, and which of them shared a
//! connection; what the recording server answered, often spoilt on purpose, does not. How each
//! client reads an answer is `docs/protocols.md`'s table in code: [`Reader::of`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::support::House;
use super::support::http::{Answer, connect, read_answer};

/// What the folder holds; a recording that is lost or not replayed fails the test.
const IMDS_RECORDINGS: usize = 115;
const POD_RECORDINGS: usize = 31;
const TOKEN_REQUESTS: usize = 233;
const PROBES: usize = 28;
const REQUESTS_WITHOUT_QUERY: usize = 7;

/// Seconds are counted whole: two clock readings of one moment may differ by this.
const TICK_S: u64 = 1;

#[test]
fn every_recorded_client_gets_the_answer_that_it_needs() {
    let replay = Replay::run();
    assert!(
        replay.complaints.is_empty(),
        "{} of {} requests were not answered as their client needs:\n{}",
        replay.complaints.len(),
        replay.asked.values().sum::<usize>(),
        replay.complaints.join("\n"),
    );
    let kinds = [("imds", IMDS_RECORDINGS), ("pod", POD_RECORDINGS)];
    let asked = [
        ("token", TOKEN_REQUESTS),
        ("probe", PROBES),
        ("no query", REQUESTS_WITHOUT_QUERY),
    ];
    let counts = |of: &[(&str, usize)]| of.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
    assert_eq!(replay.recordings, counts(&kinds), "recordings by kind");
    assert_eq!(replay.asked, counts(&asked), "requests by sort");
}

#[test]
fn all_recorded_clients_together_cost_one_upstream_call_for_each_token_key() {
    let replay = Replay::run();
    let counts = replay.house.emulator.counts();
    assert!(replay.keys.len() > 10, "{:?}", replay.keys);
    assert_eq!(counts.token_calls, replay.keys.len() as u64, "{counts:?}");
    for (selector, resource, extras) in &replay.keys {
        // The emulator ignores unknown parameters, so it counts such keys with those without.
        let twins = replay.keys.iter();
        let twins = twins.filter(|key| (&key.0, &key.1) == (selector, resource));
        assert_eq!(
            counts.calls_for(selector, resource),
            twins.count() as u64,
            "{selector} {resource} {extras:?}"
        );
    }
    assert_eq!(counts.refused, 0, "probes are answered here, not upstream");
}

/// Selector in the emulator's words, resource, and unknown parameters.
type Key = (String, String, Vec<(String, String)>);

/// All recordings, replayed once.
struct Replay {
    house: House,
    /// Recordings by kind.
    recordings: BTreeMap<String, usize>,
    /// Requests by sort.
    asked: BTreeMap<String, usize>,
    keys: BTreeSet<Key>,
    complaints: Vec<String>,
}

impl Replay {
    fn run() -> Self {
        let mut replay = Self {
            house: House::start(),
            recordings: BTreeMap::new(),
            asked: BTreeMap::new(),
            keys: BTreeSet::new(),
            complaints: Vec::new(),
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recordings");
        let files = fs::read_dir(folder).expect("the folder of recordings");
        let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).expect("a recording");
            let recording: Value = serde_json::from_str(&text).expect("a recording in JSON");
            let name = file.file_stem().expect("a name").to_string_lossy();
            replay.recording(&name, &recording);
        }
        replay
    }

    fn recording(&mut self, name: &str, recording: &Value) {
        let kind = text(recording, "endpoint_kind").to_owned();
        *self.recordings.entry(kind).or_default() += 1;
        let reader = Reader::of(recording);
        let exchanges = recording["exchanges"].as_array().expect("exchanges");
        assert!(!exchanges.is_empty(), "{name} has no requests");
        let mut connection: Option<(TcpStream, u64)> = None;
        for (at, exchange) in exchanges.iter().enumerate() {
            let nth = exchange["nth_on_connection"].as_u64().expect("a number");
            let (mut stream, before) = match connection.take() {
                Some(open) if nth > 0 => open,
                _ => (connect(self.house.address()).expect("a connection"), 0),
            };
            assert_eq!(
                nth, before,
                "{name}: requests of one connection, in their order"
            );
            let sent = text(&exchange["request"], "raw_b64");
            let sent = STANDARD.decode(sent).expect("base64");
            if let Err(complaint) = self.request(&mut stream, &sent, &reader) {
                let line = format!("{name}, request {}: {complaint}", at + 1);
                self.complaints.push(line);
                return;
            }
            connection = Some((stream, nth + 1));
        }
    }

    fn request(
        &mut self,
        stream: &mut TcpStream,
        sent: &[u8],
        reader: &Reader,
    ) -> Result<(), String> {
        let (asked, sent_at_s) = (Asked::read(sent), now_s());
        *self.asked.entry(asked.sort().to_owned()).or_default() += 1;
        stream.write_all(sent).map_err(|error| error.to_string())?;
        let answer = read_answer(stream).map_err(|error| error.to_string())?;
        let life = Life {
            sent_at_s,
            read_at_s: now_s(),
        };
        expect("status", &answer.status, &asked.status())?;
        let content = answer.header("content-type");
        expect(
            "content-type",
            &content,
            &Some("application/json; charset=utf-8"),
        )?;
        match asked {
            Asked::Token(wanted) => {
                wanted.judge(&answer, &life)?;
                reader.judge(&answer, &wanted.resource, &life)?;
                self.keys.insert(wanted.key());
                Ok(())
            }
            Asked::Probe => expect(
                "body",
                String::from_utf8_lossy(&answer.body).as_ref(),
                "{\"error\":\"invalid_request\",\
                 \"error_description\":\"Required metadata header not specified\"}",
            ),
            Asked::NoQuery => expect(
                "versions",
                &answer.json()["newest-versions"],
                &serde_json::json!(["2018-02-01"]),
            ),
        }
    }
}

/// What a recorded request asks for.
enum Asked {
    Token(Wanted),
    /// No `Metadata: true`.
    Probe,
    /// The header, but nothing behind the path.
    NoQuery,
}

impl Asked {
    fn read(sent: &[u8]) -> Self {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(sent).expect("a request");
        assert_eq!(
            status,
            httparse::Status::Complete(sent.len()),
            "a head, no body"
        );
        let target = request.path.expect("a target").to_owned();
        let mut headers = request.headers.iter();
        if !headers.any(|h| h.name.eq_ignore_ascii_case("metadata") && h.value == b"true") {
            return Self::Probe;
        }
        match target.split_once('?') {
            Some((_, query)) => Self::Token(Wanted::read(query)),
            None => Self::NoQuery,
        }
    }

    fn sort(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Probe => "probe",
            Self::NoQuery => "no query",
        }
    }

    fn status(&self) -> u16 {
        match self {
            Self::Token(_) => 200,
            Self::Probe | Self::NoQuery => 400,
        }
    }
}

/// The token that a query asks for.
struct Wanted {
    resource: String,
    /// The selector's name, `mi_res_id` as `msi_res_id`, and its value in lower case.
    selector: Option<(&'static str, String)>,
    extras: Vec<(String, String)>,
}

impl Wanted {
    fn read(query: &str) -> Self {
        assert!(!query.contains('+'), "a space or a plus? {query}");
        let (mut resource, mut selector, mut extras) = (None, None, Vec::new());
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').expect("a value");
            let value = percent_decode_str(value).decode_utf8().expect("text");
            let value = value.into_owned();
            let mut select = |name| selector = Some((name, value.to_lowercase()));
            match name {
                "api-version" => {}
                "resource" => resource = Some(value),
                "client_id" => select("client_id"),
                "object_id" => select("object_id"),
                "msi_res_id" | "mi_res_id" => select("msi_res_id"),
                // Python's aio client passes this one on; it is no parameter of the endpoint.
                "resource_id" => extras.push((name.to_owned(), value)),
                _ => panic!("a client sends `{name}`: say what it means"),
            }
        }
        Self {
            resource: resource.expect("a resource"),
            selector,
            extras,
        }
    }

    fn key(&self) -> Key {
        let selector = match &self.selector {
            None => "system".to_owned(),
            Some((name, value)) => format!("{name}={value}"),
        };
        (selector, self.resource.clone(), self.extras.clone())
    }

    /// What every client may count on: strings, MSAL .NET's order, the right times, the token of
    /// this resource and this identity.
    fn judge(&self, answer: &Answer, life: &Life) -> Result<(), String> {
        let body = object(answer)?;
        if let Some((name, value)) = body.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("{name} is no string but {value}"));
        }
        let raw = String::from_utf8_lossy(&answer.body);
        let place = |name| raw.find(name).ok_or_else(|| format!("no {name}"));
        if place("\"expires_in\":")? > place("\"expires_on\":")? {
            return Err("expires_in stands behind expires_on".to_owned());
        }
        expect("token_type", field(&body, "token_type")?, "Bearer")?;
        expect("resource", field(&body, "resource")?, &self.resource)?;

        let (left, until) = (seconds(&body, "expires_in")?, seconds(&body, "expires_on")?);
        life.lasts("expires_in", left, until)?;
        expect("ext_expires_in", &seconds(&body, "ext_expires_in")?, &left)?;

        let claims = claims(field(&body, "access_token")?)?;
        expect("exp", &claims["exp"].as_u64(), &Some(until))?;
        expect(
            "nbf",
            &claims["nbf"].as_u64(),
            &Some(seconds(&body, "not_before")?),
        )?;
        expect("aud", text(&claims, "aud"), &self.resource)?;
        expect("appid", text(&claims, "appid"), field(&body, "client_id")?)?;
        let lower = |claim| text(&claims, claim).to_lowercase();
        match &self.selector {
            None => {
                let machine = lower("xms_mirid").contains("/microsoft.compute/virtualmachines/");
                expect("of the machine itself", &machine, &true)
            }
            Some(("client_id", id)) => expect("appid", &lower("appid"), id),
            Some(("object_id", id)) => expect("oid", &lower("oid"), id),
            Some((_, id)) => expect("xms_mirid", &lower("xms_mirid"), id),
        }
    }
}

/// How a client reads an answer: where it takes the expiry from, and what must be there besides.
struct Reader {
    expiry: &'static str,
    fields: &'static [&'static str],
}

impl Reader {
    /// The reader in a recorded client.
    fn of(recording: &Value) -> Self {
        let (client, version) = (text(recording, "client"), text(recording, "version"));
        let class = recording["call"]["cls"].as_str().unwrap_or_default();
        let (expiry, fields): (_, &[_]) = match client {
            "msal" | "azure-cli" => ("expires_in", &[]),
            "azure-identity" if version == "1.27.0" && !class.starts_with("aio.") => {
                ("expires_in", &[])
            }
            // Without the resource it takes the answer for none; another one spoils its cache.
            "azure-identity" => ("expires_on", &["resource", "expires_in"]),
            "@azure/msal-node" | "@azure/identity" | "go-autorest-adal" | "object_store" => {
                ("expires_on", &[])
            }
            "azure_identity" => ("expires_on", &["resource", "token_type"]),
            "msrestazure" | "@azure/ms-rest-nodeauth" => ("expires_on", &["token_type"]),
            _ => panic!("{client} {version} is a new client: say how it reads an answer"),
        };
        Self { expiry, fields }
    }

    fn judge(&self, answer: &Answer, resource: &str, life: &Life) -> Result<(), String> {
        let body = object(answer)?;
        for name in self.fields {
            field(&body, name)?;
        }
        if self.fields.contains(&"resource") {
            expect("resource", field(&body, "resource")?, resource)?;
        }
        let claims = claims(field(&body, "access_token")?)?;
        let expiry = claims["exp"].as_u64().ok_or("the token never expires")?;
        let believed = seconds(&body, self.expiry)?;
        match self.expiry {
            "expires_in" => life.lasts("the client's expiry", believed, expiry),
            _ => expect("the client's expiry", &believed, &expiry),
        }
    }
}

/// When a request was sent and its answer read: in between the answer counted the seconds left.
struct Life {
    sent_at_s: u64,
    read_at_s: u64,
}

impl Life {
    fn lasts(&self, what: &str, left_s: u64, until_s: u64) -> Result<(), String> {
        let (early, late) = (self.sent_at_s + left_s, self.read_at_s + left_s);
        if (early.saturating_sub(TICK_S)..=late + TICK_S).contains(&until_s) {
            return Ok(());
        }
        Err(format!("{what} is {early}, not {until_s}"))
    }
}

fn object(answer: &Answer) -> Result<Map<String, Value>, String> {
    serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
}

fn field<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let value = body.get(name).and_then(Value::as_str);
    let value = value.filter(|value| !value.is_empty());
    value.ok_or_else(|| format!("{name} is missing, empty or no string"))
}

fn seconds(body: &Map<String, Value>, name: &str) -> Result<u64, String> {
    let value = field(body, name)?;
    value.parse().map_err(|_| format!("{name} is {value:?}"))
}

fn claims(token: &str) -> Result<Value, String> {
    let payload = token.split('.').nth(1).ok_or("no payload in the token")?;
    let payload = URL_SAFE_NO_PAD.decode(payload);
    let payload = payload.map_err(|error| error.to_string())?;
    serde_json::from_slice(&payload).map_err(|error| error.to_string())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    let text = value[name].as_str();
    text.unwrap_or_else(|| panic!("no text `{name}`"))
}

fn expect<T: PartialEq + Debug + ?Sized>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what} is {found:?}, not {wanted:?}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second opinion on the time, not the product's own"
)]
fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}
