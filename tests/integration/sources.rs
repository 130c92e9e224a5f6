//! Every kind of source: what arrives there for each selector, and what becomes of each answer that
//! is none.

use std::thread;

use foretoken::upstream::Kind;
use foretoken_emulator::{AppService2017, AzureMl, ExpiryForm, Fault, FaultKind, Kind as Played};
use serde_json::{Value, json};

use crate::support::http::{self, Answer, send};
use crate::support::jwt::{claims_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::source::{house, house_of, start_before};
use crate::support::wait::until;
use crate::support::{House, emulator_settings, tcp};

const CLIENT: &str = "aaaaaaaa-1111-4222-8333-444444444444";
const OBJECT: &str = "bbbbbbbb-1111-4222-8333-444444444444";
const ARM_ID: &str = "/subscriptions/0/resourcegroups/rg/providers/microsoft.managedidentity/\
                      userassignedidentities/one";

/// Asks as a caller with headers of its own, which must go no further.
fn ask(house: &House, resource: &str, more: &str) -> Answer {
    let target = http::token_target(resource);
    let request = format!(
        "GET {target}{more} HTTP/1.1\r\nHost: localhost\r\nMetadata: true\r\nUser-Agent: the caller\r\n\
         Cookie: of-the-caller\r\nX-Of-The-Caller: 1\r\nAccept-Encoding: gzip\r\n\r\n"
    );
    send(house.address(), request.as_bytes()).expect("an answer")
}

/// The start line, the sorted header names and the body of a request.
fn parts(request: &[u8]) -> (String, Vec<String>, String) {
    let text = String::from_utf8_lossy(request);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let (start, headers) = head.split_once("\r\n").expect("headers");
    let names = headers.split("\r\n").map(|line| line.split(':').next());
    let mut names: Vec<_> = names
        .map(|name| name.expect("a name").to_lowercase())
        .collect();
    names.sort();
    (start.to_owned(), names, body.to_owned())
}

/// How a selector is spelt at a source; `None` where there is no way to say it.
fn spelling(kind: Kind, selector: &str) -> Option<&'static str> {
    use Kind::{AppService, AppService2017, Arc, AzureMl, Imds, VmExtension, WorkloadIdentity};
    match (selector, kind) {
        ("client_id", AppService2017 | AzureMl) => Some("clientid"),
        ("client_id", Imds | AppService | Arc | VmExtension | WorkloadIdentity) => {
            Some("client_id")
        }
        ("object_id", AppService) => Some("principal_id"),
        ("object_id", Imds | Arc | VmExtension) => Some("object_id"),
        ("msi_res_id", AppService) => Some("mi_res_id"),
        ("msi_res_id", Imds | Arc | VmExtension) => Some("msi_res_id"),
        _ => None,
    }
}

#[test]
fn every_kind_is_asked_for_every_identity_in_its_own_words_or_not_at_all() {
    for kind in Kind::ALL {
        let house = house(kind);
        for (selector, value) in [
            ("", ""),
            ("client_id", CLIENT),
            ("object_id", OBJECT),
            ("msi_res_id", ARM_ID),
        ] {
            let case = format!("{} {selector}", kind.as_str());
            house.emulator.forget_requests();
            let more = match selector {
                "" => String::new(),
                _ => format!("&{selector}={value}"),
            };
            let answer = ask(&house, "https://vault.azure.net", &more);
            let requests = house.emulator.requests();
            let spelt = spelling(kind, selector);
            if !selector.is_empty() && spelt.is_none() {
                assert_eq!(answer.status, 400, "{case}");
                let why = answer.json()["error_description"].to_string();
                assert!(why.contains("by this selector"), "{case}: {why}");
                assert!(requests.is_empty(), "{case} was sent");
                continue;
            }
            let claims = claims_of(&token_of(&answer));
            assert_eq!(claims["aud"], "https://vault.azure.net", "{case}");
            let claim = match selector {
                "client_id" => "appid",
                "object_id" => "oid",
                _ => "xms_mirid",
            };
            let whose = claims[claim].as_str().unwrap_or_default().to_lowercase();
            if !selector.is_empty() {
                assert_eq!(whose, value, "{case}");
            }
            arrived(kind, &requests, spelt.map(|name| (name, value)), &case);
        }
    }
}

