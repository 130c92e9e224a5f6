//! One stream to both sides, and what the answers say.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use foretoken::clock::{Clock, Crank, UnixMs};
use foretoken::protocol::{Dialect, recognise};
use foretoken::server::head::{Framing, MAX_HEADERS, read, read_chunks};
use tempfile::TempDir;

use super::answers::{Seen, split};
use super::oracle::Oracle;
use super::ours::{END_S, Ours, START, common};
use super::streams::{ARC, ARC_KEY, CHALLENGE, Stream};

/// Between two streams: so long that calls never use up the budget, and that the digits that count
/// down are others each time.
const STEP_MS: u64 = 1100;

/// Both sides, with the same settings and one clock.
pub struct Pair {
    ours: Ours,
    oracle: Oracle,
    spoken: Vec<Vec<Dialect>>,
    clock: Clock,
    crank: Crank,
    _folders: [TempDir; 2],
}

/// What was seen.
#[derive(Default)]
pub struct Tally {
    streams: usize,
    /// Answers that were compared, by dialect and status.
    equal: BTreeMap<(&'static str, u16), usize>,
    /// Requests that our reader refused and hyper took.
    pub refused_by_us: usize,
    /// Requests that our reader took and hyper refused.
    pub refused_by_hyper: usize,
    pub refused_by_both: usize,
    /// Streams that end in the middle of a request.
    cut: usize,
    pub differences: Vec<String>,
}

/// A request that our reader accepts.
struct Accepted {
    dialect: &'static str,
    is_head: bool,
}

/// How a stream ends for our reader.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
    Refused,
}

impl Pair {
    pub fn start() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
        let settings = [0, 1].map(|side: usize| common(folders[side].path()));
        let (clock, crank) = Clock::cranked(START);
        let listeners = &settings[0].server.listeners;
        let spoken = listeners.iter().map(|one| one.dialects.clone()).collect();
        Self {
            ours: Ours::start(&settings[0], &clock),
            oracle: Oracle::start(&settings[1], &clock),
            spoken,
            clock,
            crank,
            _folders: folders,
        }
    }

    pub fn stop(self) {
        self.ours.stop();
        self.oracle.stop();
    }

    pub fn play(&mut self, stream: &Stream, tally: &mut Tally) {
        self.crank.advance(STEP_MS);
        tally.streams += 1;
        let Stream { listener, .. } = *stream;
        let ask = |bytes: &[u8]| {
            [
                self.ours.send(listener, bytes),
                self.oracle.send(listener, bytes),
            ]
        };
        // Each side has key files of its own.
        let keys = (listener == ARC && holds(&stream.bytes, ARC_KEY)).then(|| {
            ask(CHALLENGE).map(|text| {
                let seen = split(&text, &[false]).expect("a challenge").answers;
                let realm = seen
                    .first()
                    .and_then(|seen| seen.header("www-authenticate"));
                key_in(realm.expect("a challenge"))
            })
        });
        let [our_bytes, their_bytes] = match &keys {
            None => [stream.bytes.clone(), stream.bytes.clone()],
            Some(keys) => [0, 1].map(|side: usize| with_key(&stream.bytes, &keys[side])),
        };
        let (accepted, end) = classify(&our_bytes, &self.spoken[listener]);
        let heads: Vec<bool> = accepted.iter().map(|request| request.is_head).collect();
        let ours = self.ours.send(listener, &our_bytes);
        let theirs = self.oracle.send(listener, &their_bytes);
        let now = self.clock.now();
        let noted = split(&ours, &heads).and_then(|ours| match ours.left {
            0 => {
                let theirs = split(&theirs, &heads)?.answers;
                tally.note(&accepted, &end, &ours.answers, &theirs, now)
            }
            left => Err(format!("{left} bytes too many")),
        });
        if let Err(complaint) = noted {
            tally.differences.push(format!(
                "{}: {complaint}\nsent to listener {listener}: {}\n",
                stream.name,
                our_bytes.escape_ascii()
            ));
        }
    }
}

impl Tally {
    pub fn compared(&self) -> usize {
        self.equal.values().sum()
    }

    pub fn of(&self, dialect: &str, status: u16) -> usize {
        let found = self.equal.iter();
        let found = found.filter(|((name, code), _)| *name == dialect && *code == status);
        found.map(|(_, count)| count).sum()
    }

    pub fn of_status(&self, status: u16) -> usize {
        let found = self.equal.iter().filter(|((_, code), _)| *code == status);
        found.map(|(_, count)| count).sum()
    }

