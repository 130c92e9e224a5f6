//! Callers that prove themselves by a secret, and those that cannot: who gets whose token, and how
//! each dialect says no.

use std::io::{Read, Write};
use std::net::SocketAddr;

use foretoken_emulator::Counts;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::http::{self, Answer, connect, read_answer};
use crate::support::jwt::{claims_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::{House, emulator_settings, tls};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const SECRET_A: &str = "the-secret-of-client-a";
const SECRET_B: &str = "the-secret-of-client-b";
const SECRET_C: &str = "the-secret-of-client-c";
const VAULT: &str = "https://vault.azure.net";
const STORAGE: &str = "https://storage.azure.com/";
const APP_SERVICE: &str = "/msi/token?api-version=2019-08-01";
const APP_SERVICE_2017: &str = "/MSI/token/?api-version=2017-09-01";
const IMDS: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01";

/// A and B have an identity each, and it is their default; C has A's and no default, and may have
/// tokens for the vault alone.
fn clients() -> String {
    let client = |name: &str, secret: &str, identity: &str, more: &str| {
        format!(
            "[[client]]\nname = \"{name}\"\nsecret = \"{secret}\"\n\
             identities = [\"client_id={identity}\"]\n{more}\n"
        )
    };
    let default = |identity: &str| format!("default_identity = \"client_id={identity}\"");
    [
        client("a", SECRET_A, A, &default(A)),
        client("b", SECRET_B, B, &default(B)),
        client("c", SECRET_C, A, &format!("resources = [\"{VAULT}\"]")),
    ]
    .concat()
}

fn listener(more: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{more}\n")
}

/// A house with the three clients, and where its default dialects are spoken.
fn house() -> (House, SocketAddr) {
    let dialects = "dialects = [\"imds\", \"app-service\", \"app-service-2017\", \"vm-extension\"]";
    let more = listener(dialects) + &clients();
    let house = House::start_with(emulator_settings(), &more);
    let address = house.addresses()[1];
    (house, address)
}

fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes()
}

fn ask(address: SocketAddr, target: &str, headers: &str) -> Answer {
    http::send(address, &get(target, headers)).expect("an answer")
}

fn identity_header(secret: &str) -> String {
    format!("X-IDENTITY-HEADER: {secret}\r\n")
}

fn app_id(answer: &Answer) -> String {
    let claims = claims_of(&token_of(answer));
    claims["appid"].as_str().expect("an id").to_owned()
}

fn calls(house: &House) -> Counts {
    house.emulator.counts()
}

#[test]
fn one_target_gives_each_client_the_token_of_its_own_identity_also_when_warm() {
    let (house, address) = house();
    let app_service = format!("{APP_SERVICE}&resource={VAULT}");
    let older = format!("{APP_SERVICE_2017}&resource={VAULT}");
    let secrets = [(SECRET_A, A), (SECRET_B, B)];
    // One connection for both, which one worker serves, and connections of their own.
    let mut shared = connect(address).expect("a connection");
    for round in 0..50 {
        for (secret, identity) in secrets {
            let header = identity_header(secret);
            shared
                .write_all(&get(&app_service, &header))
                .expect("an open connection");
            let answer = read_answer(&mut shared).expect("an answer");
            assert_eq!(app_id(&answer), identity, "round {round}");
            let answer = ask(address, &app_service, &header);
            assert_eq!(app_id(&answer), identity, "round {round}");
            let answer = ask(address, &older, &format!("secret: {secret}\r\n"));
            assert_eq!(app_id(&answer), identity, "round {round}, 2017-09-01");
        }
    }
    let counts = calls(&house);
    for (_, identity) in secrets {
        assert_eq!(counts.calls_for(&format!("client_id={identity}"), VAULT), 1);
    }
    assert_eq!(counts.total, 2);
}

