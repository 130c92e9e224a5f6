//! The Instance Metadata Service as a source.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::{Class, FetchError, TokenSource, http};
use crate::clock::{Clock, UnixMs};
use crate::token::{AccessToken, Lifetime, Secret, TokenKey};

/// The version every IMDS has; the token is the same under later ones.
const API_VERSION: &str = "2018-02-01";
/// What needs no escape in a query (RFC 3986, unreserved characters).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Managed identity tokens live 24 h; a week is beyond any, and keeps milliseconds or other
/// nonsense from passing for seconds.
const MAX_LIFE_S: u64 = 7 * 24 * 3600;
/// Longest part of a source's error text that is kept.
const MAX_DETAIL_BYTES: usize = 512;

/// A client of one IMDS.
#[derive(Clone)]
pub struct Imds {
    endpoint: SocketAddr,
    clock: Clock,
}

impl Imds {
    /// A client for the IMDS at `endpoint`.
    #[must_use]
    pub fn new(endpoint: SocketAddr, clock: Clock) -> Self {
        Self { endpoint, clock }
    }
}

impl TokenSource for Imds {
    fn fetch(
        &self,
        key: &TokenKey,
    ) -> impl Future<Output = Result<AccessToken, FetchError>> + Send + 'static {
        let (this, key, target) = (self.clone(), key.clone(), target(key));
        async move {
            let answer = http::get(this.endpoint, &target).await?;
            let now = this.clock.now();
            if answer.status.as_u16() == 200 {
                return read_token(&key, &answer.body, now);
            }
            Err(FetchError {
                class: Class::of_status(answer.status.as_u16()),
                status: Some(answer.status.as_u16()),
                retry_after: retry_after(&answer.headers, now),
                detail: read_detail(&answer.body),
            })
        }
    }
}

/// The request target for a key, built from checked values only.
fn target(key: &TokenKey) -> String {
    let mut target = format!("/metadata/identity/oauth2/token?api-version={API_VERSION}");
    let mut add = |name: &str, value: &str| {
        let name = utf8_percent_encode(name, ESCAPED);
        let value = utf8_percent_encode(value, ESCAPED);
        target.push_str(&format!("&{name}={value}"));
    };
    add("resource", key.resource.as_str());
    if let Some((kind, value)) = key.identity.selector() {
        add(kind, value);
    }
    if !key.capabilities.is_empty() {
        add("xms_cc", &key.capabilities.join(","));
    }
    for (name, value) in &key.extras {
        add(name, value);
    }
    target
}

/// Takes a success body apart and checks it against the question.
fn read_token(key: &TokenKey, body: &[u8], now: UnixMs) -> Result<AccessToken, FetchError> {
    let malformed = || FetchError {
        status: Some(200),
        ..FetchError::of(Class::Malformed)
    };
    let refuse = |class| FetchError {
        status: Some(200),
        ..FetchError::of(class)
    };
    let mut body: Map<String, Value> = serde_json::from_slice(body).map_err(|_| malformed())?;

    // Taken out first, so that it is wiped whatever follows.
    let Some(Value::String(token)) = body.remove("access_token") else {
        return Err(malformed());
    };
    let secret = Secret::new(token.into_bytes());
    let is_token = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
    if secret.expose().is_empty() || !secret.expose().iter().all(is_token) {
        return Err(malformed());
    }
    if body.get("token_type").is_some_and(|kind| {
        !kind
            .as_str()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer"))
    }) {
        return Err(malformed());
    }
    if body
        .get("resource")
        .is_some_and(|echo| echo.as_str() != Some(key.resource.as_str()))
    {
        return Err(refuse(Class::WrongResource));
    }
    let client_id = match body.get("client_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if id.len() <= 64 => Some(id.clone()),
        Some(_) => return Err(malformed()),
    };
    if let (Some(("client_id", asked)), Some(got)) = (key.identity.selector(), &client_id)
        && !got.eq_ignore_ascii_case(asked)
    {
        return Err(refuse(Class::WrongClient));
    }

    let expires_on_s = number(&body, "expires_on").ok_or_else(malformed)?;
    let now_s = now.as_secs();
    if expires_on_s <= now_s || expires_on_s > now_s + MAX_LIFE_S {
        return Err(refuse(Class::BadExpiry));
    }
    let lifetime = Lifetime {
        received_at: now,
        expires_on_s,
        not_before_s: number(&body, "not_before"),
        refresh_in_s: number(&body, "refresh_in"),
    };
    Ok(AccessToken {
        secret,
        lifetime,
        client_id,
    })
}

/// A whole number, which IMDS writes as a string and others as a number.
fn number(body: &Map<String, Value>, name: &str) -> Option<u64> {
    match body.get(name)? {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}

/// `Retry-After` as seconds or as a date, held between nothing and its maximum.
fn retry_after(headers: &HeaderMap, now: UnixMs) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let at = httpdate::parse_http_date(text).ok()?;
        let at = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        at.saturating_sub(Duration::from_millis(now.0))
    };
    Some(wait.min(FetchError::MAX_RETRY_AFTER))
}

