//! Bytes of answers taken apart, so that two sides can be compared.

use std::path::Path;

use super::oracle::MARK;

/// One answer, so that two can be compared.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case, sorted, without those of the connection.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// One answer with what is looked at apart.
pub struct Seen {
    pub answer: Answer,
    pub date: Option<String>,
    pub closes: bool,
    /// By the handler, not by hyper itself.
    pub marked: bool,
}

/// The answers in a text.
pub struct Text {
    pub answers: Vec<Seen>,
    /// Bytes that are no part of them.
    pub left: usize,
}

impl Answer {
    /// Without the name of a key file, which each side has in a folder of its own.
    pub fn alike(&self) -> (u16, Vec<(&str, &str)>, &str) {
        let headers = self.headers.iter().map(|(name, value)| {
            let file = value.strip_prefix("Basic realm=").map(Path::new);
            let is_key = file.is_some_and(|file| file.extension() == Some("key".as_ref()));
            let value = if is_key { "a key file" } else { value };
            (name.as_str(), value)
        });
        (self.status, headers.collect(), &self.body)
    }
}

impl Seen {
    /// The seconds left that a token is told to have, where it is told.
    pub fn left_s(&self) -> Option<u64> {
        let (_, rest) = self.answer.body.split_once("\"expires_in\":\"")?;
        rest.split('"').next()?.parse().ok()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.answer.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Takes the answers to these requests apart, and one more: what refused the bytes behind them.
/// `heads` says which of the requests were a HEAD; whether that one was, nobody knows.
pub fn split(mut text: &[u8], heads: &[bool]) -> Result<Text, String> {
    let mut answers: Vec<Seen> = Vec::new();
    while !text.is_empty() && answers.len() <= heads.len() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = parsed.parse(text) else {
            return Err(format!("no answer: {}", text.escape_ascii()));
        };
        let status = parsed.code.expect("a status");
        if status < 200 {
            // Before the answer itself.
            text = &text[head..];
            continue;
        }
        let mut headers: Vec<_> = parsed
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value);
                (header.name.to_ascii_lowercase(), value.into_owned())
            })
            .collect();
        headers.sort();
        let mut take = |name: &str| {
            let at = headers.iter().position(|(known, _)| known == name)?;
            Some(headers.remove(at).1)
        };
        let (date, connection, mark) = (take("date"), take("connection"), take(MARK));
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(Ok(0), |(_, value)| value.parse::<usize>());
        let length = length.map_err(|error| error.to_string())?;
        let rest = &text[head..];
        let length = match heads.get(answers.len()) {
            Some(true) => 0,
            Some(false) if rest.len() < length => {
                return Err(format!("half a body: {}", text.escape_ascii()));
            }
            Some(false) => length,
            None => length.min(rest.len()),
        };
        let body = String::from_utf8_lossy(&rest[..length]).into_owned();
        answers.push(Seen {
            answer: Answer {
                status,
                headers,
                body: without_correlation(body),
            },
            date,
            closes: connection.as_deref() == Some("close"),
            marked: mark.is_some(),
        });
        text = &rest[length..];
    }
    let left = text.len();
    Ok(Text { answers, left })
}

/// Random, and of no meaning.
fn without_correlation(mut body: String) -> String {
    const FIELD: &str = "orrelationId\":\"";
    if let Some(at) = body.find(FIELD) {
        let start = at + FIELD.len();
        let id = body.get(start..start + 36).unwrap_or_default();
        let plain = id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if plain && !id.is_empty() {
            body.replace_range(start..start + 36, "id");
        }
    }
    body
}
