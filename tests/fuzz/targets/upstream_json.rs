//! An answer that is accepted says to a second, plainer reader exactly what was taken from it, fits
//! the question that was asked, and has no member of meaning twice. Every body is given to every
//! kind of source.

#![no_main]

use std::net::{Ipv4Addr, SocketAddr};

use foretoken::clock::UnixMs;
use foretoken::token::{AccessToken, Identity, Resource, Secret, TokenKey};
use foretoken::upstream::answer::{Times, read_token};
use foretoken::upstream::{Endpoint, Federation, Kind, Source, Thumbprint};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// The time and the question of `tests/golden/json`.
const NOW_S: u64 = 1_700_000_000;
const SENT_S: u64 = NOW_S - 1;
const WEEK_S: u64 = 7 * 24 * 3600;
const ASKED: &str = "https://vault.azure.net";
const ID: &str = "aaaaaaaa-1111-4222-8333-444444444444";

const KNOWN: [&str; 12] = [
    "access_token",
    "token_type",
    "resource",
    "client_id",
    "object_id",
    "msi_res_id",
    "mi_res_id",
    "expires_on",
    "expires_in",
    "not_before",
    "refresh_in",
    "ExceptionMessage",
];

fuzz_target!(|body: &[u8]| {
    for kind in Kind::ALL {
        let source = source(kind);
        let identities: &[Identity] = match kind {
            Kind::Arc => &[
                Identity::System,
                Identity::ClientId(ID.into()),
                Identity::ObjectId(ID.into()),
                Identity::ResourceId("/s/r".into()),
            ],
            Kind::Imds => &[Identity::ClientId(ID.into())],
            _ => &[Identity::System],
        };
        for identity in identities {
            let key = key(identity.clone());
            let times = Times {
                sent: UnixMs(SENT_S * 1000 + 999),
                received: UnixMs(NOW_S * 1000),
            };
            if let Ok(token) = read_token(&source, &key, body, times) {
                check(kind, &key, source.client_id_asked(identity), body, &token);
            }
        }
    }
});

fn source(kind: Kind) -> Source {
    let endpoint = Endpoint::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, 4000)), "/token");
    let secret = Secret::new(b"s".to_vec());
    match kind {
        Kind::Imds => Source::Imds(endpoint),
        Kind::AppService => Source::AppService(endpoint, secret),
        Kind::AppService2017 => Source::AppService2017(endpoint, secret),
        Kind::AzureMl => Source::AzureMl {
            endpoint,
            secret,
            default_client_id: Some(ID.into()),
        },
        Kind::Arc => Source::Arc {
            endpoint,
            folder: "/tokens".into(),
        },
        Kind::ServiceFabric => Source::ServiceFabric {
            endpoint,
            secret,
            thumbprint: Thumbprint([0; 20]),
        },
        Kind::CloudShell => Source::CloudShell(endpoint),
        Kind::VmExtension => Source::VmExtension(endpoint),
        Kind::WorkloadIdentity => Source::WorkloadIdentity(Federation {
            host: "login.example".into(),
            port: 443,
            tenant: "t".into(),
            client_id: ID.into(),
            token_file: "/token".into(),
            ca_file: None,
        }),
    }
}

fn key(identity: Identity) -> TokenKey {
    TokenKey {
        upstream: "any".into(),
        identity,
        resource: Resource::from_decoded(ASKED.as_bytes()).expect("a resource"),
        capabilities: Vec::new(),
        extras: Vec::new(),
        client: None,
    }
}

