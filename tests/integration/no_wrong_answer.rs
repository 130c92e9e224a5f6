//! No caller ever gets a token of another key: many callers over many keys in random order, in every
//! spelling and dialect, while tokens are renewed and purged. Every token is decoded, and whose it
//! is compared with what was asked.
//!
//! `FORETOKEN_REQUESTS` sets how many requests (`./recipes wrong` asks ten million),
//! `FORETOKEN_SEED` repeats a run's choices.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;

use crate::support::http::{Answer, connect, purge, read_answer};
use crate::support::jwt::claims_of;
use crate::support::{House, emulator_settings};

const REQUESTS: &str = "FORETOKEN_REQUESTS";
const DEFAULT_REQUESTS: u64 = 100_000;
const SEED: &str = "FORETOKEN_SEED";
const CALLERS: u64 = 64;
const RESOURCES: usize = 25;
/// The machine's own, and as many by each of three selectors.
const BY_SELECTOR: usize = 13;
/// Some tokens are renewed within seconds, so that short runs see it; were it all of them, the
/// emulator would do nothing else.
const LIFETIMES_S: [u64; 4] = [6, 120, 120, 120];
/// Counted, not timed: a slow machine is not to have more work for it.
const REQUESTS_BETWEEN_PURGES: u64 = 1500;
const LOOK: Duration = Duration::from_millis(20);
/// The first may have all identities; the other two have the same target lead to their own.
const SECRETS: [&str; 3] = [
    "the-secret-of-everyone",
    "the-secret-of-number-0",
    "the-secret-of-number-1",
];

/// Whose token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    System,
    ClientId(usize),
    ObjectId(usize),
    ResourceId(usize),
}

/// The same numbers are client ids and object ids: what tells them apart is the selector alone.
fn guid(number: usize) -> String {
    format!("abcdef00-0000-4000-8000-{number:012x}")
}

fn arm_id(number: usize) -> String {
    format!(
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/\
         userAssignedIdentities/id-{number}"
    )
}

/// Half of them differ from another by a slash at the end, or by case alone.
fn resource(number: usize) -> String {
    let name = number / 4;
    match number % 4 {
        0 => format!("https://r{name}.example"),
        1 => format!("https://r{name}.example/"),
        2 => format!("https://R{name}.example"),
        _ => format!("api://r{name} example&x=y"),
    }
}

impl Whose {
    fn any(random: &mut Rng) -> Self {
        let number = random.usize(..BY_SELECTOR);
        match random.usize(..=3 * BY_SELECTOR) {
            0 => Self::System,
            at if at <= BY_SELECTOR => Self::ClientId(number),
            at if at <= 2 * BY_SELECTOR => Self::ObjectId(number),
            _ => Self::ResourceId(number),
        }
    }

    /// As the configuration writes it.
    fn name(self) -> String {
        match self {
            Self::System => "system".to_owned(),
            Self::ClientId(number) => format!("client_id={}", guid(number)),
            Self::ObjectId(number) => format!("object_id={}", guid(number)),
            Self::ResourceId(number) => format!("msi_res_id={}", arm_id(number)),
        }
    }

    /// As one of the spellings that callers use.
    fn parameter(self, random: &mut Rng) -> Option<String> {
        let mut pick = |names: &[&str], value: String| {
            let name = names[random.usize(..names.len())];
            let upper = random.bool();
            let value = if upper { value.to_uppercase() } else { value };
            Some(format!("{name}={value}"))
        };
        match self {
            Self::System => None,
            Self::ClientId(number) => pick(&["client_id", "clientid"], guid(number)),
            Self::ObjectId(number) => pick(&["object_id", "principal_id"], guid(number)),
            Self::ResourceId(number) => pick(&["msi_res_id", "mi_res_id"], arm_id(number)),
        }
    }

