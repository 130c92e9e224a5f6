//! Heads that were checked before, and where they led.
//!
//! A client sends the same head again and again, but for the id that it gives to each request. A
//! head that is another one byte for byte, with hexadecimal digits and dashes where that one has
//! its request id, is read as that one was: the same lines, the same target, the same headers. So
//! it need not be read again, which costs ten times as much as to compare the two.
//!
//! Heads with anything secret in them are not kept, and no other before it comes a second time: a
//! client that puts something new into each of its heads takes nobody's place.

use std::hash::BuildHasher;
use std::ops::Range;

use crate::authz::guard::Header;
use crate::cache::Place;
use crate::protocol::Dialect;

/// Heads with the same request line, or with one of the same hash, that are kept: one for each
/// client library on the machine, and the newest stay.
const WAYS: usize = 4;
/// A worker keeps 2 MiB at the most, with all heads as long as they may be.
const SETS: usize = 512;
/// Longer heads are read each time. The longest recorded has 811 bytes.
const MAX_KEPT_BYTES: usize = 1024;
/// The one header whose value changes, in all SDKs.
const REQUEST_ID: &[u8] = b"x-ms-client-request-id";

/// What a worker keeps.
pub struct Known {
    sets: Box<[Set]>,
    hasher: foldhash::fast::RandomState,
}

#[derive(Default)]
struct Set {
    heads: [Option<Box<KnownHead>>; WAYS],
    /// Which of them was kept last.
    newest: usize,
    /// The head that was not kept last, by its hash.
    seen: u64,
}

/// A head that was checked.
pub struct KnownHead {
    gate: u32,
    bytes: Box<[u8]>,
    /// Where its request id stands; empty if it has none.
    id: Range<usize>,
    /// What it asks for.
    pub dialect: Dialect,
    /// Where the answer is.
    pub place: Place,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            sets: (0..SETS).map(|_| Set::default()).collect(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }
}

impl Known {
    /// The head that the bytes start with, if it came in here before.
    #[must_use]
    pub fn find(&self, gate: u32, bytes: &[u8]) -> Option<&KnownHead> {
        let mut heads = self.sets[self.set(bytes)?].heads.iter().flatten();
        heads
            .find(|head| head.gate == gate && head.is_start_of(bytes))
            .map(|head| &**head)
    }