/// What has to hold of an answer that was accepted.
fn check(kind: Kind, key: &TokenKey, asked: Option<&str>, body: &[u8], token: &AccessToken) {
    let shown = body.escape_ascii();
    let known = known_members(body).unwrap_or_else(|| panic!("no object: {shown}"));
    let member = |name: &str| {
        let mut found = known.iter().filter(|(it, _)| it == name);
        let value = found.next().map(|(_, value)| value);
        assert!(found.next().is_none(), "{name} twice: {shown}");
        // Written as nothing is not written.
        value.filter(|value| !value.is_null())
    };
    for name in KNOWN {
        member(name);
    }
    // A reader of the whole, where it can read it, takes the same.
    if let Ok(whole) = serde_json::from_slice::<Value>(body) {
        for (name, value) in &known {
            assert_eq!(whole.get(name), Some(value), "{name}: {shown}");
        }
    }
    assert!(member("ExceptionMessage").is_none(), "{shown}");

    let secret = token.secret.expose();
    let text = member("access_token").and_then(Value::as_str);
    assert_eq!(text.map(str::as_bytes), Some(secret), "{shown}");
    let visible = |b: &u8| (0x21..0x7f).contains(b) && *b != b'"' && *b != b'\\';
    assert!(!secret.is_empty() && secret.iter().all(visible), "{shown}");
    if let Some(value) = member("token_type") {
        let text = value.as_str().unwrap_or_default();
        assert_eq!(text.to_ascii_lowercase(), "bearer", "{shown}");
    }

    if let Some(echo) = member("resource") {
        let echo = echo.as_str().expect("a text");
        let slash =
            matches!(kind, Kind::AppService | Kind::AppService2017) && echo == format!("{ASKED}/");
        assert!(echo == ASKED || slash, "{echo}: {shown}");
    }
    let same = |name: &str, id: &str| {
        let text = member(name).and_then(Value::as_str);
        text.is_some_and(|text| text.to_ascii_lowercase() == id.to_ascii_lowercase())
    };
    let client_id = member("client_id").map(|value| value.as_str().expect("a text"));
    assert_eq!(token.client_id.as_deref(), client_id, "{shown}");
    assert!(client_id.is_none_or(|id| id.len() <= 64), "{shown}");
    if let Some(asked) = asked {
        assert!(client_id.is_none() || same("client_id", asked), "{shown}");
    }
    if kind == Kind::Arc {
        let echoed = match &key.identity {
            Identity::System => true,
            Identity::ClientId(id) => same("client_id", id),
            Identity::ObjectId(id) => same("object_id", id),
            Identity::ResourceId(id) => same("msi_res_id", id) || same("mi_res_id", id),
        };
        assert!(echoed, "{shown}");
    }

    let end = token.lifetime.expires_on_s;
    assert!(end > NOW_S && end <= NOW_S + WEEK_S, "{end}: {shown}");
    assert_eq!(token.lifetime.received_at, UnixMs(NOW_S * 1000));
    if kind == Kind::WorkloadIdentity {
        let left = member("expires_in").and_then(whole_number);
        assert_eq!(left.map(|left| SENT_S + left), Some(end), "{shown}");
    } else {
        let on = member("expires_on").unwrap_or_else(|| panic!("no end: {shown}"));
        // Dates are the matter of `expires_fields`.
        let date = on.as_str().is_some_and(|text| text.contains([' ', 'T']));
        assert!(date || whole_number(on) == Some(end), "{end}: {shown}");
    }
    if let Some(refresh_in) = token.lifetime.refresh_in_s {
        let written = member("refresh_in").and_then(whole_number);
        assert_eq!(written, Some(refresh_in), "{shown}");
    }
    if token.lifetime.not_before_s.is_some() {
        assert!(member("not_before").is_some(), "{shown}");
    }
}

/// A number, or a text of digits.
fn whole_number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// The members of [`KNOWN`] as they stand in the text, twice where they stand twice; `None` for
/// what is no object. Of all other values it sees no more than where they end: the strictness that
/// a reader of values has there is not asked for.
fn known_members(body: &[u8]) -> Option<Vec<(String, Value)>> {
    let mut rest = body.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?;
    let mut found = Vec::new();
    while !rest.trim_ascii().is_empty() {
        let (name, after) = rest.split_at(end_of(rest, b':')?);
        let after = &after[1..];
        let end = end_of(after, b',').unwrap_or(after.len());
        let name: String = serde_json::from_slice(name).ok()?;
        if KNOWN.contains(&&*name) {
            found.push((name, serde_json::from_slice(&after[..end]).ok()?));
        }
        rest = after.get(end + 1..).unwrap_or_default();
    }
    Some(found)
}

/// Where the mark stands that is in no text and in no brackets.
fn end_of(text: &[u8], mark: u8) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            byte if *byte == mark && depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}