    fn note(
        &mut self,
        accepted: &[Accepted],
        end: &End,
        ours: &[Seen],
        theirs: &[Seen],
        now: UnixMs,
    ) -> Result<(), String> {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now.as_secs()));
        let left_s = UnixMs(END_S * 1000).since(now) / 1000;
        for (at, request) in accepted.iter().enumerate() {
            let Some(our) = ours.get(at) else {
                return Err(format!("request {at} is accepted and not answered"));
            };
            if our.date.as_deref() != Some(&date) {
                return Err(format!("answer {at} is dated {:?}, not {date}", our.date));
            }
            // Both sides leave these digits to the cache.
            if our.left_s().is_some_and(|told| told != left_s) {
                return Err(format!("answer {at} counts down to another end"));
            }
            let Some(their) = theirs.get(at).filter(|their| their.marked) else {
                self.refused_by_hyper += 1;
                return Ok(());
            };
            if our.answer.alike() != their.answer.alike() {
                let (our, their) = (&our.answer, &their.answer);
                return Err(format!("answer {at}\nours:  {our:?}\nhyper: {their:?}"));
            }
            let status = our.answer.status;
            *self.equal.entry((request.dialect, status)).or_default() += 1;
            if our.closes {
                // Whatever came behind it is no request any more.
                return match ours.len() {
                    len if len == at + 1 => Ok(()),
                    len => Err(format!("{len} answers, of which number {at} is the last")),
                };
            }
        }
        match end {
            End::Whole | End::Cut if ours.len() > accepted.len() => {
                return Err(format!("{} answers to {}", ours.len(), accepted.len()));
            }
            End::Whole => {}
            End::Cut => self.cut += 1,
            End::Refused => {
                let last = &ours[accepted.len()..];
                let fits = |one: &Seen| one.closes && (400..500).contains(&one.answer.status);
                if last.len() != 1 || !fits(&last[0]) {
                    return Err("a refused head has other than one refusal".to_owned());
                }
                let taken = theirs.get(accepted.len()).is_some_and(|their| their.marked);
                if taken {
                    self.refused_by_us += 1;
                } else {
                    self.refused_by_both += 1;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} streams, {} answers compared; refused by our reader alone {}, by hyper alone {}, by \
             both {}; {} streams end in the middle",
            self.streams,
            self.compared(),
            self.refused_by_us,
            self.refused_by_hyper,
            self.refused_by_both,
            self.cut
        )?;
        for ((dialect, status), count) in &self.equal {
            write!(f, " {dialect} {status}: {count};")?;
        }
        Ok(())
    }
}

/// What our reader makes of a stream, by itself.
fn classify(mut bytes: &[u8], spoken: &[Dialect]) -> (Vec<Accepted>, End) {
    let mut accepted = Vec::new();
    while !bytes.is_empty() {
        let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
        let head = match read(bytes, &mut headers) {
            Ok(Some((head, _))) => head,
            Ok(None) => return (accepted, End::Cut),
            Err(_) => return (accepted, End::Refused),
        };
        let rest = &bytes[head.len..];
        let body = match (head.method, head.body) {
            (b"POST", Framing::Chunked) => match read_chunks(rest, &mut Vec::new()) {
                Ok(Some(length)) => length,
                Ok(None) => return (accepted, End::Cut),
                Err(_) => return (accepted, End::Refused),
            },
            (b"POST", Framing::Length(length)) if rest.len() < length => {
                return (accepted, End::Cut);
            }
            (b"POST", Framing::Length(length)) => length,
            _ => 0,
        };
        let mut parts = head.target.splitn(2, |byte| *byte == b'?');
        let path = parts.next().unwrap_or_default();
        let dialect = recognise(spoken, path, parts.next().unwrap_or_default());
        accepted.push(Accepted {
            dialect: dialect.map_or("none", Dialect::as_str),
            is_head: head.method == b"HEAD",
        });
        let unread =
            head.method != b"POST" && !matches!(head.body, Framing::None | Framing::Length(0));
        if !head.keep_alive || unread {
            return (accepted, End::Whole);
        }
        bytes = &rest[body..];
    }
    (accepted, End::Whole)
}

fn key_in(realm: &str) -> Vec<u8> {
    let path = realm.strip_prefix("Basic realm=").expect("a challenge");
    fs::read(Path::new(path)).expect("the key file that it names")
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn with_key(bytes: &[u8], key: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest
        .windows(ARC_KEY.len())
        .position(|window| window == ARC_KEY)
    {
        parts.extend_from_slice(&rest[..at]);
        parts.extend_from_slice(key);
        rest = &rest[at + ARC_KEY.len()..];
    }
    parts.extend_from_slice(rest);
    parts
}
