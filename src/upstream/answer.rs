//! What comes back: taken apart and checked against the question, never relayed.
//!
//! Pure functions of the bytes, the key that was asked for and the time.

use std::borrow::Cow;
use std::fmt;

use hyper::header::{HeaderMap, RETRY_AFTER};
use serde::de::{IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};

use super::expiry::expires_on;
use super::retry_after::retry_after;
use super::settings::{Kind, Source};
use super::{Class, FetchError};
use crate::clock::UnixMs;
use crate::token::{AccessToken, Identity, Lifetime, Secret, TokenKey};

/// Managed identity tokens live 24 h; a week is beyond any, and keeps milliseconds or other
/// nonsense from passing for seconds.
const MAX_LIFE_S: u64 = 7 * 24 * 3600;
/// Longest part of a source's error text that is kept.
const MAX_DETAIL_BYTES: usize = 512;
/// Longest client id that is kept: a GUID, and room to spare.
const MAX_CLIENT_ID_BYTES: usize = 64;

/// When an answer was asked for, and when it was there.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Before the first byte went out.
    pub sent: UnixMs,
    /// After the last byte came in.
    pub received: UnixMs,
}

/// The members of a success body that mean something to us. A member given twice is an error: two
/// readers could take either.
#[derive(Deserialize)]
struct Body<'a> {
    access_token: Option<Hidden>,
    #[serde(borrow)]
    token_type: Option<Scalar<'a>>,
    #[serde(borrow)]
    resource: Option<Scalar<'a>>,
    #[serde(borrow)]
    client_id: Option<Scalar<'a>>,
    #[serde(borrow)]
    object_id: Option<Scalar<'a>>,
    #[serde(borrow)]
    principal_id: Option<Scalar<'a>>,
    #[serde(borrow)]
    msi_res_id: Option<Scalar<'a>>,
    #[serde(borrow)]
    mi_res_id: Option<Scalar<'a>>,
    #[serde(borrow)]
    expires_on: Option<Scalar<'a>>,
    #[serde(borrow)]
    expires_in: Option<Scalar<'a>>,
    #[serde(borrow)]
    not_before: Option<Scalar<'a>>,
    #[serde(borrow)]
    refresh_in: Option<Scalar<'a>>,
    /// Old App Service tells failures with 200 (`protocols.md` §3.3).
    #[serde(rename = "ExceptionMessage")]
    exception: Option<IgnoredAny>,
}

/// A text that is wiped, wherever its reading ends.
struct Hidden(Secret);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Hidden;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Hidden, E> {
                Ok(Hidden(Secret::new(text.as_bytes().to_vec())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A number, which one source writes as a string and the next as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar<'a> {
    Number(u64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
    Other(IgnoredAny),
}

impl Scalar<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Other(_) => None,
        }
    }

    /// Whole seconds; of text, digits.
    fn seconds(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    /// Unix seconds, or a date.
    fn unix_seconds(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => expires_on(text),
            Self::Other(_) => None,
        }
    }

    fn names(&self, id: &str) -> bool {
        self.text()
            .is_some_and(|text| text.eq_ignore_ascii_case(id))
    }
}

/// Reads the body of a 200.
///
/// # Errors
/// `Malformed` for what is no token answer; `WrongResource`, `WrongClient` and `BadExpiry` for what
/// does not fit the question; the class of its own status where the body tells a failure.
pub fn read_token(
    source: &Source,
    key: &TokenKey,
    body: &[u8],
    times: Times,
) -> Result<AccessToken, FetchError> {
    let refuse = |class| FetchError {
        status: Some(200),
        ..FetchError::of(class)
    };
    let malformed = || refuse(Class::Malformed);
    // A list with the members' values in their order would be read too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed());
    }
    // All of it: the reader of bytes takes no look at texts in members that mean nothing to us.
    let text = str::from_utf8(body).map_err(|_| malformed())?;
    let read: Body<'_> = serde_json::from_str(text).map_err(|_| malformed())?;
    if read.exception.is_some() {
        return Err(exception(source.kind(), body));
    }
    let Hidden(secret) = read.access_token.ok_or_else(malformed)?;
    let is_token = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
    if secret.expose().is_empty() || !secret.expose().iter().all(is_token) {
        return Err(malformed());
    }
    if read.token_type.is_some_and(|it| !it.names("Bearer")) {
        return Err(malformed());
    }
    if let Some(echo) = &read.resource
        && !same_resource(source.kind(), key.resource.as_str(), echo.text())
    {
        return Err(refuse(Class::WrongResource));
    }
    let client_id = match &read.client_id {
        None => None,
        Some(Scalar::Text(id)) if id.len() <= MAX_CLIENT_ID_BYTES => Some(id.to_string()),
        Some(_) => return Err(malformed()),
    };
    if let (Some(asked), Some(got)) = (source.client_id_asked(&key.identity), &client_id)
        && !got.eq_ignore_ascii_case(asked)
    {
        return Err(refuse(Class::WrongClient));
    }
    let echoes = match &key.identity {
        Identity::System | Identity::ClientId(_) => [&None, &None],
        Identity::ObjectId(_) => [&read.object_id, &read.principal_id],
        Identity::ResourceId(_) => [&read.msi_res_id, &read.mi_res_id],
    };
    if let Some((_, asked)) = key.identity.selector() {
        let mut echoes = echoes.into_iter().flatten().peekable();
        // Old agents of Arc take no notice of a selector and give the machine's own token; those
        // that do tell so by an echo (`protocols.md` §3.4).
        let named = match key.identity {
            // It was compared above.
            Identity::ClientId(_) => client_id.is_some(),
            _ => echoes.peek().is_some(),
        };
        let silent = source.kind() == Kind::Arc && !named;
        if silent || !echoes.all(|echo| echo.names(asked)) {
            return Err(refuse(Class::WrongClient));
        }
    }

    let Times { sent, received } = times;
    let expires_on_s = if source.kind() == Kind::WorkloadIdentity {
        // Entra says no more than how long, counted from when it issued: at the earliest, when we
        // asked.
        let left = read.expires_in.as_ref().and_then(Scalar::seconds);
        left.and_then(|left| sent.as_secs().checked_add(left))
    } else {
        // `expires_in` may be as old as the source's own cache (`protocols.md` §6).
        read.expires_on.as_ref().and_then(Scalar::unix_seconds)
    };
    let expires_on_s = expires_on_s.ok_or_else(malformed)?;
    let now_s = received.as_secs();
    if expires_on_s <= now_s || expires_on_s > now_s + MAX_LIFE_S {
        return Err(refuse(Class::BadExpiry));
    }
    let lifetime = Lifetime {
        received_at: received,
        expires_on_s,
        not_before_s: read.not_before.as_ref().and_then(Scalar::unix_seconds),
        refresh_in_s: read.refresh_in.as_ref().and_then(Scalar::seconds),
    };
    Ok(AccessToken {
        secret,
        lifetime,
        client_id,
    })
}