    /// Keeps a head that was checked, if it comes for the second time: all of the bytes, and its
    /// headers, none of which is secret.
    pub fn keep(
        &mut self,
        gate: u32,
        bytes: &[u8],
        headers: &[Header<'_>],
        dialect: Dialect,
        place: Place,
    ) {
        let Some(set) = self.set(bytes).filter(|_| bytes.len() <= MAX_KEPT_BYTES) else {
            return;
        };
        let Some(id) = request_id(bytes, headers) else {
            return;
        };
        let other = (gate, &bytes[..id.start], &bytes[id.end..]);
        let hash = self.hasher.hash_one(other);
        let set = &mut self.sets[set];
        if set.seen != hash {
            set.seen = hash;
            return;
        }
        let same = |head: &KnownHead| head.gate == gate && head.is_start_of(bytes);
        let way = set
            .heads
            .iter()
            .position(|head| head.as_deref().is_none_or(same));
        let way = way.unwrap_or((set.newest + 1) % WAYS);
        set.newest = way;
        set.heads[way] = Some(Box::new(KnownHead {
            gate,
            bytes: bytes.into(),
            id,
            dialect,
            place,
        }));
    }

    /// By the request line, which every head has and which tells keys apart.
    fn set(&self, bytes: &[u8]) -> Option<usize> {
        let line = &bytes[..memchr::memchr(b'\r', bytes)?];
        let hash = self.hasher.hash_one(line);
        Some(usize::try_from(hash % SETS as u64).expect("a set's number fits"))
    }
}

/// Where the request id stands, or an empty range if there is none; nothing if that cannot be told.
fn request_id(bytes: &[u8], headers: &[Header<'_>]) -> Option<Range<usize>> {
    let mut ids = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(REQUEST_ID));
    match (ids.next(), ids.next()) {
        (Some((_, value)), None) if is_id(value) => {
            let start = (value.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
            let id = start..start.checked_add(value.len())?;
            (bytes.get(id.clone()) == Some(value)).then_some(id)
        }
        (None, _) => Some(0..0),
        _ => None,
    }
}

impl KnownHead {
    /// Bytes of the head.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn is_start_of(&self, bytes: &[u8]) -> bool {
        let Range { start, end } = self.id;
        bytes.get(..self.bytes.len()).is_some_and(|head| {
            head[end..] == self.bytes[end..]
                && head[..start] == self.bytes[..start]
                && is_id(&head[start..end])
        })
    }
}

/// Whether these bytes change nothing of how a head is read.
fn is_id(value: &[u8]) -> bool {
    value.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-')
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::head::{MAX_HEADERS, read};
    use super::*;
    use crate::authz::{Caller, Policy};
    use crate::cache::{Asked, Cache, View};
    use crate::protocol::{Shape, parse};
    use crate::telemetry::metrics::Metrics;

    const HEAD: &str = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=r \
        HTTP/1.1\r\nHost: 127.0.0.1\r\nMetadata: true\r\nx-ms-client-request-id: \
        6a5d9d2c-c70b-11f0-9d33-0242ac110002\r\nAccept: */*\r\n\r\n";

    fn place() -> Place {
        let mut view = View::new(Arc::new(Cache::new()), Metrics::new());
        let wish = parse(Dialect::Imds, b"api-version=2018-02-01&resource=r", b"").unwrap();
        let caller = Caller::Unix { uid: 0, gid: 0 };
        let permit = Policy::default().permit(&caller, None, wish.into_key("u"));
        let asked = Asked {
            shape: Shape::Metadata,
            force: None,
        };
        view.remember(0, b"t", asked, permit.unwrap()).unwrap()
    }

    fn keep(known: &mut Known, gate: u32, head: &str) {
        see(known, gate, head);
        see(known, gate, head);
    }

    fn see(known: &mut Known, gate: u32, head: &str) {
        let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
        let (_, count) = read(head.as_bytes(), &mut headers).unwrap().unwrap();
        let headers = &headers[..count];
        known.keep(gate, head.as_bytes(), headers, Dialect::Imds, place());
    }

    fn knows(known: &Known, bytes: &str) -> bool {
        known.find(1, bytes.as_bytes()).is_some()
    }

    #[test]
    fn a_head_is_known_by_all_but_its_request_id() {
        let mut known = Known::default();
        assert!(!knows(&known, HEAD));
        keep(&mut known, 1, HEAD);
        assert!(knows(&known, HEAD));
        assert!(knows(&known, &HEAD.replace("6a5d9d2c", "00000000")));
        assert!(knows(&known, &format!("{HEAD}GET /next")), "pipelined");
        assert!(known.find(2, HEAD.as_bytes()).is_none(), "another listener");
        for (what, other) in [
            ("6a5d9d2c", "6a5d9d2\r"),
            ("6a5d9d2c", "6a5d9d2 "),
            ("resource=r", "resource=s"),
            ("Metadata: true", "Metadata: tru"),
            ("Metadata: true", "Metadata: True"),
            ("*/*\r\n", "*/*\r\nVia: x\r\n"),
            ("GET", "PUT"),
        ] {
            assert!(!knows(&known, &HEAD.replace(what, other)), "{other}");
        }
        assert!(!knows(&known, &HEAD[..HEAD.len() - 1]), "not whole yet");
    }

    #[test]
    fn what_cannot_be_told_apart_is_not_kept() {
        let id = "x-ms-client-request-id: 6a5d9d2c-c70b-11f0-9d33-0242ac110002\r\n";
        let long = format!("X: {}\r\n\r\n", "x".repeat(MAX_KEPT_BYTES));
        for head in [
            HEAD.replace(id, &id.repeat(2)),
            HEAD.replace("6a5d9d2c", "no-digit"),
            HEAD.replace("\r\n\r\n", &format!("\r\n{long}")),
        ] {
            let mut known = Known::default();
            keep(&mut known, 1, &head);
            assert!(!knows(&known, &head), "{head}");
        }
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for_and_the_newest_stay() {
        let mut known = Known::default();
        let head = |line: &str, number| {
            let head = HEAD.replace("*/*", &format!("{number}"));
            head.replace("resource=r", &format!("resource={line}"))
        };
        for number in 0..100 {
            keep(&mut known, 1, &head("r", number));
            // Others, in sets of their own.
            for line in ["s", "t", "u"] {
                keep(&mut known, 1, &head(line, number));
            }
            assert!(knows(&known, &head("r", number)));
            assert!(number == 0 || knows(&known, &head("r", number - 1)));
        }
        let kept = (0..100).filter(|number| knows(&known, &head("r", *number)));
        assert!(kept.count() <= WAYS);
    }

    #[test]
    fn a_client_whose_heads_are_all_new_takes_nobodys_place() {
        let mut known = Known::default();
        keep(&mut known, 1, HEAD);
        for number in 0..100 {
            let head = HEAD.replace("*/*", &format!("{number}"));
            see(&mut known, 1, &head);
            assert!(!knows(&known, &head));
        }
        assert!(knows(&known, HEAD));
    }

    proptest! {
        #[test]
        fn what_is_known_reads_as_what_was_checked(at in 0..HEAD.len(), byte in any::<u8>()) {
            let mut known = Known::default();
            keep(&mut known, 1, HEAD);
            let mut other = HEAD.as_bytes().to_vec();
            other[at] = byte;
            if known.find(1, &other).is_none() {
                return Ok(());
            }
            let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
            let mut theirs = [(&b""[..], &b""[..]); MAX_HEADERS];
            let (head, _) = read(HEAD.as_bytes(), &mut headers).unwrap().unwrap();
            let (same, _) = read(&other, &mut theirs).expect("good").expect("whole");
            prop_assert_eq!((head.target, head.len), (same.target, same.len));
            let differ = headers.iter().zip(&theirs).filter(|(a, b)| a != b);
            let names: Vec<_> = differ.map(|(a, b)| (a.0, b.0)).collect();
            prop_assert!(names.iter().all(|names| *names == (REQUEST_ID, REQUEST_ID)));
        }
    }
}
