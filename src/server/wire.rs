//! Answers as bytes.

use super::reject::Rejection;
use crate::protocol::Body;

/// An HTTP date: always 29 bytes.
pub(super) type Date = [u8; 29];

/// The date of a second since the epoch.
pub(super) fn date(unix_s: u64) -> Date {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_s.min(MAX_DATE_S));
    let text = httpdate::fmt_http_date(at);
    text.as_bytes().try_into().unwrap_or([b' '; 29])
}

/// The last second of the year 9999, behind which HTTP has no dates.
const MAX_DATE_S: u64 = 253_402_300_799;

/// Room for [`answer`].
pub(super) fn answer_len(parts: Body<'_>) -> usize {
    256 + parts.iter().map(|part| part.len()).sum::<usize>()
}

/// 200 with a finished body. The buffer has room for it, so that it does not grow.
pub(super) fn answer(out: &mut Vec<u8>, parts: Body<'_>, date: &Date, close: bool) {
    let length = parts.iter().map(|part| part.len()).sum();
    head(out, 200, JSON, length, date, close);
    out.extend_from_slice(b"\r\n");
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A refusal, with a challenge where there is one.
pub(super) fn rejection(
    out: &mut Vec<u8>,
    rejection: &Rejection,
    challenge: Option<&str>,
    date: &Date,
    close: bool,
) {
    head(
        out,
        rejection.status,
        JSON,
        rejection.body.len(),
        date,
        close,
    );
    if let Some(seconds) = rejection.retry_after_s {
        line(out, "Retry-After", &seconds.to_string());
    }
    if let Some(methods) = rejection.allow {
        line(out, "Allow", methods);
    }
    if let Some(challenge) = challenge {
        line(out, "WWW-Authenticate", challenge);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&rejection.body);
}

/// A refusal for people: one line of text, and the end of the connection.
pub(super) fn plain(status: u16, text: &str, date: &Date) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + text.len());
    head(&mut out, status, TEXT, text.len() + 1, date, true);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
    out
}

/// Where the body of an answer begins.
pub(super) fn body_start(answer: &[u8]) -> usize {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(answer.len(), |end| end + 4)
}

const JSON: &[u8] = b"application/json; charset=utf-8";
const TEXT: &[u8] = b"text/plain; charset=utf-8";

fn head(out: &mut Vec<u8>, status: u16, kind: &[u8], length: usize, date: &Date, close: bool) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(crate::protocol::Digits::new(status.into()).as_bytes());
    out.extend_from_slice(reason(status));
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(kind);
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\nPragma: no-cache\r\nContent-Length: ");
    out.extend_from_slice(crate::protocol::Digits::new(length as u64).as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\n");
    if close {
        line(out, "Connection", "close");
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static [u8] {
    match status {
        200 => b" OK",
        400 => b" Bad Request",
        401 => b" Unauthorized",
        403 => b" Forbidden",
        404 => b" Not Found",
        405 => b" Method Not Allowed",
        408 => b" Request Timeout",
        410 => b" Gone",
        411 => b" Length Required",
        413 => b" Content Too Large",
        414 => b" URI Too Long",
        429 => b" Too Many Requests",
        431 => b" Request Header Fields Too Large",
        500 => b" Internal Server Error",
        503 => b" Service Unavailable",
        _ => b" ",
    }
}
