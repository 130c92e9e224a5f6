//! A request taken apart, and changed in a way that a client, a proxy or an attacker might.

use fastrand::Rng;
use foretoken::server::head::{Framing, MAX_HEADERS, read, read_chunks};

use super::ours::REFUSED;

/// A request in parts. Its framing headers are written anew.
#[derive(Clone)]
pub struct Message {
    method: String,
    path: String,
    /// The pairs behind the path, `None` where there is no question mark.
    query: Option<Vec<String>>,
    version: &'static str,
    headers: Vec<Line>,
    form: Option<Vec<String>>,
    chunked: bool,
}

#[derive(Clone)]
struct Line {
    name: String,
    value: String,
    /// Before and behind the value.
    space: [&'static str; 2],
}

const PLAIN_HEADERS: [(&str, &str); 9] = [
    ("Accept-Language", "de, en;q=0.5"),
    ("Cookie", "a=b"),
    ("TE", "trailers"),
    ("Sec-Fetch-Mode", "cors"),
    ("Authorization", "Bearer x"),
    ("Authorization", "Basic x"),
    ("X-Empty", ""),
    ("Metadata-Flavor", "true"),
    ("Keep-Alive", "timeout=5"),
];
const REFUSED_HEADERS: [(&str, &str); 14] = [
    ("X-Forwarded-For", "10.0.0.1"),
    ("X-Forwarded-New", ""),
    ("Forwarded", "for=10.0.0.1"),
    ("Via", "1.1 proxy"),
    ("X-Original-URL", "/"),
    ("Max-Forwards", "3"),
    ("Origin", "https://example.com"),
    ("Referer", "https://example.com/"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Expect", "100-continue"),
    ("Upgrade", "h2c"),
    ("Host", "localhost"),
    ("Metadata", "true"),
    ("Content-Length", "0"),
];
const VALUES: [&str; 12] = [
    "true",
    "True",
    "TRUE",
    "false",
    "",
    "localhost",
    "127.0.0.1:80",
    "[::1]",
    "metadata",
    "localhost.",
    "example.com",
    "69418689F1E342DD946CB82994CDA3CA",
];
const PATHS: [&str; 10] = [
    "/metadata/identity/oauth2/token",
    "//metadata/identity/oauth2/token",
    "/metadata/identity/oauth2/token/",
    "/Metadata/identity/oauth2/token",
    "/metadata/identity/oauth2/../oauth2/token",
    "/metadata/instance",
    "/msi/token",
    "/MSI/token/",
    "/oauth2/token",
    "/",
];
const METHODS: [&str; 8] = [
    "GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE",
];
const PAIRS: [&str; 18] = [
    "",
    "=",
    "x",
    "x=y",
    "x=%00",
    "x=%zz",
    "x=a+b",
    "bypass_cache=true",
    "bypass_cache=maybe",
    "token_sha256_to_refresh=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "xms_cc=cp1",
    "xms_cc=cp1%2Ccp2",
    "client_id=aaaaaaaa-1111-4222-8333-444444444444",
    "client_id=AAAAAAAA-1111-4222-8333-444444444444",
    "clientid=aaaaaaaa-1111-4222-8333-444444444444",
    "object_id=bbbbbbbb-1111-4222-8333-444444444444",
    "resource=https://other.example",
    "api-version=2017-09-01",
];
const RESOURCES: [&str; 6] = [
    "https://vault.azure.net",
    "https%3A%2F%2Fvault.azure.net",
    "https%3a%2f%2fvault.azure.net/",
    "%22quoted%22%5C",
    "",
    REFUSED,
];
/// Bytes that readers of HTTP disagree about.
const ODD: &[u8] = b"\r\n\t \0:;,#%?&=+\"\\\x7f\x80\xff/A0";

impl Message {
    /// Takes a good request apart.
    pub fn read(bytes: &[u8]) -> Self {
        let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
        let (head, count) = read(bytes, &mut headers)
            .expect("a good request")
            .expect("a whole one");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("plain text");
        let pairs = |text: &str| text.split('&').map(str::to_owned).collect::<Vec<_>>();
        let rest = &bytes[head.len..];
        let mut form = rest.to_vec();
        if head.body == Framing::Chunked {
            let whole = read_chunks(rest, &mut form);
            assert_eq!(whole, Ok(Some(rest.len())));
        }
        let target = text(head.target);
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(pairs(query))),
            None => (&*target, None),
        };
        let lines = headers[..count].iter().map(|(name, value)| Line {
            name: text(name),
            value: text(value),
            space: [" ", ""],
        });
        Self {
            method: text(head.method),
            path: path.to_owned(),
            query,
            version: "HTTP/1.1",
            headers: lines.filter(|line| !line.frames()).collect(),
            form: (head.body != Framing::None).then(|| pairs(&text(&form))),
            chunked: head.body == Framing::Chunked,
        }
    }

