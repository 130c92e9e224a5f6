//! The recorded requests of real clients, replayed byte for byte.
//!
//! Three things are not as recorded: an Arc client sends the key of the challenge before, and
//! Service Fabric is spoken over TLS, to a certificate of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foretoken::app::App;
use foretoken::protocol::Dialect;
use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;

use super::http::{Answer, connect, read_answer};
use super::recorded::{Asked, Expiry, Key, Life, Reader, Told, expect, text};
use super::{House, emulator_settings, tcp_addresses, tls};

/// The secret that every recorded client was given.
pub const SECRET: &str = "69418689F1E342DD946CB82994CDA3CB";
/// What stands where a client read a key of Arc's.
pub const RECORDED_KEY: &str = "arc-challenge-secret-";
/// Client, version and dialect.
pub type Row = (String, String, &'static str);

/// All recordings, replayed once.
pub struct Replay {
    pub house: House,
    places: Places,
    told: Told,
    /// Whether the source can be asked for an identity that is selected like this.
    takes: fn(Option<&str>) -> bool,
    /// Recordings by kind.
    pub recordings: BTreeMap<String, usize>,
    /// Requests by dialect and sort.
    pub asked: BTreeMap<String, usize>,
    /// Token requests that the source cannot be asked for, and that were refused.
    pub refused: usize,
    pub keys: BTreeSet<Key>,
    pub complaints: Vec<String>,
    rows: BTreeMap<Row, Tally>,
}

/// What became of one client's requests.
#[derive(Default)]
pub struct Tally {
    /// Requests by sort.
    answered: BTreeMap<&'static str, usize>,
    failed: usize,
    expiry: Option<Expiry>,
}

/// Where each dialect is spoken.
pub struct Places {
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
    /// All recordings, at a Foretoken before an emulator of IMDS.
    pub fn run() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let house = House::start_with(emulator_settings(), &listeners(folder.path()));
        let places = Places::of(&house.app, folder);
        Self::run_at(house, places, Told::ALL, |_| true)
    }

    /// All recordings, at these places. `source` tells its tokens so, and can be asked for an
    /// identity that is selected like this.
    pub fn run_at(
        house: House,
        places: Places,
        told: Told,
        takes: fn(Option<&str>) -> bool,
    ) -> Self {
        let mut replay = Self {
            house,
            places,
            told,
            takes,
            recordings: BTreeMap::new(),
            asked: BTreeMap::new(),
            refused: 0,
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
            let refused =
                matches!(&asked, Asked::Token(wanted) if !(self.takes)(wanted.selector()));
            let judge = Judge {
                reader: &reader,
                told: self.told,
                refused,
            };
            let answered = request(&mut *stream, &sent, &asked, &judge, &mut script);
            if let Err(complaint) = answered {
                tally.failed += 1;
                let line = format!("{name}, request {}: {complaint}", at + 1);
                self.complaints.push(line);
                return;
            }
            self.refused += usize::from(refused);
            if let (Asked::Token(wanted), false) = (asked, refused) {
                self.keys.insert(wanted.key());
            }
            connection = Some((stream, place, nth + 1));
        }
    }

    /// What this run has shown, as a table in Markdown.
    pub fn table(&self) -> String {
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

/// A listener for each way to be asked, and the client that all recordings are of. The first
/// listener is somebody else's.
pub fn listeners(folder: &Path) -> String {
    let path = folder.display();
    let listener = |more: &str| format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{more}\n");
    let dialects = "dialects = [\"imds\", \"app-service\", \"app-service-2017\", \"vm-extension\"]";
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
        client(),
    ];
    more.concat()
}

/// The client that all recordings are of.
pub fn client() -> String {
    let arm_id = "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/rg-one/\
                  providers/Microsoft.ManagedIdentity/userAssignedIdentities/id-one";
    format!(
        "[[client]]\nname = \"recorded\"\nsecret = \"{SECRET}\"\nidentities = [\"system\", \
         \"client_id=aaaaaaaa-1111-4222-8333-444444444444\", \
         \"object_id=bbbbbbbb-1111-4222-8333-444444444444\", \"msi_res_id={arm_id}\"]\n"
    )
}

impl Places {
    /// Those of a Foretoken with these [`listeners`], in their folder.
    pub fn of(app: &App, folder: TempDir) -> Self {
        let addresses: Vec<_> = tcp_addresses(app).collect();
        let [_, plain, dates, arc, fabric, shell] = addresses[..] else {
            panic!("six listeners: {addresses:?}");
        };
        let tls = tls::trusting(&folder.path().join("tls/cert.pem"));
        Self {
            plain,
            dates,
            arc,
            fabric,
            shell,
            tls,
            _folder: folder,
        }
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
pub fn dialect_at(recording: &Value, exchange: &Value) -> Dialect {
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

/// How an answer is looked at.
struct Judge<'a> {
    reader: &'a Reader,
    told: Told,
    /// The source cannot be asked for this.
    refused: bool,
}

fn request(
    mut stream: &mut dyn Stream,
    sent: &[u8],
    asked: &Asked,
    judge: &Judge<'_>,
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
    let status = if judge.refused { 400 } else { asked.status() };
    expect("status", &answer.status, &status).map_err(|error| format!("{error}: {body}"))?;
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
    let Judge { reader, told, .. } = *judge;
    match asked {
        Asked::Token(_) if judge.refused => expect("a reason", &body.contains("selector"), &true),
        Asked::Token(wanted) => {
            wanted.judge(&answer, &life, reader.expiry == Expiry::Date, told)?;
            reader.judge(&answer, &wanted.resource, &life, told)
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
