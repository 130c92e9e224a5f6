//! The ways in which the endpoint can be made to fail, and which request fails next.
//!
//! A fault spoils token requests that would otherwise have been granted, so that probes, refusals
//! and throttling stay as they are; with `all_requests` it spoils everything but the control
//! path, as when the endpoint is gone.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    /// One header line more, on the right answer or on that of a status: with 302, a redirect.
    Header {
        /// The line as it is sent, without its end: `Location: http://127.0.0.1:1/`.
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

impl FaultKind {
    /// Whether the caller gets something else than a token.
    pub(crate) fn replaces_the_answer(&self) -> bool {
        match self {
            Self::Status { .. }
            | Self::Body { .. }
            | Self::Header {
                status: Some(_), ..
            }
            | Self::Hang
            | Self::Reset
            | Self::Html => true,
            Self::Header { status: None, .. }
            | Self::Edit { .. }
            | Self::Drip { .. }
            | Self::Truncate { .. }
            | Self::CloseKeptAlive { .. }
            | Self::OtherResource { .. }
            | Self::OtherClient { .. } => false,
        }
    }

    /// The statuses it may have, if it has one that is not among them.
    fn statuses_it_breaks(&self) -> Option<&'static str> {
        let (status, allowed, words) = match self {
            Self::Status { status, .. } => (Some(*status), 300..600, "300 to 599"),
            Self::Header { status, .. } => (*status, 300..600, "300 to 599"),
            Self::Body { status, .. } => (Some(*status), 200..600, "200 to 599"),
            _ => return None,
        };
        status
            .is_some_and(|status| !allowed.contains(&status))
            .then_some(words)
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
        if let Some(allowed) = fault.kind.statuses_it_breaks() {
            return Err(format!("status must be {allowed}"));
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

/// The fault now in force, if any.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    current: Option<Fault>,
}

impl Faults {
    pub(crate) fn set(&mut self, fault: Option<Fault>) {
        self.current = fault;
    }

    pub(crate) fn current(&self) -> Option<&Fault> {
        self.current.as_ref()
    }

    /// The failure of the next request; uses up one of its times.
    pub(crate) fn next(&mut self, would_be_granted: bool) -> Option<FaultKind> {
        let fault = self
            .current
            .as_mut()
            .filter(|it| it.all_requests || would_be_granted)?;
        if let Some(times) = &mut fault.times {
            let Some(left) = times.checked_sub(1) else {
                self.current = None;
                return None;
            };
            *times = left;
        }
        let kind = fault.kind.clone();
        if fault.times == Some(0) {
            self.current = None;
        }
        Some(kind)
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
    fn a_fault_with_times_ends_by_itself() {
        let mut faults = Faults::default();
        faults.set(Some(Fault::times(FaultKind::Hang, 2)));
        assert_eq!(faults.next(false), None);
        assert_eq!(faults.next(true), Some(FaultKind::Hang));
        assert_eq!(faults.next(true), Some(FaultKind::Hang));
        assert_eq!(faults.next(true), None);
        assert_eq!(faults.current(), None);
    }

    #[test]
    fn a_fault_for_all_requests_spoils_refusals_too() {
        let mut faults = Faults::default();
        faults.set(Some(Fault::always(FaultKind::Reset).for_all_requests()));
        assert_eq!(faults.next(false), Some(FaultKind::Reset));
    }

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
            r#"{"kind":"explode"}"#,
            "[]",
        ] {
            assert!(Fault::from_json(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