/// Holds what arrived against `protocols.md` §3.
fn arrived(kind: Kind, requests: &[Vec<u8>], selector: Option<(&str, &str)>, case: &str) {
    let escaped = |text: &str| text.replace('/', "%2F").replace(':', "%3A");
    let resource = "resource=https%3A%2F%2Fvault.azure.net";
    let selected = selector.map_or(String::new(), |(name, value)| {
        format!("&{name}={}", escaped(value))
    });
    let imds = "/metadata/identity/oauth2/token";
    let (start, own, body) = match kind {
        Kind::Imds => (
            format!("GET {imds}?api-version=2018-02-01&{resource}{selected} HTTP/1.1"),
            vec!["metadata"],
            String::new(),
        ),
        Kind::AppService => (
            format!("GET /msi/token?api-version=2019-08-01&{resource}{selected} HTTP/1.1"),
            vec!["metadata", "x-identity-header"],
            String::new(),
        ),
        Kind::AppService2017 | Kind::AzureMl => (
            format!("GET /MSI/token?api-version=2017-09-01&{resource}{selected} HTTP/1.1"),
            vec!["metadata", "secret"],
            String::new(),
        ),
        Kind::Arc => (
            format!("GET {imds}?api-version=2020-06-01&{resource}{selected} HTTP/1.1"),
            vec!["metadata"],
            String::new(),
        ),
        Kind::ServiceFabric => (
            format!("GET {imds}?api-version=2019-07-01-preview&{resource}{selected} HTTP/1.1"),
            vec!["secret"],
            String::new(),
        ),
        Kind::CloudShell | Kind::VmExtension => (
            "POST /oauth2/token HTTP/1.1".to_owned(),
            vec!["content-length", "content-type", "metadata"],
            format!("{resource}{selected}"),
        ),
        Kind::WorkloadIdentity => {
            let (_, _, body) = parts(&requests[0]);
            let client = selector.map_or("f07e70ce-0000-4000-8000-0000000000c1", |(_, id)| id);
            let start = format!(
                "client_id={client}&scope=https%3A%2F%2Fvault.azure.net%2F.default\
                 &grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth\
                 %3Aclient-assertion-type%3Ajwt-bearer&client_assertion=ey"
            );
            assert!(body.starts_with(&start), "{case}: {body}");
            let tenant = emulator_settings().tenant_id;
            (
                format!("POST /{tenant}/oauth2/v2.0/token HTTP/1.1"),
                vec!["content-length", "content-type"],
                body,
            )
        }
    };
    let mut names: Vec<_> = own
        .iter()
        .copied()
        .chain(["connection", "host", "user-agent"])
        .collect();
    names.sort_unstable();
    let expected = if kind == Kind::Arc { 2 } else { 1 };
    assert_eq!(requests.len(), expected, "{case}");
    let (found_start, found_names, found_body) = parts(&requests[0]);
    assert_eq!(
        (found_start, found_names),
        (
            start.clone(),
            names.iter().map(|it| (*it).to_owned()).collect()
        ),
        "{case}"
    );
    assert_eq!(found_body, body, "{case}");
    if let Some(second) = requests.get(1) {
        names.insert(0, "authorization");
        let (found_start, found_names, _) = parts(second);
        assert_eq!(found_start, start, "{case}");
        assert_eq!(found_names, names, "{case}");
    }
    let all = String::from_utf8_lossy(&requests.concat()).to_lowercase();
    assert!(!all.contains("caller"), "{case}: {all}");
}

/// One bad answer and the class it belongs to.
struct Row {
    name: &'static str,
    fault: FaultKind,
    class: &'static str,
    /// What the caller sees.
    status: u16,
}

