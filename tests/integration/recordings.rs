//! Every recorded request of a real client, byte for byte, to a Foretoken in front of the emulator.
//!
//! `tests/golden/recordings` holds one file for each client, version and case. Only the requests
//! matter here, where they went, and which of them shared a connection; what the recording server
//! answered, often spoilt on purpose, does not. Arc's key is that of the challenge before, and
//! Service Fabric is spoken over TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foretoken::protocol::Dialect;
use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;

use super::support::http::{Answer, connect, read_answer};
use super::support::recorded::{Asked, Expiry, Key, Life, Reader, expect, text};
use super::support::{House, emulator_settings, tls};

/// What the folder holds, by kind; a recording that is lost or not replayed fails the test.
const RECORDINGS: [(&str, usize); 8] = [
    ("aml", 47),
    ("appservice", 43),
    ("arc", 34),
    ("cloudshell", 18),
    ("imds", 115),
    ("pod", 31),
    ("sf", 21),
    ("vmext", 6),
];
/// Their requests, by dialect and sort.
const REQUESTS: [(&str, usize); 10] = [
    ("app-service token", 44),
    ("app-service-2017 token", 51),
    ("arc challenge", 32),
    ("arc token", 24),
    ("cloud-shell token", 18),
    ("imds no query", 8),
    ("imds probe", 30),
    ("imds token", 240),
    ("service-fabric token", 23),
    ("vm-extension token", 7),
];
/// The secret that every recorded client was given.
const SECRET: &str = "69418689F1E342DD946CB82994CDA3CB";
/// What stands where a client read a key of Arc's.
const RECORDED_KEY: &str = "arc-challenge-secret-";
/// Asks for the table in the document to be written.
const WRITE_TABLE: &str = "FORETOKEN_WRITE_TABLE";
const DOCUMENT: &str = "docs/protocols.md";
const TABLE_STARTS: &str = "<!-- recorded clients: begin, written by the test -->\n";
const TABLE_ENDS: &str = "<!-- recorded clients: end -->";

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
    let counts = |of: &[(&str, usize)]| of.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
    assert_eq!(replay.recordings, counts(&RECORDINGS), "recordings by kind");
    assert_eq!(replay.asked, counts(&REQUESTS), "requests by sort");
}

#[test]
fn all_recorded_clients_together_cost_one_upstream_call_for_each_token_key() {
    let replay = Replay::run();
    let counts = replay.house.emulator.counts();
    assert!(replay.keys.len() > 10, "{:?}", replay.keys);
    assert_eq!(counts.token_calls, replay.keys.len() as u64, "{counts:?}");
    for key in &replay.keys {
        // The emulator ignores unknown parameters, so it counts such keys with those without.
        let twins = replay.keys.iter();
        let twins = twins.filter(|twin| (&twin.0, &twin.1) == (&key.0, &key.1));
        assert_eq!(
            counts.calls_for(&key.0, &key.1),
            twins.count() as u64,
            "{key:?}"
        );
    }
    assert_eq!(counts.refused, 0, "probes are answered here, not upstream");
}

#[test]
fn the_table_of_recorded_clients_is_up_to_date() {
    let table = Replay::run().table();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let document = fs::read_to_string(&path).expect("the document");
    let (before, rest) = document.split_once(TABLE_STARTS).expect("its first marker");
    let (written, after) = rest.split_once(TABLE_ENDS).expect("its second marker");
    if std::env::var_os(WRITE_TABLE).is_some() {
        let document = format!("{before}{TABLE_STARTS}{table}{TABLE_ENDS}{after}");
        fs::write(&path, document).expect("a table");
    } else {
        assert!(
            written == table,
            "{DOCUMENT} is stale: run this test with {WRITE_TABLE}=1"
        );
    }
}

