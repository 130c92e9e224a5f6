//! Recorded requests: what each one asks for, and how the client that sent it reads the answer.
//!
//! How each client reads an answer is `docs/protocols.md`'s table in code: [`Reader::of`].

use std::fmt::Debug;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foretoken::protocol::Dialect;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::http::Answer;

/// Seconds are counted whole: two clock readings of one moment may differ by this.
const TICK_S: u64 = 1;

/// What a recorded request asks for.
pub enum Asked {
    Token(Wanted),
    /// No `Metadata: true`.
    Probe,
    /// The header, but nothing behind the path.
    NoQuery,
    /// Arc, without a key.
    Challenge,
}

impl Asked {
    pub fn read(sent: &[u8], dialect: Dialect) -> Self {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(sent).expect("a request");
        let httparse::Status::Complete(head) = status else {
            panic!("half a head");
        };
        let header = |name: &str| {
            let mut headers = request.headers.iter();
            let found = headers.find(|h| h.name.eq_ignore_ascii_case(name));
            found.map(|h| h.value)
        };
        let metadata = header("metadata") == Some(b"true");
        let secret = match dialect {
            Dialect::AppService => header("x-identity-header"),
            Dialect::AppService2017 | Dialect::ServiceFabric => header("secret"),
            _ => None,
        };
        if !metadata && secret.is_none() {
            return Self::Probe;
        }
        if dialect == Dialect::Arc && header("authorization").is_none() {
            return Self::Challenge;
        }
        let chunked = header("transfer-encoding").is_some();
        let form = form(&sent[head..], chunked);
        let target = request.path.expect("a target");
        let query = target.split_once('?').map_or("", |(_, query)| query);
        if query.is_empty() && form.is_empty() {
            return Self::NoQuery;
        }
        let pairs: Vec<_> = [query, &form]
            .into_iter()
            .flat_map(|part| part.split('&'))
            .filter(|pair| !pair.is_empty())
            .collect();
        Self::Token(Wanted::read(&pairs, dialect))
    }

    pub fn sort(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Probe => "probe",
            Self::NoQuery => "no query",
            Self::Challenge => "challenge",
        }
    }

    pub fn status(&self) -> u16 {
        match self {
            Self::Token(_) => 200,
            Self::Probe | Self::NoQuery => 400,
            Self::Challenge => 401,
        }
    }
}

/// The text of a body, without its chunks.
fn form(body: &[u8], chunked: bool) -> String {
    let body = std::str::from_utf8(body).expect("a form is text");
    if !chunked {
        return body.to_owned();
    }
    let (mut text, mut rest) = (String::new(), body);
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return text;
        }
        text.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").expect("a chunk's end");
    }
}

/// A token key in the emulator's words: selector, resource, capabilities, unknown parameters.
pub type Key = (String, String, String, Vec<(String, String)>);

/// What of a token gets as far as the caller, by what its source says.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    pub client_id: bool,
    pub not_before: bool,
    /// Whether a token without a selector is the machine's own.
    pub machine: bool,
    /// By how much the end may be told too early: some say no more than how long is left.
    pub early_s: u64,
}

impl Told {
    /// As IMDS tells it.
    pub const ALL: Self = Self {
        client_id: true,
        not_before: true,
        machine: true,
        early_s: 0,
    };
}

/// The token that a request asks for.
pub struct Wanted {
    pub dialect: Dialect,
    pub resource: String,
    /// The selector's name as the emulator counts it, and its value in lower case.
    selector: Option<(&'static str, String)>,
    /// The selector's name as it was sent.
    spelt: String,
    capabilities: String,
    extras: Vec<(String, String)>,
}

impl Wanted {
    fn read(pairs: &[&str], dialect: Dialect) -> Self {
        let mut wanted = Self {
            dialect,
            resource: String::new(),
            selector: None,
            spelt: String::new(),
            capabilities: String::new(),
            extras: Vec::new(),
        };
        for pair in pairs {
            assert!(!pair.contains('+'), "a space or a plus? {pair}");
            let (name, value) = pair.split_once('=').expect("a value");
            let value = percent_decode_str(value).decode_utf8().expect("text");
            let value = value.into_owned();
            let selector = match name {
                // The hash is of a token of the recording: what is held is another, and a hit.
                "api-version" | "token_sha256_to_refresh" => continue,
                "resource" => {
                    wanted.resource = value;
                    continue;
                }
                "xms_cc" => {
                    wanted.capabilities = value;
                    continue;
                }
                "client_id" | "clientid" => "client_id",
                "object_id" => "object_id",
                "msi_res_id" | "mi_res_id" => "msi_res_id",
                // No parameters of the endpoint: one of Python's that it passes on, and one that
                // stood in the configured URL. They are dropped for a client that is bound.
                "resource_id" | "x" => {
                    if !wanted.is_bound() {
                        wanted.extras.push((name.to_owned(), value));
                    }
                    continue;
                }
                _ => panic!("a client sends `{name}`: say what it means"),
            };
            if !value.is_empty() {
                name.clone_into(&mut wanted.spelt);
                wanted.selector = Some((selector, value.to_lowercase()));
            }
        }
        assert!(!wanted.resource.is_empty(), "a resource");
        wanted
    }

