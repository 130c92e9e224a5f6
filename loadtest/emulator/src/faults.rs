//! The ways in which the endpoint can be made to fail.
//!
//! A fault spoils token requests that would otherwise have been granted, so that probes, refusals
//! and throttling stay as they are; with `all_requests` it spoils everything but the control
//! path, as when the endpoint is gone. Which request fails next is for `plan` to say; the faults
//! that have a name are in `modes`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ExpiryForm;
use crate::script::{Step, uses_the_token};
use crate::template;

/// A planned failure.
///
/// As JSON: `{"kind":"status","status":503,"retry_after_s":2,"times":3,"all_requests":false}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// How many more requests it spoils; `None` until it is taken away.
    #[serde(default)]
    pub times: Option<u32>,
    /// Whether it spoils every request instead of only those that would be granted a token.
    #[serde(default)]
    pub all_requests: bool,
}

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// Another status, with the body the kind has for it.
    Status {
        /// 300 to 599.
        status: u16,
        /// The `Retry-After` header in seconds, if there is to be one.
        #[serde(default)]
        retry_after_s: Option<u32>,
    },
    /// This body in place of the right one.
    Body {
        /// 200 to 599. As JSON 200 if left out.
        #[serde(default = "default_status")]
        status: u16,
        /// The body exactly as it is sent.
        text: String,
        /// The `Content-Type`; that of JSON if left out.
        #[serde(default)]
        content_type: Option<String>,
    },
    /// The right answer around another body.
    Rewrite {
        /// The body, with placeholders for what the right one holds; see the README.
        text: String,
        /// 200 to 599. As JSON 200 if left out.
        #[serde(default = "default_status")]
        status: u16,
    },
    /// Steps on the connection in place of the answer: what is sent, when, and how it ends.
    Script {
        /// The steps in their order. If none ends the connection, it goes on.
        steps: Vec<Step>,
        /// Placeholders stand for parts of the answer with this status instead of the right
        /// one; 300 to 599.
        #[serde(default)]
        status: Option<u16>,
    },
    /// One header line more, on the right answer or on that of a status: with 302, a redirect.
    Header {
        /// The line as it is sent, without its end: `Location: http://127.0.0.1:1/`. It may have
        /// placeholders.
        line: String,
        /// 300 to 599.
        #[serde(default)]
        status: Option<u16>,
    },
    /// The right answer with some of its members changed.
    Edit {
        /// Values to put in place of the right ones, or to add at the end; null takes a member
        /// away.
        members: Map<String, Value>,
    },
    /// `expires_on` in another spelling, and no `expires_in` to fall back on.
    Expiry {
        /// The spelling.
        spelling: ExpirySpelling,
    },
    /// A genuine token of another date: issued anew, as if the clock stood elsewhere.
    Issue {
        /// Seconds from now to the moment of issuance; negative for the past.
        shift_s: i64,
        /// Its life in seconds, if it is to be another than usual.
        #[serde(default)]
        lifetime_s: Option<u64>,
    },
    /// The token issued before once more, whatever its age and whatever is asked for.
    Unchanged,
    /// Not an answer but the connection itself fails, before a request is read.
    Accept {
        /// What becomes of a caller that connects.
        how: Accept,
    },
    /// No answer at all; the connection stays open until the caller closes it.
    Hang,
    /// The connection is reset (RST).
    Reset,
    /// The right answer, its body in small pieces with pauses between them.
    Drip {
        /// Bytes in a piece, at least 1. As JSON 16 if left out.
        #[serde(default = "default_chunk_bytes")]
        chunk_bytes: usize,
        /// Milliseconds between pieces. As JSON 100 if left out.
        #[serde(default = "default_pause_ms")]
        pause_ms: u64,
    },
    /// The headers announce the whole body, but the connection is closed within it.
    Truncate {
        /// Bytes of the body that are sent; never all of them. As JSON 20 if left out.
        #[serde(default = "default_send_bytes")]
        send_bytes: usize,
    },
    /// The right answer, and a promise to keep the connection, which is then closed.
    CloseKeptAlive {
        /// Milliseconds from the answer to the close. As JSON 0 if left out.
        #[serde(default)]
        after_ms: u64,
    },
    /// Status 200 with a page of HTML, as a captive portal would answer.
    Html,
    /// A genuine token for another resource than the one asked for.
    OtherResource {
        /// The resource it is for.
        resource: String,
    },
    /// A genuine token of another identity than the one asked for.
    OtherClient {
        /// The client id of that identity, not checked.
        client_id: String,
    },
}