/// Client, version and dialect.
type Row = (String, String, &'static str);

/// All recordings, replayed once.
struct Replay {
    house: House,
    places: Places,
    /// Recordings by kind.
    recordings: BTreeMap<String, usize>,
    /// Requests by dialect and sort.
    asked: BTreeMap<String, usize>,
    keys: BTreeSet<Key>,
    complaints: Vec<String>,
    rows: BTreeMap<Row, Tally>,
}

/// What became of one client's requests.
#[derive(Default)]
struct Tally {
    /// Requests by sort.
    answered: BTreeMap<&'static str, usize>,
    failed: usize,
    expiry: Option<Expiry>,
}

/// Where each dialect is spoken.
struct Places {
    plain: SocketAddr,
    dates: SocketAddr,
    arc: SocketAddr,
    fabric: SocketAddr,
    shell: SocketAddr,
    /// Trusts Foretoken's certificate alone.
    tls: Arc<ClientConfig>,
    /// Arc's key files and the certificate; removed with this.
    _folder: TempDir,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A recording while it is replayed.
struct Script<'a> {
    name: &'a str,
    recording: &'a Value,
    /// The file of the last challenge.
    key_file: Option<PathBuf>,
}

impl Replay {
    fn run() -> Self {
        let (house, places) = Places::start();
        let mut replay = Self {
            house,
            places,
            recordings: BTreeMap::new(),
            asked: BTreeMap::new(),
            keys: BTreeSet::new(),
            complaints: Vec::new(),
            rows: BTreeMap::new(),
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
        let mut script = Script {
            name,
            recording,
            key_file: None,
        };
        let exchanges = recording["exchanges"].as_array().expect("exchanges");
        assert!(!exchanges.is_empty(), "{name} has no requests");
        let mut connection: Option<(Box<dyn Stream>, Dialect, u64)> = None;
        for (at, exchange) in exchanges.iter().enumerate() {
            let dialect = dialect_at(recording, exchange);
            let nth = exchange["nth_on_connection"].as_u64().expect("a number");
            let (mut stream, place, before) = match connection.take() {
                Some(open) if nth > 0 => open,
                _ => (self.places.open(dialect, &script), dialect, 0),
            };
            assert_eq!(
                (nth, dialect),
                (before, place),
                "{name}: requests of one connection, in their order"
            );
            let sent = text(&exchange["request"], "raw_b64");
            let sent = STANDARD.decode(sent).expect("base64");
            let reader = Reader::of(recording, dialect);
            let row = (
                text(recording, "client").to_owned(),
                text(recording, "version").to_owned(),
                dialect.as_str(),
            );
            let asked = Asked::read(&sent, dialect);
            let tally = self.rows.entry(row).or_default();
            *tally.answered.entry(asked.sort()).or_default() += 1;
            tally.expiry = Some(reader.expiry);
            let sort = format!("{} {}", dialect.as_str(), asked.sort());
            *self.asked.entry(sort).or_default() += 1;
            let sent = script.with_key(sent);
            let answered = request(&mut *stream, &sent, &asked, &reader, &mut script);
            if let Err(complaint) = answered {
                tally.failed += 1;
                let line = format!("{name}, request {}: {complaint}", at + 1);
                self.complaints.push(line);
                return;
            }
            if let Asked::Token(wanted) = asked {
                self.keys.insert(wanted.key());
            }
            connection = Some((stream, place, nth + 1));
        }
    }

    /// What this run has shown, as a table in Markdown.
    fn table(&self) -> String {
        let mut table = "| Client | Version | Dialect | Answered as it needs | The client then |\n\
                         |---|---|---|---|---|\n"
            .to_owned();
        for ((client, version, dialect), tally) in &self.rows {
            let each = tally.answered.iter().map(|(sort, n)| match (*sort, n) {
                ("token", 1) => "1 token".to_owned(),
                ("token", n) => format!("{n} tokens"),
                ("challenge", n) => format!("{n} × 401 with a key file"),
                (sort, n) => format!("{n} × 400 ({sort})"),
            });
            let mut result = each.collect::<Vec<_>>().join(", ");
            if tally.failed > 0 {
                result = format!("**{} failed**, of {result}", tally.failed);
            }
            let then = match tally.expiry {
                Some(Expiry::In) => "believes `expires_in`",
                Some(Expiry::Date) => "reads dates only: `expires_on_2017 = \"date\"`",
                Some(Expiry::Misread) => "misreads the expiry, as at the real endpoint",
                _ => "believes `expires_on`",
            };
            table += &format!("| {client} | {version} | `{dialect}` | {result} | {then} |\n");
        }
        table
    }
}

impl Places {
    fn start() -> (House, Self) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().display();
        let arm_id = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/rg-one/\
                      providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-one";
        let listener = |more: &str| format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{more}\n");
        let dialects =
            "dialects = [\"imds\", \"app-service\", \"app-service-2017\", \"vm-extension\"]";
        let more = [
            listener(dialects),
            listener(&format!("{dialects}\nexpires_on_2017 = \"date\"")),
            listener(&format!(
                "dialects = [\"arc\"]\narc_folder = \"{path}/tokens\"\narc_allow_agent = true"
            )),
            listener(&format!(
                "dialects = [\"service-fabric\"]\ntls = \"{path}/tls\""
            )),
            listener("dialects = [\"cloud-shell\"]"),
            format!(
                "[[client]]\nname = \"recorded\"\nsecret = \"{SECRET}\"\nidentities = [\"system\", \
                 \"client_id=aaaaaaaa-1111-4222-8333-444444444444\", \
                 \"object_id=bbbbbbbb-1111-4222-8333-444444444444\", \"msi_res_id={arm_id}\"]\n"
            ),
        ];
        let house = House::start_with(emulator_settings(), &more.concat());
        let [_, plain, dates, arc, fabric, shell] = house.addresses()[..] else {
            panic!("six listeners: {:?}", house.addresses());
        };
        let tls = tls::trusting(&folder.path().join("tls/cert.pem"));
        let places = Self {
            plain,
            dates,
            arc,
            fabric,
            shell,
            tls,
            _folder: folder,
        };
        (house, places)
    }

    /// A connection to where this client would be pointed.
    fn open(&self, dialect: Dialect, script: &Script<'_>) -> Box<dyn Stream> {
        let address = match dialect {
            Dialect::Arc => self.arc,
            Dialect::ServiceFabric => self.fabric,
            Dialect::CloudShell => self.shell,
            _ if script.reads_dates(dialect) => self.dates,
            _ => self.plain,
        };
        match dialect {
            Dialect::ServiceFabric => Box::new(tls::connect(address, &self.tls)),
            _ => Box::new(connect(address).expect("a connection")),
        }
    }
}

impl Script<'_> {
    fn reads_dates(&self, dialect: Dialect) -> bool {
        Reader::of(self.recording, dialect).expiry == Expiry::Date
    }

    /// The request with the key that the challenge before named, in place of the recorded one.
    fn with_key(&self, sent: Vec<u8>) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(&sent) else {
            return sent;
        };
        let Some(start) = text.find(RECORDED_KEY) else {
            return sent;
        };
        let end = start + text[start..].find("\r\n").expect("the end of a header");
        let file = self.key_file.as_ref();
        let file = file.unwrap_or_else(|| panic!("{}: a key before a challenge", self.name));
        let key = fs::read(file).expect("the key file that the challenge names");
        [&sent[..start], &key, &sent[end..]].concat()
    }
}