    /// How the identity is selected, in the words of IMDS; `None` for the machine's own.
    pub fn selector(&self) -> Option<&'static str> {
        self.selector.as_ref().map(|(name, _)| *name)
    }

    /// Whether the caller proves itself as a `[[client]]`.
    fn is_bound(&self) -> bool {
        use Dialect::{AppService, AppService2017, ServiceFabric};
        matches!(self.dialect, AppService | AppService2017 | ServiceFabric)
    }

    pub fn key(&self) -> Key {
        let selector = match &self.selector {
            None => "system".to_owned(),
            Some((name, value)) => format!("{name}={value}"),
        };
        let (resource, capabilities) = (self.resource.clone(), self.capabilities.clone());
        (selector, resource, capabilities, self.extras.clone())
    }

    /// What every client may count on: strings, MSAL .NET's order, the right times, the token of
    /// this resource and this identity; and what the real endpoint of the dialect never says.
    pub fn judge(
        &self,
        answer: &Answer,
        life: &Life,
        dates: bool,
        told: Told,
    ) -> Result<(), String> {
        let body = object(answer)?;
        if let Some((name, value)) = body.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("{name} is no string but {value}"));
        }
        expect("token_type", field(&body, "token_type")?, "Bearer")?;
        expect("resource", field(&body, "resource")?, &self.resource)?;

        let claims = claims(field(&body, "access_token")?)?;
        let until = told.end(&claims, &body)?;
        if dates && self.dialect == Dialect::AppService2017 {
            expect("expires_on", field(&body, "expires_on")?, &us_date(until))?;
        } else {
            expect("expires_on", &seconds(&body, "expires_on")?, &until)?;
        }
        if self.is_bound() {
            let moving = ["expires_in", "ext_expires_in"];
            let moving = moving.iter().find(|name| body.contains_key(**name));
            expect("a field that counts down", &moving, &None)?;
        } else {
            let raw = String::from_utf8_lossy(&answer.body);
            let place = |name| raw.find(name).ok_or_else(|| format!("no {name}"));
            if place("\"expires_in\":")? > place("\"expires_on\":")? {
                return Err("expires_in stands behind expires_on".to_owned());
            }
            let left = seconds(&body, "expires_in")?;
            life.lasts("expires_in", left, until)?;
            expect("ext_expires_in", &seconds(&body, "ext_expires_in")?, &left)?;
        }
        if told.not_before {
            let not_before = seconds(&body, "not_before")?;
            expect("nbf", &claims["nbf"].as_u64(), &Some(not_before))?;
        }
        expect("aud", text(&claims, "aud"), &self.resource)?;
        if told.client_id {
            expect("appid", text(&claims, "appid"), field(&body, "client_id")?)?;
        }
        let refresh_token = body.get("refresh_token").and_then(Value::as_str);
        let empty = (self.dialect == Dialect::CloudShell).then_some("");
        expect("refresh_token", &refresh_token, &empty)?;
        self.judge_identity(&body, &claims, told)
    }

    fn judge_identity(
        &self,
        body: &Map<String, Value>,
        claims: &Value,
        told: Told,
    ) -> Result<(), String> {
        let lower = |claim| text(claims, claim).to_lowercase();
        let Some((name, id)) = &self.selector else {
            let machine = lower("xms_mirid").contains("/microsoft.compute/virtualmachines/");
            return expect("of the machine itself", &machine, &told.machine);
        };
        if self.dialect == Dialect::Arc {
            // Clients throw the token away without it.
            let echo = field(body, &self.spelt)?;
            expect("the echo", &echo.to_lowercase(), id)?;
        }
        match *name {
            "client_id" => expect("appid", &lower("appid"), id),
            "object_id" => expect("oid", &lower("oid"), id),
            _ => expect("xms_mirid", &lower("xms_mirid"), id),
        }
    }
}