#[test]
fn a_client_gets_nothing_that_is_not_in_its_list_not_even_what_others_have_warmed() {
    let (house, address) = house();
    let target = |more: &str| format!("{APP_SERVICE}&resource={VAULT}{more}");
    ask(address, &target(""), &identity_header(SECRET_B));
    ask(
        address,
        &format!("{IMDS}&resource={VAULT}"),
        "Metadata: true\r\n",
    );
    let before = calls(&house).total;
    assert_eq!(before, 2);

    let storage = format!("{APP_SERVICE}&resource={STORAGE}&client_id={A}");
    let slash = format!("{APP_SERVICE}&resource={VAULT}/&client_id={A}");
    for (secret, target) in [
        (SECRET_A, target(&format!("&client_id={B}"))),
        (SECRET_A, target(&format!("&clientid={B}"))),
        (SECRET_A, target(&format!("&object_id={A}"))),
        (SECRET_B, target(&format!("&client_id={A}"))),
        // No default, and the machine's own identity is not in the list.
        (SECRET_C, target("")),
        (SECRET_C, target("&client_id=")),
        (SECRET_C, storage),
        (SECRET_C, slash),
    ] {
        let answer = ask(address, &target, &identity_header(secret));
        assert_eq!(answer.status, 403, "{secret} {target}");
        assert_eq!(answer.json()["statusCode"], 403);
    }
    let older = format!("{APP_SERVICE_2017}&resource={VAULT}&clientid={B}");
    let answer = ask(address, &older, &format!("secret: {SECRET_A}\r\n"));
    assert_eq!(
        (answer.status, &answer.json()["StatusCode"]),
        (403, &403.into())
    );
    assert_eq!(calls(&house).total, before, "none of them went upstream");

    let own = target(&format!("&client_id={}", A.to_uppercase()));
    let answer = ask(address, &own, &identity_header(SECRET_C));
    assert_eq!(app_id(&answer), A);
}

#[test]
fn a_secret_that_is_wrong_missing_doubled_or_in_another_header_is_refused() {
    let (house, address) = house();
    let target = format!("{APP_SERVICE}&resource={VAULT}");
    let right = identity_header(SECRET_A);
    assert_eq!(app_id(&ask(address, &target, &right)), A);
    for headers in [
        String::new(),
        "Metadata: true\r\n".to_owned(),
        identity_header(""),
        identity_header("the-secret-of-client-"),
        identity_header("the-secret-of-client-aa"),
        identity_header("The-Secret-Of-Client-A"),
        right.repeat(2),
        format!("{right}{}", identity_header(SECRET_B)),
        format!("secret: {SECRET_A}\r\n"),
        format!("Authorization: Basic {SECRET_A}\r\n"),
    ] {
        let answer = ask(address, &target, &headers);
        assert_eq!(answer.status, 401, "{headers}");
        assert_eq!(answer.json()["statusCode"], 401);
    }
    let older = format!("{APP_SERVICE_2017}&resource={VAULT}");
    for headers in [right, format!("secret: {SECRET_A}\r\n").repeat(2)] {
        assert_eq!(ask(address, &older, &headers).status, 401, "{headers}");
    }
    assert_eq!(calls(&house).total, 1);
}

#[test]
fn a_client_that_names_no_identity_gets_its_default() {
    let (house, address) = house();
    for selector in ["", "&client_id=", &format!("&client_id={B}")] {
        let target = format!("{APP_SERVICE}&resource={VAULT}{selector}");
        let answer = ask(address, &target, &identity_header(SECRET_B));
        assert_eq!(app_id(&answer), B, "{selector}");
    }
    assert_eq!(calls(&house).total, 1, "the default is the same key");
}

#[test]
fn unknown_parameters_of_a_client_go_no_further_and_those_of_a_free_caller_do() {
    let (house, address) = house();
    let count = || calls(&house).total;
    for more in ["", "&x=1", "&x=2", "&resource_id=/sub", "&client_id%20=y"] {
        let target = format!("{APP_SERVICE}&resource={VAULT}{more}");
        let answer = ask(address, &target, &identity_header(SECRET_A));
        assert_eq!(app_id(&answer), A, "{more}");
    }
    assert_eq!(count(), 1, "one key, whatever it added");
    for more in ["", "&x=1", "&x=2", "&x=2"] {
        let target = format!("{IMDS}&resource={VAULT}{more}");
        token_of(&ask(address, &target, "Metadata: true\r\n"));
    }
    assert_eq!(calls(&house).calls_for("system", VAULT), 3);
}