/// Spellings of `expires_on` that no source uses, or that not every client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpirySpelling {
    /// Milliseconds since the Unix epoch, as a string.
    Milliseconds,
    /// Seconds as a JSON number.
    Number,
    /// Seconds with a fraction, as a JSON number.
    Float,
    /// Seconds with a fraction, as a string.
    FloatText,
    /// Seconds in hexadecimal with `0x`, as a string.
    Hex,
    /// Seconds between spaces, as a string.
    Spaced,
    /// `2024-10-18T19:51:37.0000000+00:00`
    Iso8601,
    /// `06/20/2019 02:57:58 +00:00`
    UsDate,
}

impl ExpirySpelling {
    /// The changes to a success body that make it so.
    pub(crate) fn members(self, expires_on_s: u64) -> Map<String, Value> {
        let written = match self {
            Self::Milliseconds => format!("{expires_on_s}000").into(),
            Self::Number => expires_on_s.into(),
            // Seconds of this era are exact in 53 bits, and a half is exact in any.
            Self::Float => format!("{expires_on_s}.5")
                .parse::<f64>()
                .map_or(Value::Null, Value::from),
            Self::FloatText => format!("{expires_on_s}.5").into(),
            Self::Hex => format!("{expires_on_s:#x}").into(),
            Self::Spaced => format!(" {expires_on_s} ").into(),
            Self::Iso8601 => ExpiryForm::Iso8601.write(expires_on_s),
            Self::UsDate => ExpiryForm::LinuxDate.write(expires_on_s),
        };
        Map::from_iter([
            ("expires_on".to_owned(), written),
            ("expires_in".to_owned(), Value::Null),
            ("ext_expires_in".to_owned(), Value::Null),
        ])
    }
}

/// What becomes of a caller that connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// Nobody listens: the address refuses connections until the fault ends.
    Refuse,
    /// The backlog is full: connections are not established until the fault ends.
    Full,
    /// The connection is reset at once.
    Reset,
    /// The connection is closed at once.
    Close,
    /// The connection is kept and nothing is read from it.
    Ignore,
    /// This is sent before anything is read, in the clear, and the connection closed.
    Say(String),
    /// Over TLS, with a certificate that nobody was told of.
    OtherCertificate,
}

impl FaultKind {
    /// Whether the caller gets something else than a token.
    pub(crate) fn replaces_the_answer(&self) -> bool {
        match self {
            Self::Script { status, steps } => status.is_some() || !uses_the_token(steps),
            Self::Rewrite { text, .. } => !template::uses_the_token(text),
            Self::Status { .. }
            | Self::Body { .. }
            | Self::Header {
                status: Some(_), ..
            }
            | Self::Accept { .. }
            | Self::Hang
            | Self::Reset
            | Self::Html => true,
            Self::Header { status: None, .. }
            | Self::Edit { .. }
            | Self::Expiry { .. }
            | Self::Issue { .. }
            | Self::Unchanged
            | Self::Drip { .. }
            | Self::Truncate { .. }
            | Self::CloseKeptAlive { .. }
            | Self::OtherResource { .. }
            | Self::OtherClient { .. } => false,
        }
    }