/// Which dialect a recorded request was sent to.
fn dialect_at(recording: &Value, exchange: &Value) -> Dialect {
    if text(recording, "endpoint_kind") == "pod" {
        return Dialect::Imds;
    }
    match text(exchange, "listener") {
        "169.254.169.254:80" => Dialect::Imds,
        "127.0.0.1:41741" => Dialect::AppService,
        "127.0.0.1:41742" => Dialect::AppService2017,
        "127.0.0.1:41743" => Dialect::CloudShell,
        "127.0.0.1:50342" => Dialect::VmExtension,
        "127.0.0.1:40342" => Dialect::Arc,
        "127.0.0.1:2377" => Dialect::ServiceFabric,
        other => panic!("{other} is a new place: say what is spoken there"),
    }
}

fn request(
    mut stream: &mut dyn Stream,
    sent: &[u8],
    asked: &Asked,
    reader: &Reader,
    script: &mut Script<'_>,
) -> Result<(), String> {
    let sent_at_s = now_s();
    stream.write_all(sent).map_err(|error| error.to_string())?;
    let answer = read_answer(&mut stream).map_err(|error| error.to_string())?;
    let life = Life {
        sent_at_s,
        read_at_s: now_s(),
    };
    let body = String::from_utf8_lossy(&answer.body);
    expect("status", &answer.status, &asked.status())
        .map_err(|error| format!("{error}: {body}"))?;
    let content = answer.header("content-type");
    expect(
        "content-type",
        &content,
        &Some("application/json; charset=utf-8"),
    )?;
    expect(
        "cache-control",
        &answer.header("cache-control"),
        &Some("no-store"),
    )?;
    match asked {
        Asked::Token(wanted) => {
            wanted.judge(&answer, &life, reader.expiry == Expiry::Date)?;
            reader.judge(&answer, &wanted.resource, &life)
        }
        Asked::Probe => expect(
            "body",
            body.as_ref(),
            "{\"error\":\"invalid_request\",\
             \"error_description\":\"Required metadata header not specified\"}",
        ),
        Asked::NoQuery => expect(
            "versions",
            &answer.json()["newest-versions"],
            &serde_json::json!(["2018-02-01"]),
        ),
        Asked::Challenge => {
            script.key_file = Some(key_file(&answer)?);
            Ok(())
        }
    }
}

/// The file that a challenge names, read as the strictest clients read it.
fn key_file(answer: &Answer) -> Result<PathBuf, String> {
    // msal-node reads the body before the header, and fails on one that is no JSON.
    expect("a JSON body", &answer.json().is_object(), &true)?;
    let challenge = answer.header("www-authenticate").ok_or("no challenge")?;
    let parts: Vec<_> = challenge.split('=').collect();
    let ["Basic realm", path] = parts[..] else {
        return Err(format!("a challenge of other parts: {challenge}"));
    };
    let path = PathBuf::from(path);
    expect("the file's name", &path.extension(), &Some("key".as_ref()))?;
    let length = fs::metadata(&path)
        .map_err(|error| error.to_string())?
        .len();
    expect("at most 4096 bytes", &(length <= 4096), &true)?;
    Ok(path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second opinion on the time, not the product's own"
)]
fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}