/// The emulator reads names without regard to case, so it would take these for selectors.
#[test]
fn no_spelling_of_a_selector_slips_another_identity_past_the_rules() {
    let (house, address) = house();
    let arm_id = "/subscriptions/0/resourceGroups/rg/providers/Microsoft.ManagedIdentity/\
                  userAssignedIdentities/other";
    for (name, value) in [
        ("Client_ID", B),
        ("CLIENT_ID", B),
        ("client-id", B),
        ("clientId", B),
        ("Client%5FId", B),
        ("%43lient_id", B),
        // Decoded once, these are the selector itself, as no client writes it.
        ("client%5fid", B),
        ("%63lient_id", B),
        ("Object_Id", B),
        ("principalid", B),
        ("MSI_RES_ID", arm_id),
        ("Mi-Res-Id", arm_id),
        ("mi%5Fres%5Fid", arm_id),
        ("Resource", STORAGE),
    ] {
        let more = format!("&resource={VAULT}&{name}={value}");
        let answer = ask(
            address,
            &format!("{APP_SERVICE}{more}"),
            &identity_header(SECRET_A),
        );
        assert_eq!(answer.status, 400, "{name}");
        let answer = ask(
            address,
            &format!("{APP_SERVICE_2017}{more}"),
            &format!("secret: {SECRET_A}\r\n"),
        );
        assert_eq!(answer.status, 400, "{name}, 2017-09-01");
        let answer = ask(address, &format!("{IMDS}{more}"), "Metadata: true\r\n");
        assert_eq!(answer.status, 400, "{name}, free");

        let form = format!("resource={VAULT}&{name}={value}");
        let length = form.len();
        let headers = format!("Host: localhost\r\nMetadata: true\r\nContent-Length: {length}\r\n");
        let request = format!("POST /oauth2/token HTTP/1.1\r\n{headers}\r\n{form}");
        let answer = http::send(address, request.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 400, "{name}, in a form");
    }
    assert_eq!(calls(&house).total, 0);
}

#[test]
fn dates_are_written_on_the_listener_that_asks_for_them_and_on_no_other() {
    let dialects = "dialects = [\"app-service\", \"app-service-2017\"]";
    let more = listener(dialects)
        + &listener(&format!("{dialects}\nexpires_on_2017 = \"date\""))
        + &clients();
    let house = House::start_with(emulator_settings(), &more);
    let [_, plain, dates] = house.addresses()[..] else {
        panic!("three listeners");
    };
    let older = format!("{APP_SERVICE_2017}&resource={VAULT}");
    let newer = format!("{APP_SERVICE}&resource={VAULT}");
    for _ in 0..3 {
        let secret = format!("secret: {SECRET_A}\r\n");
        let header = identity_header(SECRET_A);
        for (answer, is_date) in [
            (ask(plain, &older, &secret), false),
            (ask(dates, &older, &secret), true),
            (ask(dates, &newer, &header), false),
        ] {
            let body = answer.json();
            let written = body["expires_on"].as_str().expect("text");
            let shape: String = written
                .chars()
                .map(|c| if c.is_ascii_digit() { '0' } else { c })
                .collect();
            let wanted = if is_date {
                "00/00/0000 00:00:00 +00:00"
            } else {
                "0000000000"
            };
            assert_eq!(shape, wanted);
        }
    }
    assert_eq!(calls(&house).total, 1, "one token in both shapes");
}

#[test]
fn a_listener_without_metadata_answers_callers_without_the_header_but_no_forged_ones() {
    let house = House::start_with(emulator_settings(), &listener("without_metadata = true"));
    let [strict, lenient] = house.addresses()[..] else {
        panic!("two listeners");
    };
    let target = format!("{IMDS}&resource={VAULT}");
    let token = token_of(&ask(lenient, &target, ""));
    assert_eq!(
        token_of(&ask(lenient, &target, "Metadata: true\r\n")),
        token
    );
    // What one listener has learnt opens no door of another.
    assert_eq!(ask(strict, &target, "").status, 400);
    for (headers, status) in [
        ("X-Forwarded-For: 10.0.0.1\r\n", 400),
        ("Via: 1.1 x\r\n", 400),
        ("Origin: http://localhost\r\n", 403),
        ("Referer: http://localhost/\r\n", 403),
        ("Sec-Fetch-Site: none\r\n", 403),
    ] {
        assert_eq!(ask(lenient, &target, headers).status, status, "{headers}");
    }
    assert_eq!(calls(&house).total, 1);
}