    /// What is wrong with its members, if something is.
    fn mistake(&self) -> Option<String> {
        let (status, allowed, words) = match self {
            Self::Status { status, .. } => (Some(*status), 300..600, "300 to 599"),
            Self::Header { status, .. } | Self::Script { status, .. } => {
                (*status, 300..600, "300 to 599")
            }
            Self::Body { status, .. } | Self::Rewrite { status, .. } => {
                (Some(*status), 200..600, "200 to 599")
            }
            _ => (None, 0..0, ""),
        };
        if status.is_some_and(|status| !allowed.contains(&status)) {
            return Some(format!("status must be {words}"));
        }
        match self {
            Self::Rewrite { text, .. } | Self::Header { line: text, .. } => template::mistake(text),
            Self::Script { steps, .. } => steps.iter().find_map(Step::mistake),
            _ => None,
        }
    }
}

fn default_status() -> u16 {
    200
}

fn default_chunk_bytes() -> usize {
    16
}

fn default_pause_ms() -> u64 {
    100
}

fn default_send_bytes() -> usize {
    20
}

impl Fault {
    /// This failure for token requests, until it is taken away.
    #[must_use]
    pub fn always(kind: FaultKind) -> Self {
        Self {
            kind,
            times: None,
            all_requests: false,
        }
    }

    /// This failure for the next token requests, this many of them.
    #[must_use]
    pub fn times(kind: FaultKind, times: u32) -> Self {
        Self {
            kind,
            times: Some(times),
            all_requests: false,
        }
    }

    /// The same failure, for every request instead of only for token requests.
    #[must_use]
    pub fn for_all_requests(self) -> Self {
        Self {
            all_requests: true,
            ..self
        }
    }

    /// Reads the JSON form. Unlike serde on its own it refuses names it does not know, since a
    /// misspelled one would quietly make another fault.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let given: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let fault = Self::deserialize(&given).map_err(|error| error.to_string())?;
        if let Some(mistake) = fault.kind.mistake() {
            return Err(mistake);
        }
        let known = serde_json::to_value(&fault).map_err(|error| error.to_string())?;
        let mut names = given
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys());
        match names.find(|name| known.get(name).is_none()) {
            Some(unknown) => Err(format!("unknown name `{unknown}` for this kind of fault")),
            None => Ok(fault),
        }
    }
}

/// The page of the HTML fault.
pub(crate) fn html_page(address: SocketAddr) -> String {
    format!(
        "<!DOCTYPE html><html><head><title>Sign in</title></head><body>\
         <h1>Welcome</h1><p>Please sign in to use {address}.</p></body></html>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_has_defaults_and_refuses_unknown_names() {
        let drip = Fault::from_json(br#"{"kind":"drip"}"#).unwrap();
        assert_eq!(
            drip,
            Fault::always(FaultKind::Drip {
                chunk_bytes: 16,
                pause_ms: 100
            })
        );
        let status = br#"{"kind":"status","status":429,"retry_after_s":7,"times":1}"#;
        let expected = FaultKind::Status {
            status: 429,
            retry_after_s: Some(7),
        };
        assert_eq!(Fault::from_json(status).unwrap(), Fault::times(expected, 1));

        for wrong in [
            r#"{"kind":"status","status":503,"retry_after":7}"#,
            r#"{"kind":"status","status":200}"#,
            r#"{"kind":"hang","time":1}"#,
            r#"{"kind":"body","text":"","status":100}"#,
            r#"{"kind":"header","line":"","status":200}"#,
            r#"{"kind":"edit","members":[]}"#,
            r#"{"kind":"rewrite","text":"{what}"}"#,
            r#"{"kind":"rewrite","text":"","status":199}"#,
            r#"{"kind":"script","steps":[{"send":"{pad}"}]}"#,
            r#"{"kind":"script","steps":["dance"]}"#,
            r#"{"kind":"accept","how":"slam"}"#,
            r#"{"kind":"explode"}"#,
            "[]",
        ] {
            assert!(Fault::from_json(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