    /// Whether the claims of a token are those of this identity.
    fn owns(self, claims: &Value) -> bool {
        let is = |claim: &str, wanted: &str| {
            let said = claims[claim].as_str();
            said.is_some_and(|said| said.eq_ignore_ascii_case(wanted))
        };
        match self {
            Self::System => claims["xms_mirid"].as_str().is_some_and(|id| {
                let machines = "/microsoft.compute/virtualmachines/";
                id.to_lowercase().contains(machines)
            }),
            Self::ClientId(number) => is("appid", &guid(number)),
            Self::ObjectId(number) => is("oid", &guid(number)),
            Self::ResourceId(number) => is("xms_mirid", &arm_id(number)),
        }
    }
}

/// One request: its bytes, and whose token for what it has to bring.
struct Question {
    bytes: Vec<u8>,
    whose: Whose,
    resource: String,
}

impl Question {
    fn any(random: &mut Rng) -> Self {
        let mut whose = Whose::any(random);
        let resource = resource(random.usize(..RESOURCES));
        let mut parameters = vec![format!("resource={}", encoded(&resource))];
        parameters.extend(whose.parameter(random));
        let metadata = "Metadata: true\r\n".to_owned();
        let way = random.usize(..6);
        let (path, version, proof) = match way {
            0 | 1 => ("/metadata/identity/oauth2/token", "2018-02-01", metadata),
            2 | 3 => ("/oauth2/token", "2018-02-01", metadata),
            _ => {
                // Who names no identity gets the caller's own.
                let mut caller = 0;
                if whose == Whose::System {
                    caller = random.usize(..SECRETS.len());
                    if caller > 0 {
                        whose = Whose::ClientId(caller - 1);
                    }
                }
                let (path, version, header) = if way == 4 {
                    ("/msi/token", "2019-08-01", "X-IDENTITY-HEADER")
                } else {
                    ("/MSI/token/", "2017-09-01", "secret")
                };
                (path, version, format!("{header}: {}\r\n", SECRETS[caller]))
            }
        };
        parameters.push(format!("api-version={version}"));
        random.shuffle(&mut parameters);
        let parameters = parameters.join("&");
        let text = if way == 3 {
            let length = parameters.len();
            format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\n{proof}Content-Length: {length}\r\n\
                 \r\n{parameters}"
            )
        } else {
            format!("GET {path}?{parameters} HTTP/1.1\r\nHost: localhost\r\n{proof}\r\n")
        };
        Self {
            bytes: text.into_bytes(),
            whose,
            resource,
        }
    }

    /// What is wrong with an answer, if anything is.
    fn judge(&self, answer: &Answer) -> Result<(), String> {
        let complain = |what: String| {
            let asked = String::from_utf8_lossy(&self.bytes);
            Err(format!("{what}, asked by\n{asked}"))
        };
        if answer.status != 200 {
            let body = String::from_utf8_lossy(&answer.body);
            return complain(format!("{}: {body}", answer.status));
        }
        let body = answer.json();
        let claims = claims_of(body["access_token"].as_str().expect("a token"));
        let right = claims["aud"] == self.resource
            && body["resource"] == self.resource
            && body["client_id"] == claims["appid"]
            && self.whose.owns(&claims);
        if right {
            return Ok(());
        }
        complain(format!(
            "not {:?} for {}: {claims}",
            self.whose, self.resource
        ))
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Default dialects, and a budget at which a thousand short lives can be renewed.
fn house() -> House {
    let mut identities = vec![Whose::System.name()];
    for number in 0..BY_SELECTOR {
        let all = [Whose::ClientId, Whose::ObjectId, Whose::ResourceId];
        identities.extend(all.iter().map(|of| of(number).name()));
    }
    let mut more = "max_in_flight = 64\nmax_per_second = 1000\n[[listener]]\n\
                    address = \"127.0.0.1:0\"\n\
                    dialects = [\"imds\", \"app-service\", \"app-service-2017\", \"vm-extension\"]\n"
        .to_owned();
    for (number, secret) in SECRETS.iter().enumerate() {
        more += &format!(
            "[[client]]\nname = \"client-{number}\"\nsecret = \"{secret}\"\n\
             identities = {identities:?}\n"
        );
        if number > 0 {
            let own = Whose::ClientId(number - 1).name();
            more += &format!("default_identity = \"{own}\"\n");
        }
    }
    let emulator = foretoken_emulator::Settings {
        lifetime_s: LIFETIMES_S[0],
        reissue_below: 1.0,
        ..emulator_settings()
    };
    House::start_with(emulator, &more)
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a whole number"))
}

fn ask(stream: &mut TcpStream, question: &Question) -> Result<(), String> {
    let answer = stream
        .write_all(&question.bytes)
        .and_then(|()| read_answer(stream));
    let answer = answer.map_err(|error| error.to_string())?;
    question.judge(&answer)
}

/// One keep-alive caller, until it has asked its share or something is wrong.
fn call(address: SocketAddr, seed: u64, requests: u64, asked: &AtomicU64) -> Result<(), String> {
    let mut random = Rng::with_seed(seed);
    let mut stream = connect(address).map_err(|error| error.to_string())?;
    for _ in 0..requests {
        ask(&mut stream, &Question::any(&mut random))?;
        asked.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn nobody_ever_gets_the_token_of_another_key() {
    let requests = number_from(REQUESTS).unwrap_or(DEFAULT_REQUESTS);
    let seed = number_from(SEED).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{SEED}={seed}");
    let house = house();
    let address = house.addresses()[1];
    let (asked, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (wrong, purges) = thread::scope(|scope| {
        let purging = scope.spawn(|| {
            let (mut purges, mut next) = (0, REQUESTS_BETWEEN_PURGES);
            while !over.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
                if asked.load(Ordering::Relaxed) < next {
                    continue;
                }
                next += REQUESTS_BETWEEN_PURGES;
                let which = format!("resource={}", encoded(&resource(purges % RESOURCES)));
                assert_eq!(purge(house.folder.path(), &which).status, 200);
                purges += 1;
                let lifetime_s = LIFETIMES_S[purges % LIFETIMES_S.len()];
                house.emulator.set_lifetime_s(lifetime_s);
            }
            purges
        });
        let share = requests.div_ceil(CALLERS);
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (seed, asked) = (seed.wrapping_add(caller), &asked);
                scope.spawn(move || call(address, seed, share, asked))
            })
            .collect();
        let ended = callers
            .into_iter()
            .map(|caller| caller.join().expect("no panic"));
        let wrong: Vec<_> = ended.filter_map(Result::err).collect();
        over.store(true, Ordering::Relaxed);
        (wrong, purging.join().expect("no panic"))
    });
    assert!(wrong.is_empty(), "{SEED}={seed}\n{}", wrong.join("\n\n"));
    let asked = asked.into_inner();
    assert!(asked >= requests, "{asked} of {requests}");
    let counts = house.emulator.counts();
    eprintln!(
        "{asked} requests, {} calls, {purges} purges, 0 wrong",
        counts.token_calls
    );
    assert!(purges > 0 && counts.token_calls > 1000, "{counts:?}");
}

#[test]
fn a_token_of_another_key_would_be_noticed() {
    let house = house();
    let mut stream = connect(house.addresses()[1]).expect("a connection");
    let mut random = Rng::with_seed(1);
    let questions: Vec<_> = (0..40).map(|_| Question::any(&mut random)).collect();
    let answers: Vec<_> = questions
        .iter()
        .map(|question| {
            let sent = stream.write_all(&question.bytes);
            sent.expect("an open connection");
            read_answer(&mut stream).expect("an answer")
        })
        .collect();
    for question in &questions {
        for (other, answer) in questions.iter().zip(&answers) {
            let same = (question.whose, &question.resource) == (other.whose, &other.resource);
            assert_eq!(question.judge(answer).is_ok(), same);
        }
    }
}
