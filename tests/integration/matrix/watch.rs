//! Steady callers that take every answer apart: a token that is not theirs, or over, or an error in
//! another shape is written down, and so is a refusal while a token is held that is good.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foretoken_emulator::Emulator;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde_json::Value;

use crate::support::http::{Answer, connect, read_answer, token_target};
use crate::support::jwt::claims_of;

/// Entra dates its tokens back, and so does the emulator.
const BACKDATED_S: i64 = 300;

pub fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own look at the clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_millis()).expect("not so late")
}

/// Sleeps until that time.
pub fn sleep_until(at_ms: i64) {
    let left = u64::try_from(at_ms - now_ms()).unwrap_or(0);
    std::thread::sleep(Duration::from_millis(left));
}

/// What a token says, once its signature was found good.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    pub audience: String,
    pub client: String,
    pub exp_s: i64,
    /// From issuance to expiry.
    pub life_s: i64,
}

/// Reads tokens, each once.
pub struct Verifier {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    known: Mutex<HashMap<String, Option<Arc<Claims>>>>,
}

impl Verifier {
    /// For the tokens of this emulator.
    pub fn of(emulator: &Emulator) -> Self {
        let keys: Value = serde_json::from_str(&emulator.jwks()).expect("JSON");
        let part = |name: &str| {
            let text = keys["keys"][0][name].as_str().expect("a part of the key");
            URL_SAFE_NO_PAD.decode(text).expect("base64url")
        };
        Self {
            modulus: part("n"),
            exponent: part("e"),
            known: Mutex::default(),
        }
    }

    /// What a token says; `None` for one that the emulator has not signed.
    fn read(&self, token: &str) -> Option<Arc<Claims>> {
        let mut known = self.known.lock().expect("no panic");
        let read = || {
            let (text, signature) = token.rsplit_once('.')?;
            let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
            let key = RsaPublicKeyComponents {
                n: &self.modulus,
                e: &self.exponent,
            };
            let good = key.verify(&RSA_PKCS1_2048_8192_SHA256, text.as_bytes(), &signature);
            good.ok()?;
            let claims = claims_of(token);
            Some(Arc::new(Claims {
                audience: claims["aud"].as_str()?.to_owned(),
                client: claims["appid"].as_str()?.to_owned(),
                exp_s: claims["exp"].as_i64()?,
                life_s: claims["exp"].as_i64()? - claims["iat"].as_i64()? - BACKDATED_S,
            }))
        };
        if let Some(claims) = known.get(token) {
            return claims.clone();
        }
        let claims = read();
        known.insert(token.to_owned(), claims.clone());
        claims
    }
}

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Key {
    pub resource: String,
    pub client: Option<&'static str>,
}

impl Key {
    fn request(&self) -> Vec<u8> {
        let mut target = token_target(&self.resource);
        if let Some(client) = self.client {
            target += "&client_id=";
            target += client;
        }
        let head = "HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n";
        format!("GET {target} {head}").into_bytes()
    }

    /// As the emulator counts it.
    pub fn selector(&self) -> String {
        let named = |client| format!("client_id={client}");
        self.client.map_or("system".to_owned(), named)
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Seen {
    pub sent_ms: i64,
    pub back_ms: i64,
    /// 0 for none.
    pub status: u16,
    pub token: Option<Arc<Claims>>,
}

/// A caller of one key on a connection that it keeps.
pub struct Caller<'a> {
    address: SocketAddr,
    key: Key,
    verifier: &'a Verifier,
    stream: Option<TcpStream>,
    /// Until when the last token is served at least: to the end that was told, less the margin,
    /// which is 2 % of what was left at receipt.
    held_until_ms: i64,
    /// The time is not the machine's: tokens may end early.
    pub lenient: bool,
    /// The end that is told may be earlier than the token's.
    pub early_ends: bool,
    /// What was wrong with answers.
    pub wrong: Vec<String>,
}

impl<'a> Caller<'a> {
    pub fn new(address: SocketAddr, key: Key, verifier: &'a Verifier) -> Self {
        Self {
            address,
            key,
            verifier,
            stream: None,
            held_until_ms: 0,
            lenient: false,
            early_ends: false,
            wrong: Vec::new(),
        }
    }

    /// Asks once and judges the answer.
    pub fn ask(&mut self) -> Seen {
        let sent_ms = now_ms();
        let answer = self.exchange();
        let back_ms = now_ms();
        let mut seen = Seen {
            sent_ms,
            back_ms,
            status: 0,
            token: None,
        };
        match answer {
            Err(error) => {
                self.stream = None;
                self.wrong.push(format!("no answer: {error}"));
            }
            Ok(answer) if answer.status == 200 => {
                seen.status = 200;
                seen.token = self.judge_token(&answer, sent_ms);
            }
            Ok(answer) => {
                seen.status = answer.status;
                if answer.header("connection") == Some("close") {
                    self.stream = None;
                }
                self.judge_error(&answer, back_ms);
            }
        }
        seen
    }

    fn exchange(&mut self) -> std::io::Result<Answer> {
        if self.stream.is_none() {
            self.stream = Some(connect(self.address)?);
        }
        let stream = self.stream.as_mut().expect("it was just made");
        stream.write_all(&self.key.request())?;
        read_answer(stream)
    }

    fn judge_token(&mut self, answer: &Answer, sent_ms: i64) -> Option<Arc<Claims>> {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token = body["access_token"].as_str().unwrap_or_default();
        let Some(claims) = self.verifier.read(token) else {
            self.wrong.push("a token that was never issued".to_owned());
            return None;
        };
        let mut check = |good: bool, what: &str| {
            if !good {
                self.wrong.push(format!(
                    "{what}: {claims:?}, asked for {:?} at {sent_ms}",
                    self.key
                ));
            }
        };
        check(
            claims.audience == self.key.resource,
            "a token for another resource",
        );
        check(
            body["resource"] == *self.key.resource,
            "another resource named",
        );
        check(
            self.key.client.is_none_or(|it| it == claims.client),
            "another client's token",
        );
        check(claims.exp_s * 1000 > sent_ms, "a token past its end");
        // Entra says how long, and not until when: that is counted from the question.
        let told_s = body["expires_on"].as_str().and_then(|it| it.parse().ok());
        let told_s: i64 = told_s.unwrap_or(0);
        let early = self.early_ends && told_s <= claims.exp_s;
        check(
            early || told_s == claims.exp_s,
            "another end than the token's",
        );
        check(body["token_type"] == "Bearer", "another type than Bearer");
        self.held_until_ms = told_s * 1000 - (claims.life_s * 20).min(15_000);
        Some(claims)
    }

    fn judge_error(&mut self, answer: &Answer, back_ms: i64) {
        let (status, body) = (answer.status, &answer.body);
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let words = json["error"].is_string() && json["error_description"].is_string();
        let json_type = answer.header("content-type") == Some("application/json; charset=utf-8");
        let waits = status < 500 || answer.header("retry-after").is_some();
        let bare = json.get("access_token").is_none();
        if !(words && json_type && waits && bare && (400..600).contains(&status)) {
            let body = String::from_utf8_lossy(body);
            self.wrong
                .push(format!("{status} in no shape of IMDS's: {body}"));
        }
        let left = self.held_until_ms - back_ms;
        if left > 0 && !self.lenient {
            self.wrong.push(format!(
                "{status} although a token was good for {left} ms more"
            ));
        }
    }
}