#[test]
fn every_dialect_is_served_under_our_own_names_and_no_other_host() {
    let (house, address) = house();
    let secret = identity_header(SECRET_A);
    for (target, headers) in [
        (format!("{IMDS}&resource={VAULT}"), "Metadata: true\r\n"),
        (format!("{APP_SERVICE}&resource={VAULT}"), &secret),
        (
            format!("/oauth2/token?resource={VAULT}"),
            "Metadata: true\r\n",
        ),
    ] {
        let status = |host: &str| {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
            let answer = http::send(address, request.as_bytes());
            answer.expect("an answer").status
        };
        for host in [
            "localhost",
            "LOCALHOST:50342",
            "127.0.0.1:41741",
            "127.0.0.53",
            "[::1]:80",
            "169.254.169.254",
        ] {
            assert_eq!(status(host), 200, "{host} {target}");
        }
        for host in [
            "10.0.0.4",
            "169.254.169.253",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[::2]",
        ] {
            assert_eq!(status(host), 403, "{host} {target}");
        }
        for host in [
            "",
            "localhost:",
            "localhost:99999",
            "user@localhost",
            "[::1",
        ] {
            assert!(matches!(status(host), 400 | 403), "{host} {target}");
        }
    }
    // The two dialects without a secret share the machine's token.
    assert_eq!(calls(&house).total, 2);
}

/// Names in an error body, those within a name as `name.inner`.
fn keys(body: &Value) -> Vec<String> {
    let object = body.as_object().expect("an object");
    let mut keys: Vec<_> = object
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Object(_) => keys(value)
                .iter()
                .map(|inner| format!("{name}.{inner}"))
                .collect(),
            _ => vec![name.clone()],
        })
        .collect();
    keys.sort_unstable();
    keys
}

/// A dialect as its callers speak it, and what they find in an error.
struct Spoken {
    dialect: &'static str,
    more: String,
    path: &'static str,
    version: &'static str,
    proof: String,
    keys: &'static [&'static str],
    /// A method that its path does not take, and those that it does.
    methods: (&'static str, &'static str),
}

fn spoken(folder: &TempDir) -> Vec<Spoken> {
    const METADATA: &[&str] = &["error", "error_description"];
    let path = folder.path().display();
    let of = |dialect, path, version, proof: &str, keys| Spoken {
        dialect,
        more: String::new(),
        path,
        version,
        proof: proof.to_owned(),
        keys,
        methods: ("POST", "GET"),
    };
    let (imds, oauth2) = ("/metadata/identity/oauth2/token", "/oauth2/token");
    let (metadata, secret) = ("Metadata: true\r\n", format!("Secret: {SECRET_A}\r\n"));
    let fabric: &[_] = &["error.code", "error.correlationId", "error.message"];
    let newer: &[_] = &["correlationId", "message", "statusCode"];
    let older: &[_] = &["CorrelationId", "Message", "StatusCode"];
    let shell: &[_] = &["error.code", "error.message"];
    vec![
        of("imds", imds, "2018-02-01", metadata, METADATA),
        of(
            "app-service",
            "/msi/token",
            "2019-08-01",
            &identity_header(SECRET_A),
            newer,
        ),
        of(
            "app-service-2017",
            "/MSI/token/",
            "2017-09-01",
            &secret,
            older,
        ),
        Spoken {
            methods: ("PUT", "GET, POST"),
            ..of("vm-extension", oauth2, "2018-02-01", metadata, METADATA)
        },
        Spoken {
            more: format!("arc_folder = \"{path}/tokens\"\narc_allow_agent = true"),
            ..of("arc", imds, "2020-06-01", metadata, METADATA)
        },
        Spoken {
            more: format!("tls = \"{path}/tls\""),
            ..of(
                "service-fabric",
                imds,
                "2019-07-01-preview",
                &secret,
                fabric,
            )
        },
        Spoken {
            methods: ("GET", "POST"),
            ..of("cloud-shell", oauth2, "2018-02-01", metadata, shell)
        },
    ]
}

