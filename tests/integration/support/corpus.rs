//! The corpus of good and bad HTTP in `tests/golden/http`, and a client that plays it on a socket.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// One case: bytes, and what must come back. `index.toml` says what each field means.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub why: String,
    pub bytes: Vec<u8>,
    pub listener: String,
    pub status: Vec<u16>,
    pub silent: bool,
    pub before: usize,
    pub closes: Closes,
    pub alone: bool,
    pub ends: bool,
}

/// What becomes of the connection behind the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closes {
    Yes,
    No,
    Either,
}

/// Reads the whole corpus; a file without a line in the index, or the other way round, panics.
pub fn load() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/http");
    let index = fs::read_to_string(folder.join("index.toml")).expect("the index");
    let index: toml::Table = index.parse().expect("TOML");
    assert_eq!(index["upstream_calls"].as_integer(), Some(0));
    let list = index["case"].as_array().expect("cases");
    let cases: Vec<_> = list.iter().map(|case| read_case(&folder, case)).collect();
    let files = fs::read_dir(&folder).expect("the folder").count();
    assert_eq!(files, cases.len() + 1, "each file has a line in the index");
    cases
}

fn read_case(folder: &Path, case: &toml::Value) -> Case {
    let text = |field: &str| case.get(field).and_then(toml::Value::as_str);
    let flag = |field: &str| case.get(field).is_some_and(|v| v.as_bool() == Some(true));
    let name = text("name").expect("a name").to_owned();
    let number = |value: &toml::Value| value.as_integer().and_then(|n| n.try_into().ok());
    let status = case["status"].as_array().expect("a list").iter();
    Case {
        why: text("why").expect("a reason").to_owned(),
        bytes: fs::read(folder.join(format!("{name}.http"))).expect("the case's bytes"),
        listener: text("listener").unwrap_or("default").to_owned(),
        status: status.map(|s| number(s).expect("a status")).collect(),
        silent: flag("silent"),
        before: case
            .get("before")
            .and_then(toml::Value::as_integer)
            .map_or(0, |n| n.try_into().expect("a count")),
        closes: match text("closes") {
            Some("yes") => Closes::Yes,
            Some("no") => Closes::No,
            Some("either") => Closes::Either,
            other => panic!("{name}: closes = {other:?}"),
        },
        alone: flag("alone"),
        ends: flag("ends"),
        name,
    }
}

/// The status given to an answer without a head, as HTTP/0.9 had it.
pub const HEADLESS: u16 = 9;

/// What came back.
#[derive(Debug)]
pub struct Seen {
    pub answers: Vec<(u16, Vec<u8>)>,
    /// The server ended the connection; else it was silent for as long as anybody waits.
    pub closed: bool,
}

impl Seen {
    /// The statuses in their order.
    pub fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(|(status, _)| *status).collect()
    }

    /// How many requests the server took for good ones.
    pub fn accepted(&self) -> usize {
        let good = |status: &u16| *status == HEADLESS || (200..300).contains(status);
        self.statuses().iter().filter(|s| good(s)).count()
    }
}

/// Sends bytes on a connection of their own and reads until the server closes, is silent for
/// `patience`, or has given `enough` answers.
pub fn play(
    address: SocketAddr,
    bytes: &[u8],
    ends: bool,
    enough: usize,
    patience: Duration,
) -> io::Result<Seen> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // A server may refuse and close before it has read everything; what it said counts.
    let _ = stream.write_all(bytes);
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    // Only the first request of a case is ever a HEAD.
    let head_only = bytes.starts_with(b"HEAD ");
    let (mut text, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let answers = split(&text, head_only, false);
        if answers.len() >= enough {
            return Ok(Seen {
                answers,
                closed: false,
            });
        }
        let closed = match stream.read(&mut chunk) {
            Ok(0) => true,
            Ok(count) => {
                text.extend_from_slice(&chunk[..count]);
                continue;
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        let answers = split(&text, head_only, true);
        return Ok(Seen { answers, closed });
    }
}

/// The whole answers in what was read; `over`: and what is left of another one.
fn split(mut text: &[u8], head_only: bool, over: bool) -> Vec<(u16, Vec<u8>)> {
    let mut answers = Vec::new();
    while !text.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        let head = match answer.parse(text) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => break,
            Err(_) => {
                answers.push((HEADLESS, text.to_vec()));
                break;
            }
        };
        let length = answer
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case("content-length"))
            .and_then(|h| str::from_utf8(h.value).ok()?.parse().ok());
        let status = answer.code.expect("a parsed head has a status");
        let body = match length {
            _ if status < 200 || (head_only && answers.is_empty()) => 0,
            Some(length) => length,
            None if over => text.len() - head,
            None => break,
        };
        let Some(end) = text.get(head..head + body) else {
            break;
        };
        answers.push((status, end.to_vec()));
        text = &text[head + body..];
    }
    answers
}