/// Whether the answer is about the resource that was asked for.
fn same_resource(kind: Kind, asked: &str, echo: Option<&str>) -> bool {
    let Some(echo) = echo else {
        return false;
    };
    // App Service's documentation shows `https://vault.azure.net/` for a question without the
    // slash: there the echo is the platform's own spelling. What it gives is still what it gives to
    // exactly this question.
    let platform = matches!(kind, Kind::AppService | Kind::AppService2017);
    echo == asked || (platform && echo.strip_suffix('/').unwrap_or(echo) == asked)
}

/// What an answer other than 200 means.
#[must_use]
pub fn read_refusal(
    kind: Kind,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    now: UnixMs,
) -> FetchError {
    let wait = headers.get(RETRY_AFTER);
    FetchError {
        class: Class::of_status(kind, status),
        status: Some(status),
        retry_after: wait.and_then(|value| retry_after(value.as_bytes(), now)),
        detail: read_detail(body),
        unheard: false,
    }
}

/// A failure that was told with 200.
fn exception(kind: Kind, body: &[u8]) -> FetchError {
    let told = serde_json::from_slice::<Told<'_>>(body).ok();
    let status = told.and_then(|told| told.status?.seconds());
    let status = status.and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| (400..=599).contains(status));
    let status = status.unwrap_or(503);
    FetchError {
        class: Class::of_status(kind, status),
        status: Some(status),
        retry_after: None,
        detail: read_detail(body),
        unheard: false,
    }
}

/// The members that say why there is no token, in the shapes of IMDS and Entra, of Service Fabric
/// and Cloud Shell, and of App Service in its two versions.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    error: Option<Cause<'a>>,
    #[serde(borrow)]
    error_description: Option<Scalar<'a>>,
    #[serde(borrow)]
    message: Option<Scalar<'a>>,
    #[serde(borrow, rename = "Message")]
    message_2017: Option<Scalar<'a>>,
    #[serde(borrow, rename = "ExceptionMessage")]
    exception: Option<Scalar<'a>>,
    #[serde(borrow, rename = "ErrorCode")]
    code: Option<Scalar<'a>>,
    #[serde(borrow, rename = "StatusCode")]
    status: Option<Scalar<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cause<'a> {
    Inner {
        #[serde(borrow)]
        code: Scalar<'a>,
        #[serde(borrow)]
        message: Option<Scalar<'a>>,
    },
    #[serde(borrow)]
    Code(Scalar<'a>),
}

/// The source's own words for an error, where it has any, as a code and a text.
fn read_detail(body: &[u8]) -> Option<(Box<str>, Box<str>)> {
    let told: Told<'_> = serde_json::from_str(str::from_utf8(body).ok()?).ok()?;
    let text = |it: &Option<Scalar<'_>>| it.as_ref()?.text().map(short);
    match &told.error {
        Some(Cause::Inner { code, message }) => {
            Some((short(code.text()?), text(message).unwrap_or_default()))
        }
        Some(Cause::Code(code)) => {
            let description = text(&told.error_description);
            Some((short(code.text()?), description.unwrap_or_default()))
        }
        None => {
            let messages = [&told.message, &told.message_2017, &told.exception];
            let message = messages.into_iter().find_map(text)?;
            let code = text(&told.code);
            Some((code.unwrap_or_else(|| "invalid_request".into()), message))
        }
    }
}

fn short(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(MAX_DETAIL_BYTES)].into()
}

#[cfg(test)]
mod tests;