#[test]
fn each_dialect_says_no_in_its_own_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = spoken(&folder);
    let listeners = all
        .iter()
        .map(|it| listener(&format!("dialects = [\"{}\"]\n{}", it.dialect, it.more)));
    let more = listeners.collect::<String>() + &clients();
    let house = House::start_with(emulator_settings(), &more);
    let trust = tls::trusting(&folder.path().join("tls/cert.pem"));
    for (it, address) in all.iter().zip(&house.addresses()[1..]) {
        let say = |method: &str, target: &str, headers: &str| {
            let framed = if method == "GET" {
                ""
            } else {
                "Content-Length: 0\r\n"
            };
            let request = format!("{method} {target} HTTP/1.1\r\n{headers}{framed}\r\n");
            if it.dialect == "service-fabric" {
                exchange(&mut tls::connect(*address, &trust), &request)
            } else {
                exchange(&mut connect(*address).expect("a connection"), &request)
            }
        };
        let Spoken {
            path,
            proof,
            version,
            ..
        } = it;
        let proven = format!("Host: localhost\r\n{proof}");
        let elsewhere = format!("Host: evil.example\r\n{proof}");
        let own = if it.methods.1.contains("GET") {
            "GET"
        } else {
            "POST"
        };
        let good = format!("{path}?api-version={version}&resource={VAULT}");
        let bare = format!("{path}?api-version={version}");
        let unproven = match it.dialect {
            "arc" => Some((401, proven.as_str())),
            "imds" | "vm-extension" | "cloud-shell" => Some((400, "Host: localhost\r\n")),
            _ => Some((401, "Host: localhost\r\n")),
        };
        let mut cases = vec![
            (400, say(own, &bare, &proven)),
            (403, say(own, &good, &elsewhere)),
            (404, say(own, "/elsewhere", &proven)),
            (405, say(it.methods.0, &good, &proven)),
        ];
        if let Some((status, headers)) = unproven {
            cases.push((status, say(own, &good, headers)));
        }
        for (status, answer) in cases {
            let context = format!("{} {status}", it.dialect);
            assert_eq!(answer.status, status, "{context}");
            let body = answer.json();
            assert_eq!(keys(&body), it.keys, "{context}");
            let kind = answer.header("content-type");
            assert_eq!(kind, Some("application/json; charset=utf-8"), "{context}");
            for name in ["statusCode", "StatusCode"] {
                assert!(
                    body.get(name).is_none_or(|said| *said == status),
                    "{context}"
                );
            }
            let allow = (status == 405).then_some(it.methods.1);
            assert_eq!(answer.header("allow"), allow, "{context}");
            let challenged = status == 401 && it.dialect == "arc";
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge.is_some(), challenged, "{context}");
        }
    }
    assert_eq!(calls(&house).total, 0);
}

#[test]
fn a_challenge_for_which_there_is_no_room_is_counted_as_such() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().display();
    let arc =
        format!("dialects = [\"arc\"]\narc_folder = \"{path}/tokens\"\narc_allow_agent = true");
    let house = House::start_with(emulator_settings(), &listener(&arc));
    let target = "/metadata/identity/oauth2/token?api-version=2020-06-01&resource=r";
    let ask = || http::send(house.addresses()[1], &get(target, "Metadata: true\r\n"));
    for nth in 0..64 {
        assert_eq!(ask().expect("an answer").status, 401, "{nth}");
    }
    for _ in 0..3 {
        let refused = ask().expect("an answer");
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("www-authenticate"), None);
    }
    let samples = scrape(house.app.admin_address());
    let refusals = |reason| sum(&samples, "foretoken_refusals_total", Some(reason));
    assert_eq!((refusals("challenged"), refusals("challenges")), (64, 3));
    let refused = sum(&samples, "foretoken_requests_total", Some("refused"));
    assert_eq!(refused, 67);
}

fn exchange(stream: &mut (impl Read + Write), request: &str) -> Answer {
    stream.write_all(request.as_bytes()).expect("a connection");
    read_answer(stream).expect("an answer")
}