/// The source's own words for an error, where it has any.
fn read_detail(body: &[u8]) -> Option<(Box<str>, Box<str>)> {
    let body: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let text = |name: &str| {
        let text = body.get(name).and_then(Value::as_str)?;
        let mut end = text.len().min(MAX_DETAIL_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Some(Box::from(&text[..end]))
    };
    Some((
        text("error")?,
        text("error_description").unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Identity, Resource};

    const NOW: UnixMs = UnixMs(1_000_000_000);

    fn key(identity: Identity) -> TokenKey {
        TokenKey {
            upstream: "imds".into(),
            identity,
            resource: Resource::from_decoded("https://a b&c=d/é".as_bytes()).unwrap(),
            capabilities: vec!["cp1".into(), "cp2".into()],
            extras: vec![("x y".into(), "1&2".into())],
            client: None,
        }
    }

    fn read(changes: Value) -> Result<AccessToken, Class> {
        let mut body = serde_json::json!({
            "access_token": "h.p.s", "client_id": "C1", "expires_in": "86399",
            "expires_on": "1086399", "ext_expires_in": "86399", "not_before": "999700",
            "resource": "https://a b&c=d/é", "token_type": "Bearer",
        });
        let Value::Object(changes) = changes else {
            panic!("an object")
        };
        for (name, value) in changes {
            body[name] = value;
        }
        let key = key(Identity::ClientId("c1".into()));
        read_token(&key, body.to_string().as_bytes(), NOW).map_err(|error| error.class)
    }

    #[test]
    fn the_target_is_escaped_and_carries_the_whole_key() {
        assert_eq!(
            target(&key(Identity::ResourceId("/s/x".into()))),
            "/metadata/identity/oauth2/token?api-version=2018-02-01\
             &resource=https%3A%2F%2Fa%20b%26c%3Dd%2F%C3%A9&msi_res_id=%2Fs%2Fx\
             &xms_cc=cp1%2Ccp2&x%20y=1%262"
        );
    }

    #[test]
    fn a_good_answer_is_taken_apart() {
        let token = read(serde_json::json!({"refresh_in": 43200})).ok().unwrap();
        assert_eq!(token.secret.expose(), b"h.p.s");
        assert_eq!(token.client_id.as_deref(), Some("C1"));
        assert_eq!(
            token.lifetime,
            Lifetime {
                received_at: NOW,
                expires_on_s: 1_086_399,
                not_before_s: Some(999_700),
                refresh_in_s: Some(43_200),
            }
        );
        let numbers = read(serde_json::json!({"expires_on": 1_086_399}))
            .ok()
            .unwrap();
        assert_eq!(numbers.lifetime.expires_on_s, 1_086_399);
    }

    #[test]
    fn answers_that_do_not_fit_the_question_are_refused_by_class() {
        let cases = [
            (
                serde_json::json!({"resource": "https://other"}),
                Class::WrongResource,
            ),
            (serde_json::json!({"client_id": "c2"}), Class::WrongClient),
            (serde_json::json!({"client_id": 7}), Class::Malformed),
            (
                serde_json::json!({"expires_on": "1000000"}),
                Class::BadExpiry,
            ),
            (
                serde_json::json!({"expires_on": "1086399000"}),
                Class::BadExpiry,
            ),
            (serde_json::json!({"expires_on": "-5"}), Class::Malformed),
            (serde_json::json!({"expires_on": null}), Class::Malformed),
            (serde_json::json!({"access_token": ""}), Class::Malformed),
            (
                serde_json::json!({"access_token": "a\r\nb"}),
                Class::Malformed,
            ),
            (
                serde_json::json!({"access_token": "a\"b"}),
                Class::Malformed,
            ),
            (serde_json::json!({"access_token": 5}), Class::Malformed),
            (serde_json::json!({"token_type": "pop"}), Class::Malformed),
        ];
        for (changes, class) in cases {
            assert_eq!(read(changes.clone()).err(), Some(class), "{changes}");
        }
        for body in ["", "[]", "<html>", "{\"access_token\":\"t\"", "null"] {
            let error = read_token(&key(Identity::System), body.as_bytes(), NOW)
                .err()
                .unwrap();
            assert_eq!(error.class, Class::Malformed, "{body}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_bounded() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, NOW).map(|wait| wait.as_secs())
        };
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("999999999"), Some(120));
        assert_eq!(read("Mon, 12 Jan 1970 13:46:50 GMT"), Some(10));
        assert_eq!(read("Mon, 12 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(read("-1"), None);
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn error_texts_are_kept_short() {
        let body = serde_json::json!({"error": "e", "error_description": "é".repeat(2000)});
        let (error, description) = read_detail(body.to_string().as_bytes()).unwrap();
        assert_eq!(&*error, "e");
        assert_eq!(description.len(), 512);
        assert_eq!(read_detail(b"<html>"), None);
    }
}