    pub fn bytes(&self, rng: &mut Rng) -> Vec<u8> {
        let query = self
            .query
            .as_ref()
            .map(|pairs| format!("?{}", pairs.join("&")));
        let (path, query) = (&self.path, query.unwrap_or_default());
        let mut text = format!("{} {path}{query} {}\r\n", self.method, self.version);
        for Line { name, value, space } in &self.headers {
            text += &format!("{name}:{}{value}{}\r\n", space[0], space[1]);
        }
        let Some(form) = self.form.as_ref().map(|pairs| pairs.join("&")) else {
            return (text + "\r\n").into_bytes();
        };
        if !self.chunked {
            return format!("{text}Content-Length: {}\r\n\r\n{form}", form.len()).into_bytes();
        }
        text += "Transfer-Encoding: chunked\r\n\r\n";
        let (mut rest, mut chunks) = (&*form, String::new());
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at(rng.usize(1..=rest.len()));
            chunks += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
            rest = more;
        }
        (text + &chunks + "0\r\n\r\n").into_bytes()
    }

    /// One change.
    pub fn mutate(&mut self, rng: &mut Rng) {
        match rng.u8(..22) {
            0 => rng.shuffle(&mut self.headers),
            1 => self.any_header(rng, |line, rng| {
                line.name = match rng.u8(..3) {
                    0 => line.name.to_lowercase(),
                    1 => line.name.to_uppercase(),
                    _ => other_case(&line.name, rng),
                };
            }),
            2 => self.any_header(rng, |line, rng| {
                line.space = [0, 1].map(|_| *rng.choice(&["", " ", "  ", "\t"]).expect("some"));
            }),
            3 => self.add_header(PLAIN_HEADERS[rng.usize(..PLAIN_HEADERS.len())], rng),
            4 => self.add_header(REFUSED_HEADERS[rng.usize(..REFUSED_HEADERS.len())], rng),
            5 => {
                if let Some(at) = pick(self.headers.len(), rng) {
                    self.headers.remove(at);
                }
            }
            6 => {
                if let Some(line) = rng.choice(&self.headers).cloned() {
                    self.headers.insert(rng.usize(..=self.headers.len()), line);
                }
            }
            7 => self.any_header(rng, |line, rng| {
                VALUES[rng.usize(..VALUES.len())].clone_into(&mut line.value);
            }),
            8 => {
                let close = ["close", "keep-alive", "Keep-Alive, Close"];
                let value = *rng.choice(&close).expect("some");
                self.add_header(("Connection", value), rng);
            }
            9 => {
                let pairs = self.pairs(rng);
                rng.shuffle(pairs);
            }
            10 => self.any_pair(rng, |pair, rng| *pair = escape(pair, rng, true)),
            11 => self.any_pair(rng, |pair, rng| *pair = escape(pair, rng, false)),
            12 => self.any_pair(rng, |pair, rng| *pair = other_case(pair, rng)),
            13 => {
                let pairs = self.pairs(rng);
                if let Some(at) = pick(pairs.len(), rng) {
                    pairs.remove(at);
                }
            }
            14 => {
                let pairs = self.pairs(rng);
                if let Some(pair) = rng.choice(&*pairs).cloned() {
                    pairs.insert(rng.usize(..=pairs.len()), pair);
                }
            }
            15 | 16 => {
                let pairs = self.pairs(rng);
                let pair = PAIRS[rng.usize(..PAIRS.len())].to_owned();
                pairs.insert(rng.usize(..=pairs.len()), pair);
            }
            17 => {
                let value = RESOURCES[rng.usize(..RESOURCES.len())];
                let pairs = self.pairs(rng).iter_mut();
                for pair in pairs.filter(|pair| pair.starts_with("resource=")) {
                    *pair = format!("resource={value}");
                }
            }
            18 => METHODS[rng.usize(..METHODS.len())].clone_into(&mut self.method),
            19 => PATHS[rng.usize(..PATHS.len())].clone_into(&mut self.path),
            20 => self.version = "HTTP/1.0",
            _ => match (&self.form, rng.u8(..3)) {
                (Some(_), 0) => self.form = None,
                (Some(_), _) => self.chunked = !self.chunked,
                (None, 0) => self.form = Some(vec![]),
                (None, 1) => self.form = Some(vec!["resource=r".to_owned()]),
                (None, _) => {
                    "POST".clone_into(&mut self.method);
                    self.form = self.query.take();
                }
            },
        }
    }

    /// The pairs of the form or the query.
    fn pairs(&mut self, rng: &mut Rng) -> &mut Vec<String> {
        match &mut self.form {
            Some(form) if rng.u8(..4) > 0 => form,
            _ => self.query.get_or_insert_default(),
        }
    }

    fn any_pair(&mut self, rng: &mut Rng, change: impl FnOnce(&mut String, &mut Rng)) {
        let pairs = self.pairs(rng);
        if let Some(at) = pick(pairs.len(), rng) {
            change(&mut pairs[at], rng);
        }
    }

    fn any_header(&mut self, rng: &mut Rng, change: impl FnOnce(&mut Line, &mut Rng)) {
        if let Some(at) = pick(self.headers.len(), rng) {
            change(&mut self.headers[at], rng);
        }
    }

    fn add_header(&mut self, (name, value): (&str, &str), rng: &mut Rng) {
        let line = Line {
            name: name.to_owned(),
            value: value.to_owned(),
            space: [" ", ""],
        };
        self.headers.insert(rng.usize(..=self.headers.len()), line);
    }
}

