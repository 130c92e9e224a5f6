//! A small blocking HTTP client for this crate's tests: it shows exactly what went over the wire.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::time;
pub(crate) use crate::token_reply::sha256_hex;
use crate::{
    AppService, AppService2017, ArcAgent, AzureMl, Emulator, Entra, Identities, Kind, Limits,
    ServiceFabric, Settings,
};

pub(crate) const RESOURCE: &str = "https://management.azure.com";

/// An emulator without limits.
pub(crate) fn unlimited() -> Emulator {
    start(Settings {
        limits: Limits::NONE,
        ..Settings::default()
    })
}

pub(crate) fn start(settings: Settings) -> Emulator {
    Emulator::start(settings).unwrap()
}

/// The target of a proper token request, with more parameters if there are any (`&a=b`).
pub(crate) fn token_target(more: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}{more}")
}

/// A proper token request on a connection of its own.
pub(crate) fn ask(emulator: &Emulator, more: &str) -> Response {
    get(emulator, &token_target(more))
}

/// A GET with the `Metadata` header on a connection of its own.
pub(crate) fn get(emulator: &Emulator, target: &str) -> Response {
    Connection::open(emulator).get(target).unwrap()
}

/// An emulator of one kind without limits, and the header lines that its callers send.
pub(crate) struct Asker {
    pub emulator: Emulator,
    settings: Settings,
    lines: String,
}

impl Asker {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::with_settings(Settings {
            kind,
            limits: Limits::NONE,
            ..Settings::default()
        })
    }

    pub(crate) fn with_settings(settings: Settings) -> Self {
        Self {
            emulator: start(settings.clone()),
            settings,
            lines: String::new(),
        }
    }

    /// Header lines, each ended by CRLF.
    pub(crate) fn with_lines(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.lines);
        self
    }

    pub(crate) fn with_kind(self, kind: Kind) -> Self {
        let settings = Settings {
            kind,
            ..self.settings
        };
        Self::with_settings(settings).with_lines(&self.lines)
    }

    pub(crate) fn with_identities(self, identities: Identities) -> Self {
        let settings = Settings {
            identities,
            ..self.settings
        };
        Self::with_settings(settings).with_lines(&self.lines)
    }

    pub(crate) fn lines(&self) -> &str {
        &self.lines
    }

    pub(crate) fn get(&self, target: &str) -> Response {
        self.send("GET", target, &self.lines, "")
    }

    pub(crate) fn post(&self, target: &str, body: &str) -> Response {
        self.send("POST", target, &self.lines, body)
    }

    pub(crate) fn send(&self, method: &str, target: &str, lines: &str, body: &str) -> Response {
        Connection::open(&self.emulator)
            .request(method, target, lines, body)
            .unwrap()
    }

    /// Sends exactly this.
    pub(crate) fn raw(&self, request: &str) -> Response {
        let mut connection = Connection::open(&self.emulator);
        connection.send(request).unwrap();
        connection.read().unwrap()
    }
}

/// One of each, the folder of Arc called by a name of one's own.
pub(crate) fn every_kind(name: &str) -> [Kind; 9] {
    let folder = format!("emulator-{name}-{}", std::process::id());
    let key_folder = std::env::temp_dir().join(folder);
    [
        Kind::Imds,
        Kind::AppService(AppService::default()),
        Kind::AppService2017(AppService2017::default()),
        Kind::AzureMl(AzureMl::default()),
        Kind::Arc(ArcAgent {
            key_folder,
            ..ArcAgent::default()
        }),
        Kind::ServiceFabric(ServiceFabric::default()),
        Kind::CloudShell,
        Kind::VmExtension,
        Kind::Entra(Entra::default()),
    ]
}