fn edit(members: &Value) -> FaultKind {
    FaultKind::Edit {
        members: members.as_object().expect("an object").clone(),
    }
}

fn body(text: &str) -> FaultKind {
    FaultKind::Body {
        status: 200,
        text: text.to_owned(),
        content_type: None,
    }
}

/// The right answer, or one of this status, with one more line in its head.
fn line(line: &str, status: Option<u16>) -> FaultKind {
    FaultKind::Header {
        line: line.to_owned(),
        status,
    }
}

/// Bodies of a 200 that are no token answer.
const BODIES: [(&str, &str); 6] = [
    ("empty", ""),
    ("null", "null"),
    ("a list", "[]"),
    ("nothing in it", "{}"),
    ("half", r#"{"access_token":"h.p.s","expires"#),
    (
        "two",
        r#"{"access_token":"a","access_token":"b","expires_on":9}"#,
    ),
];

fn rows(kind: Kind) -> Vec<Row> {
    let mut rows = statuses(kind);
    // What it says of its body does not hide what is in the head.
    rows.push(Row {
        name: "403 in a coding",
        fault: line("Content-Encoding: br", Some(403)),
        class: "denied",
        status: 403,
    });
    let mut add = |name, fault, class| {
        rows.push(Row {
            name,
            fault,
            class,
            status: 503,
        });
    };
    for (name, text) in BODIES {
        add(name, body(text), "malformed");
    }
    for (name, members, class) in members(kind) {
        add(name, edit(&members), class);
    }
    add("a page", FaultKind::Html, "malformed");
    let beyond = FaultKind::Rewrite {
        text: "{\"x\":\"{byte 255}\",{members}}".to_owned(),
        status: 200,
    };
    add("beyond UTF-8", beyond, "malformed");
    for coding in ["Content-Encoding: br", "Transfer-Encoding: squeezed"] {
        add(coding, line(coding, None), "malformed");
    }
    add("endless", body(&" ".repeat(300 * 1024)), "too_long");
    let cut = FaultKind::Truncate { send_bytes: 20 };
    add("cut", cut, "unreachable");
    add("reset", FaultKind::Reset, "unreachable");
    if kind != Kind::WorkloadIdentity {
        let resource = "https://other.example".to_owned();
        let other = FaultKind::OtherResource { resource };
        add("another resource", other, "wrong_resource");
    }
    rows
}

fn statuses(kind: Kind) -> Vec<Row> {
    let unknown = match kind {
        Kind::ServiceFabric => "denied",
        _ => "not_found",
    };
    let rows = [
        ("400", 400, "denied", 400),
        ("401", 401, "denied", 401),
        ("403", 403, "denied", 403),
        ("404", 404, unknown, 404),
        ("408", 408, "timeout", 503),
        ("410", 410, "updating", 410),
        ("429", 429, "throttled", 429),
        ("500", 500, "server_error", 503),
        ("503", 503, "server_error", 503),
    ];
    let row = |(name, given, class, status)| Row {
        name,
        fault: FaultKind::Status {
            status: given,
            retry_after_s: None,
        },
        class,
        status,
    };
    rows.map(row).into()
}

/// Changes to a good answer that spoil it.
fn members(kind: Kind) -> Vec<(&'static str, Value, &'static str)> {
    let end = match kind {
        Kind::WorkloadIdentity => "expires_in",
        _ => "expires_on",
    };
    let mut rows = vec![
        ("no token", json!({"access_token": null}), "malformed"),
        ("an empty token", json!({"access_token": ""}), "malformed"),
        (
            "a number for a token",
            json!({"access_token": 5}),
            "malformed",
        ),
        (
            "a token of two lines",
            json!({"access_token": "a\r\nb: c"}),
            "malformed",
        ),
        ("no bearer", json!({"token_type": "pop"}), "malformed"),
        ("no end", json!({end: null}), "malformed"),
        ("a word for an end", json!({end: "soon"}), "malformed"),
        ("a negative end", json!({end: -1}), "malformed"),
        (
            "for ever",
            json!({end: 4_000_000_000_000_u64}),
            "bad_expiry",
        ),
    ];
    rows.push(match kind {
        Kind::WorkloadIdentity => ("over", json!({end: 0}), "bad_expiry"),
        _ => ("over", json!({end: 1_000_000_000}), "bad_expiry"),
    });
    let unnamed = [
        Kind::AppService2017,
        Kind::AzureMl,
        Kind::ServiceFabric,
        Kind::WorkloadIdentity,
    ];
    if !unnamed.contains(&kind) {
        rows.push((
            "a number for a client",
            json!({"client_id": 5}),
            "malformed",
        ));
    }
    rows
}

fn calls(house: &House, class: &str) -> u64 {
    let samples = scrape(house.app.admin_address());
    sum(&samples, "foretoken_upstream_calls_total", Some(class))
}

#[test]
fn every_answer_that_is_none_is_refused_by_its_class_counted_and_not_kept() {
    let kinds = Kind::ALL.map(|kind| {
        thread::spawn(move || {
            let house = house(kind);
            for (nth, row) in rows(kind).into_iter().enumerate() {
                let case = format!("{} {}", kind.as_str(), row.name);
                let resource = format!("https://case-{nth}.example");
                let before = calls(&house, row.class);
                house.emulator.set_fault(Some(Fault::always(row.fault)));
                let answer = ask(&house, &resource, "");
                let told = String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!(answer.status, row.status, "{case}: {told}");
                assert_eq!(calls(&house, row.class), before + 1, "{case}: {told}");
                house.emulator.set_fault(None);
                // Another key is served at once: too few troubles in a row for the breaker.
                let other = format!("https://good-{nth}.example");
                let served = claims_of(&token_of(&ask(&house, &other, "")));
                assert_eq!(served["aud"], other.as_str(), "{case}");
            }
            // Nothing that was refused stays so.
            for (nth, row) in rows(kind).into_iter().enumerate() {
                let resource = format!("https://case-{nth}.example");
                until(row.name, || ask(&house, &resource, "").status == 200);
                let healed = claims_of(&token_of(&ask(&house, &resource, "")));
                assert_eq!(healed["aud"], resource.as_str(), "{}", row.name);
            }
        })
    });
    for kind in kinds {
        kind.join().expect("a kind without a mistake");
    }
}

#[test]
fn a_token_of_another_client_is_refused_where_the_answer_tells() {
    // Arc echoes what was asked, and the others name nobody.
    for kind in [Kind::Imds, Kind::AppService, Kind::AzureMl] {
        let house = house(kind);
        let client_id = "cccccccc-1111-4222-8333-444444444444".to_owned();
        house
            .emulator
            .set_fault(Some(Fault::always(FaultKind::OtherClient { client_id })));
        let more = format!("&client_id={CLIENT}");
        assert_eq!(
            ask(&house, "https://vault.azure.net", &more).status,
            503,
            "{}",
            kind.as_str()
        );
        assert_eq!(calls(&house, "wrong_client"), 1, "{}", kind.as_str());
    }
}

#[test]
fn an_old_agent_of_arc_gives_the_machines_token_to_nobody_else() {
    let house = house_of(Kind::Arc, |settings| {
        let Played::Arc(agent) = &mut settings.kind else {
            panic!("Arc")
        };
        agent.old_agent = true;
    });
    assert_eq!(ask(&house, "https://vault.azure.net", "").status, 200);
    for more in [
        format!("&client_id={CLIENT}"),
        format!("&object_id={OBJECT}"),
        format!("&msi_res_id={ARM_ID}"),
    ] {
        assert_eq!(
            ask(&house, "https://vault.azure.net", &more).status,
            503,
            "{more}"
        );
    }
    assert_eq!(calls(&house, "wrong_client"), 3);
}

#[test]
fn a_source_that_says_nothing_is_given_up() {
    let kinds = Kind::ALL.map(|kind| {
        thread::spawn(move || {
            let house = house(kind);
            house
                .emulator
                .set_fault(Some(Fault::always(FaultKind::Hang)));
            assert_eq!(ask(&house, "https://vault.azure.net", "").status, 503);
            assert_eq!(calls(&house, "timeout"), 1, "{}", kind.as_str());
        })
    });
    for kind in kinds {
        kind.join().expect("a kind that gives up");
    }
}

#[test]
fn a_redirect_is_not_followed_and_nothing_of_the_sources_head_gets_to_callers() {
    for kind in Kind::ALL {
        let (house, elsewhere) = (house(kind), House::start());
        let line = format!(
            "Location: http://{}{}",
            elsewhere.emulator.address(),
            http::token_target("r")
        );
        let status = Some(302);
        house
            .emulator
            .set_fault(Some(Fault::always(FaultKind::Header { line, status })));
        assert_eq!(
            ask(&house, "https://a.example", "").status,
            503,
            "{}",
            kind.as_str()
        );
        assert_eq!(calls(&house, "unexpected_status"), 1, "{}", kind.as_str());
        assert_eq!(elsewhere.emulator.counts().total, 0, "{}", kind.as_str());

        let line = "Set-Cookie: of-the-source=1".to_owned();
        house
            .emulator
            .set_fault(Some(Fault::always(FaultKind::Header {
                line,
                status: None,
            })));
        let answer = ask(&house, "https://b.example", "");
        assert_eq!(
            (answer.status, answer.header("set-cookie")),
            (200, None),
            "{}",
            kind.as_str()
        );
    }
}

/// No connection is kept, so there is none to be closed while the next question is written to it.
#[test]
fn a_slow_answer_and_a_connection_closed_behind_it_cost_nobody_anything() {
    for kind in Kind::ALL {
        let house = house(kind);
        for (nth, fault) in [
            FaultKind::Drip {
                chunk_bytes: 256,
                pause_ms: 1,
            },
            FaultKind::CloseKeptAlive { after_ms: 0 },
            FaultKind::CloseKeptAlive { after_ms: 1 },
        ]
        .into_iter()
        .enumerate()
        {
            house.emulator.set_fault(Some(Fault::always(fault)));
            for time in 0..5 {
                let resource = format!("https://{nth}-{time}.example");
                assert_eq!(ask(&house, &resource, "").status, 200, "{}", kind.as_str());
            }
        }
        assert_eq!(calls(&house, "unreachable"), 0, "{}", kind.as_str());
    }
}

#[test]
fn every_form_of_an_expiry_means_the_same() {
    let forms = [
        ExpiryForm::LinuxDate,
        ExpiryForm::WindowsDate,
        ExpiryForm::Iso8601,
        ExpiryForm::EpochString,
        ExpiryForm::EpochNumber,
    ];
    for form in forms {
        let old = house_of(Kind::AppService2017, |settings| {
            settings.kind = Played::AppService2017(AppService2017 {
                expires_on: form,
                ..AppService2017::default()
            });
        });
        let ml = house_of(Kind::AzureMl, |settings| {
            settings.kind = Played::AzureMl(AzureMl {
                expires_on: form,
                ..AzureMl::default()
            });
        });
        for house in [old, ml] {
            let answer = ask(&house, "https://vault.azure.net", "");
            let claims = claims_of(&token_of(&answer));
            let told = answer.json()["expires_on"].as_str().map(str::to_owned);
            assert_eq!(told, Some(claims["exp"].to_string()), "{form:?}");
        }
    }
}

#[test]
fn failures_that_old_app_service_tells_with_200_are_failures() {
    let house = house_of(Kind::AppService2017, |settings| {
        settings.kind = Played::AppService2017(AppService2017 {
            failures_as_200: true,
            ..AppService2017::default()
        });
    });
    for (status, class, seen) in [
        (400, "denied", 400),
        (429, "throttled", 429),
        (503, "server_error", 503),
    ] {
        let fault = FaultKind::Status {
            status,
            retry_after_s: None,
        };
        house.emulator.set_fault(Some(Fault::always(fault)));
        let answer = ask(&house, &format!("https://{status}.example"), "");
        assert_eq!((answer.status, calls(&house, class)), (seen, 1), "{class}");
    }
}

#[test]
fn nobody_but_the_pinned_service_and_the_vouched_for_entra_is_asked() {
    for kind in [Kind::ServiceFabric, Kind::WorkloadIdentity] {
        let (real, other) = (house(kind), house(kind));
        // What the platform says of one is told to a Foretoken that calls the other.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut settings = emulator_settings();
        settings.kind = crate::support::source::played(kind, folder.path());
        let impostor = foretoken_emulator::Emulator::start(settings).expect("an emulator");
        let app = if kind == Kind::ServiceFabric {
            let pin = format!(
                "thumbprint = \"{}\"",
                real.emulator.thumbprint().expect("one")
            );
            start_before(&impostor, kind.as_str(), &folder, &pin)
        } else {
            let ca = folder.path().join("other-ca.pem");
            std::fs::write(&ca, other.emulator.ca_pem().expect("one")).expect("a file");
            crate::support::source::start_trusting(&impostor, &folder, &ca)
        };
        let request = http::token_request("https://vault.azure.net");
        let answer = send(tcp(&app), &request).expect("an answer");
        assert_eq!(answer.status, 503, "{}", kind.as_str());
        let samples = scrape(app.admin_address());
        assert_eq!(
            sum(
                &samples,
                "foretoken_upstream_calls_total",
                Some("untrusted")
            ),
            1
        );
        assert_eq!(impostor.counts().total, 0, "no secret was shown to it");
    }
}

#[test]
fn a_federated_token_that_is_gone_or_over_is_told_and_one_that_comes_back_is_used() {
    let house = house(Kind::WorkloadIdentity);
    let file = house.folder.path().join("federated");
    let good = std::fs::read(&file).expect("the federated token");
    std::fs::remove_file(&file).expect("it was there");
    assert_eq!(ask(&house, "https://a.example", "").status, 503);
    assert_eq!(calls(&house, "no_assertion"), 1);
    assert_eq!(house.emulator.counts().total, 0);
    std::fs::write(&file, "not.a.token").expect("a file");
    let refused = ask(&house, "https://b.example", "");
    assert_eq!((refused.status, calls(&house, "denied")), (401, 1));
    assert!(
        refused.json()["error_description"]
            .to_string()
            .contains("AADSTS")
    );
    std::fs::write(&file, good).expect("a file");
    assert_eq!(ask(&house, "https://c.example", "").status, 200);
    for refused in ["https://a.example", "https://b.example"] {
        until("the key heals", || ask(&house, refused, "").status == 200);
    }
}

#[test]
fn a_revoked_token_is_told_to_service_fabric_and_replaced() {
    use ring::digest::{SHA256, digest};
    let house = house(Kind::ServiceFabric);
    let old = token_of(&ask(&house, "https://vault.azure.net", ""));
    let hash: String = digest(&SHA256, old.as_bytes())
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let more = format!("&token_sha256_to_refresh={hash}");
    let new = token_of(&ask(&house, "https://vault.azure.net", &more));
    assert_ne!(new, old);
    let asked = house.emulator.last_request().expect("a request");
    assert!(String::from_utf8_lossy(&asked).contains(&more));
}

#[test]
fn auto_finds_each_platform_by_what_it_tells() {
    for kind in [
        Kind::AppService,
        Kind::AzureMl,
        Kind::ServiceFabric,
        Kind::CloudShell,
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut settings = emulator_settings();
        settings.kind = crate::support::source::played(kind, folder.path());
        let emulator = foretoken_emulator::Emulator::start(settings).expect("an emulator");
        let app = start_before(&emulator, "auto", &folder, "");
        let answer = send(tcp(&app), &http::token_request("https://vault.azure.net"));
        assert_eq!(answer.expect("an answer").status, 200, "{}", kind.as_str());
        assert_eq!(emulator.counts().token_calls, 1, "{}", kind.as_str());
    }
}