impl Line {
    fn frames(&self) -> bool {
        let framing = ["content-length", "transfer-encoding"];
        framing
            .iter()
            .any(|name| self.name.eq_ignore_ascii_case(name))
    }
}

/// A place in a list, unless it is empty.
fn pick(len: usize, rng: &mut Rng) -> Option<usize> {
    (len > 0).then(|| rng.usize(..len))
}

/// With one letter of the name, or of the value, as an escape.
fn escape(pair: &str, rng: &mut Rng, of_value: bool) -> String {
    let middle = pair.find('=').map_or(0, |at| at + 1);
    let range = if of_value {
        middle..pair.len()
    } else {
        0..middle.saturating_sub(1)
    };
    if range.is_empty() || !pair.is_ascii() {
        return pair.to_owned();
    }
    let at = rng.usize(range);
    let code = pair.as_bytes()[at];
    let code = if rng.bool() {
        format!("%{code:02x}")
    } else {
        format!("%{code:02X}")
    };
    [&pair[..at], &code, &pair[at + 1..]].concat()
}

/// With one letter in the other case.
fn other_case(text: &str, rng: &mut Rng) -> String {
    let at = rng.usize(..text.len().max(1));
    let other = |(nth, letter): (usize, char)| match letter {
        letter if nth != at => letter,
        letter if letter.is_ascii_uppercase() => letter.to_ascii_lowercase(),
        letter => letter.to_ascii_uppercase(),
    };
    text.char_indices().map(other).collect()
}

/// One byte too many, too few or another one, half a line's end, or the rest cut off.
pub fn spoil(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.usize(..bytes.len());
    let odd = ODD[rng.usize(..ODD.len())];
    match rng.u8(..5) {
        0 => bytes[at] = odd,
        1 => bytes.insert(at, odd),
        2 => drop(bytes.remove(at)),
        3 => bytes.truncate(at),
        _ => {
            let ends: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] == b'\r').collect();
            if let Some(end) = rng.choice(&ends) {
                bytes.remove(*end);
            }
        }
    }
}