/// `06/20/2019 02:57:58 +00:00`, from the parts of another writer of dates.
fn us_date(unix_s: u64) -> String {
    let written = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_s));
    let parts: Vec<_> = written.split(' ').collect();
    let [_, day, month, year, time, _] = parts[..] else {
        panic!("a date: {written}");
    };
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = months.iter().position(|name| *name == month);
    let month = month.expect("a month") + 1;
    format!("{month:02}/{day}/{year} {time} +00:00")
}

/// Where a client takes the expiry of a token from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Seconds from now.
    In,
    /// Seconds since 1970.
    On,
    /// `expires_on` as a date.
    Date,
    /// It misreads whatever the real endpoint says: one request for each call.
    Misread,
}

/// How a client reads an answer: where it takes the expiry from, and what must be there besides.
pub struct Reader {
    pub expiry: Expiry,
    fields: &'static [&'static str],
}

impl Reader {
    /// The reader in a recorded client of this dialect.
    pub fn of(recording: &Value, dialect: Dialect) -> Self {
        use Dialect::{AppService, AppService2017, Arc, CloudShell, Imds, ServiceFabric};
        let (client, version) = (text(recording, "client"), text(recording, "version"));
        let class = recording["call"]["cls"].as_str().unwrap_or_default();
        // These endpoints say `expires_on` alone.
        let still = matches!(dialect, AppService | AppService2017 | ServiceFabric);
        let (expiry, fields): (_, &[_]) = match client {
            "msal" | "azure-cli" if !still => (Expiry::In, &[]),
            "azure-identity" if version == "1.27.0" && !class.starts_with("aio.") => {
                match dialect {
                    Imds | Arc => (Expiry::In, &[]),
                    ServiceFabric => (Expiry::On, &["token_type"]),
                    CloudShell => (Expiry::On, &["resource"]),
                    _ => (Expiry::On, &[]),
                }
            }
            // Without the resource it takes the answer for none; another one spoils its cache.
            "azure-identity" if still => (Expiry::On, &["resource"]),
            "azure-identity" => (Expiry::On, &["resource", "expires_in"]),
            "@azure/identity" if version == "1.5.2" || version == "2.1.0" => match dialect {
                AppService2017 => (Expiry::Date, &[]),
                // The first wants a date, the second milliseconds.
                AppService | ServiceFabric => (Expiry::Misread, &[]),
                Arc | CloudShell => (Expiry::In, &[]),
                _ => (Expiry::On, &[]),
            },
            "@azure/msal-node" | "@azure/identity" | "go-autorest-adal" | "object_store" => {
                (Expiry::On, &[])
            }
            "azure_identity" => (Expiry::On, &["resource", "token_type"]),
            "msal" | "azure-cli" | "msrestazure" | "@azure/ms-rest-nodeauth" => {
                (Expiry::On, &["token_type"])
            }
            _ => panic!("{client} {version} is a new client: say how it reads an answer"),
        };
        Self { expiry, fields }
    }

    pub fn judge(
        &self,
        answer: &Answer,
        resource: &str,
        life: &Life,
        told: Told,
    ) -> Result<(), String> {
        let body = object(answer)?;
        for name in self.fields {
            field(&body, name)?;
        }
        if self.fields.contains(&"resource") {
            expect("resource", field(&body, "resource")?, resource)?;
        }
        let claims = claims(field(&body, "access_token")?)?;
        let expiry = told.end(&claims, &body)?;
        let what = "the client's expiry";
        match self.expiry {
            Expiry::In => life.lasts(what, seconds(&body, "expires_in")?, expiry),
            Expiry::On => expect(what, &seconds(&body, "expires_on")?, &expiry),
            Expiry::Date => expect(what, field(&body, "expires_on")?, &us_date(expiry)),
            Expiry::Misread => field(&body, "expires_on").map(drop),
        }
    }
}

impl Told {
    /// When the token ends, as far as the answer can know.
    fn end(self, claims: &Value, body: &Map<String, Value>) -> Result<u64, String> {
        let exact = claims["exp"].as_u64().ok_or("the token never expires")?;
        let early = seconds(body, "expires_on").unwrap_or(exact);
        let close = (exact - self.early_s..=exact).contains(&early);
        Ok(if close { early } else { exact })
    }
}

/// When a request was sent and its answer read: in between the answer counted the seconds left.
pub struct Life {
    pub sent_at_s: u64,
    pub read_at_s: u64,
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

/// The text under this name, which must be there.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    let text = value[name].as_str();
    text.unwrap_or_else(|| panic!("no text `{name}`"))
}

/// Whether two things are equal, or a sentence that says how they are not.
pub fn expect<T: PartialEq + Debug + ?Sized>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what} is {found:?}, not {wanted:?}"))
}
