//! Request heads as real clients send them.
//!
//! They are taken from the repository's recordings (`tests/golden/recordings`), built in. Three
//! things change: the resource is that of the key, written as this client writes resources; the
//! `Host` is the address asked, unless the client sends its own whatever it asks; and each request
//! has a request id of its own, put in place just before it is sent.

use std::ops::Range;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Target;

macro_rules! recorded {
    ($name:literal, $file:literal) => {
        (
            $name,
            include_str!(concat!("../../tests/golden/recordings/", $file, ".json")),
        )
    };
}

/// The clients by name, each with its recording.
const RECORDINGS: [(&str, &str); 11] = [
    recorded!("python-azure-identity", "azure-identity-1.27.0-pod-system"),
    recorded!(
        "python-azure-identity-aio",
        "azure-identity-1.27.0-aio-pod-system"
    ),
    recorded!(
        "python-azure-identity-1.16",
        "azure-identity-1.16.1-pod-system"
    ),
    recorded!("python-msal", "msal-1.39.0-imds-system"),
    recorded!("azure-cli", "azure-cli-2.91.0-pod-system"),
    recorded!(
        "js-azure-identity",
        "npm-azure-identity-4.13.1-dac-pod-system"
    ),
    recorded!("js-azure-identity-3", "npm-azure-identity-3.4.2-pod-system"),
    recorded!("js-msal-node", "npm-azure-msal-node-7.2.1-pod-system"),
    recorded!("rust-azure-identity", "azure_identity-1.0.0-imds-system"),
    recorded!("rust-object-store", "object_store-0.14.2-pod-system"),
    recorded!(
        "go-autorest",
        "go-autorest-adal-14.2.0+git20220726-imds-system"
    ),
];

/// What JavaScript's `encodeURIComponent` leaves as it is; the other clients do about the same.
const ESCAPED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

const REQUEST_ID: &str = "x-ms-client-request-id: ";
/// `xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx`
const REQUEST_ID_BYTES: usize = 36;
/// Places in a request id that are not for chance: dashes, version and variant.
const FIXED: [usize; 6] = [8, 13, 14, 18, 19, 23];

/// A client of which a head was recorded. The default is the current Python SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Client(usize);

impl Client {
    /// Every client that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..RECORDINGS.len()).map(Self)
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        RECORDINGS[self.0].0
    }

    /// The head that was recorded, whole and as it was.
    fn recorded(self) -> String {
        let recording: Value = serde_json::from_str(RECORDINGS[self.0].1).expect("a recording");
        // A probe may come first: the token request is the first that was granted.
        let mut exchanges = recording["exchanges"].as_array().into_iter().flatten();
        let granted = exchanges.find(|it| it["reply"]["status"] == 200);
        let raw = granted.and_then(|it| it["request"]["raw_b64"].as_str());
        let head = STANDARD.decode(raw.expect("a request")).expect("base64");
        String::from_utf8(head).expect("heads are text")
    }
}

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::all();
        let found = all.find(|client| client.name() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::all().map(Self::name).collect();
            format!("there is no client `{text}`, but {}", names.join(", "))
        })
    }
}

/// A head that is ready but for its request id.
#[derive(Debug)]
pub(crate) struct Head {
    bytes: Box<[u8]>,
    id: Option<Range<usize>>,
}

impl Head {
    /// As this client asks this target for this resource.
    pub(crate) fn new(client: Client, target: &Target, resource: &str) -> Self {
        let recorded = client.recorded();
        let (line, headers) = recorded.split_once("\r\n").expect("a request line");
        let (before, rest) = line.split_once("resource=").expect("a token request");
        let (old, after) = rest.split_at(rest.find(['&', ' ']).expect("a version"));
        let resource = if old.contains('%') {
            utf8_percent_encode(resource, &ESCAPED).to_string()
        } else {
            resource.to_owned()
        };
        let mut text = format!("{before}resource={resource}{after}\r\n");
        for header in headers.split_inclusive("\r\n") {
            match (header.split_once(": "), target) {
                (Some((name, _)), Target::Tcp(address)) if name.eq_ignore_ascii_case("host") => {
                    text += &format!("{name}: {address}\r\n");
                }
                _ => text += header,
            }
        }
        let id = text.to_ascii_lowercase().find(REQUEST_ID).map(|at| {
            let from = at + REQUEST_ID.len();
            from..from + REQUEST_ID_BYTES
        });
        Self {
            bytes: text.into_bytes().into_boxed_slice(),
            id,
        }
    }

    /// Appends it with a fresh request id.
    pub(crate) fn append(&self, out: &mut Vec<u8>, random: &mut fastrand::Rng) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let Some(id) = &self.id else { return };
        let mut bits = random.u128(..);
        for (place, byte) in out[start + id.start..start + id.end].iter_mut().enumerate() {
            if !FIXED.contains(&place) {
                *byte = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(client: Client, target: &str, resource: &str) -> String {
        let target = target.parse().unwrap();
        let mut out = Vec::new();
        Head::new(client, &target, resource).append(&mut out, &mut fastrand::Rng::with_seed(1));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_head_differs_from_the_recorded_one_in_resource_host_and_request_id_only() {
        for client in Client::all() {
            let (was, is) = (
                client.recorded(),
                sent(client, "127.0.0.1:80", "https://a/b"),
            );
            assert_eq!(was.lines().count(), is.lines().count(), "{is}");
            for (was, is) in was.lines().zip(is.lines()) {
                let lower = was.to_ascii_lowercase();
                let changed = ["get ", "host: ", REQUEST_ID];
                if let Some(start) = changed.iter().find(|start| lower.starts_with(**start)) {
                    assert!(is.to_ascii_lowercase().starts_with(start), "{is}");
                    assert_ne!(was, is);
                    assert!(
                        !is.contains("azure.com") && !is.contains("windows.net"),
                        "{is}"
                    );
                } else {
                    assert_eq!(was, is);
                }
            }
            assert!(is.ends_with("\r\n\r\n"));
        }
    }

    #[test]
    fn each_client_writes_the_resource_in_its_own_way() {
        let python = sent(Client::default(), "127.0.0.1:80", "https://a/b");
        let bare = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://a/b HTTP/1.1\r\n";
        assert!(python.starts_with(bare), "{python}");
        let escaped = sent(
            "rust-object-store".parse().unwrap(),
            "unix:/x",
            "https://a/b",
        );
        assert!(
            escaped.contains("resource=https%3A%2F%2Fa%2Fb HTTP/1.1\r\n"),
            "{escaped}"
        );
    }

    #[test]
    fn request_ids_are_guids_of_version_4_and_never_the_same() {
        let head = Head::new(Client::default(), &"unix:/x".parse().unwrap(), "https://a");
        let mut random = fastrand::Rng::with_seed(1);
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let mut out = Vec::new();
            head.append(&mut out, &mut random);
            let text = String::from_utf8(out).unwrap();
            let (_, rest) = text.split_once(REQUEST_ID).unwrap();
            let (id, end) = rest.split_at(REQUEST_ID_BYTES);
            assert!(end.starts_with("\r\n"), "{end}");
            let groups: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!((groups, &id[14..15]), (vec![8, 4, 4, 4, 12], "4"), "{id}");
            assert!(ids.insert(id.to_owned()));
        }
    }
}