/// Asks for a token as a client of the kind does.
pub(crate) fn ask_as(kind: &Kind, asker: &Asker) -> Response {
    let rules = kind.rules();
    let version = match rules.api_versions {
        crate::rules::ApiVersions::OneOf(versions) => versions[0],
        _ => "2018-02-01",
    };
    let parameters = format!("api-version={version}&resource={RESOURCE}");
    let target = format!("{}?{parameters}", rules.path.text());
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let mut lines = "Metadata: true\r\n".to_owned();
    if let Some((header, secret)) = rules.secret {
        lines = format!("{header}: {secret}\r\n");
    }
    match kind {
        Kind::CloudShell => asker.send(
            "POST",
            rules.path.text(),
            &format!("{lines}{form}"),
            &parameters,
        ),
        Kind::Entra(_) => {
            let tenant = crate::settings::DEFAULT_TENANT_ID;
            let body = format!(
                "client_id={tenant}&scope={RESOURCE}/.default\
                 &grant_type=client_credentials&client_assertion={}&client_assertion_type=\
                 urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                asker.emulator.federated_token(60)
            );
            let target = format!("/{tenant}{}", rules.path.text());
            asker.send("POST", &target, form, &body)
        }
        Kind::Arc(_) => {
            let challenge = asker.send("GET", &target, &lines, "");
            let realm = challenge.header("www-authenticate").unwrap_or_default();
            let path = realm.strip_prefix("Basic realm=").unwrap_or_default();
            let key = std::fs::read_to_string(path).unwrap_or_default();
            let lines = format!("{lines}Authorization: Basic {key}\r\n");
            asker.send("GET", &target, &lines, "")
        }
        _ => asker.send("GET", &target, &lines, ""),
    }
}

/// Returns as soon as this is so; fails if it does not come about.
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let start = time::steady();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
        thread::yield_now();
    }
}

/// The names of the members of a JSON object, in the order in which they are written.
pub(crate) fn names(object: &str) -> Vec<String> {
    let members: serde_json::Map<String, Value> = serde_json::from_str(object).unwrap();
    let mut names: Vec<String> = members.keys().cloned().collect();
    names.sort_by_key(|name| object.find(&format!("\"{name}\":")));
    names
}

pub(crate) struct Connection {
    stream: Box<dyn Stream>,
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

impl Connection {
    /// Over TLS if the emulator speaks it, trusting what it says may be trusted.
    pub(crate) fn open(emulator: &Emulator) -> Self {
        let trusted = emulator.ca_pem().or(emulator.certificate_pem());
        let Some(trusted) = trusted else {
            return Self::open_plain(emulator);
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = connect(emulator.address());
        Self {
            stream: Box::new(StreamOwned::new(tls, stream)),
        }
    }

    pub(crate) fn open_plain(emulator: &Emulator) -> Self {
        Self::to(emulator.address())
    }

    pub(crate) fn to(address: SocketAddr) -> Self {
        Self {
            stream: Box::new(connect(address)),
        }
    }

    pub(crate) fn get(&mut self, target: &str) -> io::Result<Response> {
        self.request("GET", target, "Metadata: true\r\n", "")
    }

    /// Header lines end in CRLF.
    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        header_lines: &str,
        body: &str,
    ) -> io::Result<Response> {
        let length = body.len();
        self.send(&format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\n{header_lines}\
             Content-Length: {length}\r\n\r\n{body}"
        ))?;
        self.read()
    }

    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// Reads one reply; `UnexpectedEof` if it ends early.
    pub(crate) fn read(&mut self) -> io::Result<Response> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response {
            status,
            head,
            body: String::new(),
        };
        let mut body = vec![0; response.header("content-length").unwrap().parse().unwrap()];
        self.stream.read_exact(&mut body)?;
        response.body = String::from_utf8(body).unwrap();
        Ok(response)
    }

    /// Everything until the emulator closes the connection.
    pub(crate) fn read_to_end(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// A socket that does not wait for ever: whoever waits so long has been forgotten.
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

#[derive(Debug)]
pub(crate) struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn token(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// The claims of the token in this reply, unverified.
    pub(crate) fn claims(&self) -> Value {
        decode_part(&self.token(), 1)
    }
}

/// One part of a compact JWS: 0 the header, 1 the claims.
pub(crate) fn decode_part(token: &str, part: usize) -> Value {
    let encoded = token.split('.').nth(part).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
}
