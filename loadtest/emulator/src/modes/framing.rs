//! Modes of the head and of the length: where an answer starts, and where it ends.

use super::Keep::{Either, No, Yes};
use super::{ALL, Group, Mode, rows, script, send, send_then};
use crate::script::Step::{Close, Hang, Send};

const ANSWER: &str = "{head}\r\n{body}";
/// What follows the first line of the right answer.
const USUAL: &str = "{lines}Date: {date}\r\nContent-Length: {length}\r\n\r\n{body}";
const GLUED: &str =
    "HTTP/1.1 200 OK\r\n{lines}Content-Length: 24\r\n\r\n{\"access_token\":\"glued\"}";
const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
/// The frame with which a server begins HTTP/2: of type 4, empty, for stream 0.
const SETTINGS_FRAME: &str =
    "{byte 0}{byte 0}{byte 0}{byte 4}{byte 0}{byte 0}{byte 0}{byte 0}{byte 0}";
/// A chunk of one space, which JSON allows, and one with the body.
const CHUNKS: &str = "1\r\n \r\n{hex_length}\r\n{body}\r\n";

/// The right head but for what says where the body ends, and the right body.
fn length(line: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{{lines}}Date: {{date}}\r\n{line}\r\n\r\n{{body}}")
}

/// The right answer in chunks, with lines more, and an end.
fn chunked(lines: &str, end: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{{lines}}Date: {{date}}\r\n{lines}Transfer-Encoding: chunked\r\n\r\n\
         {CHUNKS}{end}"
    )
}

/// The right answer under another first line.
fn first_line(line: &str) -> String {
    format!("{line}\r\n{USUAL}")
}

/// The right answer with header lines more, each with its end.
fn with_lines(lines: &str) -> String {
    format!("{{head}}{lines}\r\n{{body}}")
}

pub(super) fn lengths() -> Vec<Mode> {
    rows! { Group::Framing;
        "length-too-long", ALL, No, "100 bytes fewer come than announced" =>
            send_then(&length("Content-Length: {length+100}"), Close);
        "length-too-long-open", ALL, No, "100 bytes fewer come than announced, and nothing after" =>
            send_then(&length("Content-Length: {length+100}"), Hang);
        "length-too-short", ALL, No, "100 bytes more come than announced" =>
            send(&length("Content-Length: {length-100}"));
        "length-zero", ALL, No, "no body announced, and one that comes" =>
            send(&length("Content-Length: 0"));
        "length-twice", ALL, Either, "the right length on two lines" =>
            send(&length("Content-Length: {length}\r\nContent-Length: {length}"));
        "length-twice-differing", ALL, No, "two lengths" =>
            send(&length("Content-Length: {length}\r\nContent-Length: {length-1}"));
        "length-negative", ALL, No, "a length of -1" => send(&length("Content-Length: -1"));
        "length-words", ALL, No, "a length in letters" => send(&length("Content-Length: many"));
        "length-overflow", ALL, No, "a length of 22 digits" =>
            send_then(&length("Content-Length: 9999999999999999999999"), Close);
        "length-huge", ALL, No, "a length of a terabyte" =>
            send_then(&length("Content-Length: 1099511627776"), Close);
        "length-missing", ALL, Either, "no length: the body ends where the connection does" =>
            send_then(&length("Connection: close"), Close);
        "length-and-chunked", ALL, Either, "a length, and chunks beside it" =>
            send(&chunked("Content-Length: 3\r\n", "0\r\n\r\n"));
        "chunked", ALL, Yes, "the right answer in chunks" => send(&chunked("", "0\r\n\r\n"));
        "chunked-trailer", ALL, Either, "the right answer in chunks, and a trailer" =>
            send(&chunked("Trailer: X-Sum\r\n", "0\r\nX-Sum: 7\r\n\r\n"));
        "chunked-extension", ALL, Either, "chunks, the last with an extension" =>
            send(&chunked("", "0;name=value\r\n\r\n"));
        "chunked-bad-size", ALL, No, "a chunk with a size that is no number" =>
            send_then(&chunked("", "zz\r\nmore\r\n0\r\n\r\n"), Close);
        "chunked-overflow", ALL, No, "a chunk with a size of 20 digits" =>
            send_then(&chunked("", "ffffffffffffffffffff\r\nmore\r\n0\r\n\r\n"), Close);
        "chunked-no-end", ALL, No, "chunks without the last one" =>
            send_then(&chunked("", ""), Close);
        "chunked-cut", ALL, No, "closed within a chunk" =>
            send_then(&chunked("", "ff\r\nmore"), Close);
        "coding-unknown", ALL, No, "a transfer coding that does not exist" =>
            send_then(&length("Transfer-Encoding: squeezed"), Close);
    }
}

pub(super) fn heads() -> Vec<Mode> {
    rows! { Group::Framing;
        "status-line-broken", ALL, No, "a first line that is none" =>
            send_then(&first_line("HTPP/1.1 OK 200"), Close);
        "status-line-short", ALL, No, "a status of two digits" =>
            send_then(&first_line("HTTP/1.1 20 OK"), Close);
        "status-line-no-reason", ALL, Either, "a first line that ends after the status" =>
            send(&first_line("HTTP/1.1 200"));
        "empty-line-first", ALL, Either, "an empty line before the answer" =>
            send(&format!("\r\n{ANSWER}"));
        "junk-first", ALL, No, "a line of junk before the answer" =>
            send_then(&format!("junk\r\n{ANSWER}"), Close);
        "http-3-7", ALL, No, "a version that does not exist" =>
            send_then(&first_line("HTTP/3.7 200 OK"), Close);
        "http-0-9", ALL, No, "a body without a head" => send_then("{body}", Close);
        "http-1-0", ALL, Either, "HTTP/1.0 with a length, then closed" =>
            send_then(&first_line("HTTP/1.0 200 OK"), Close);
        "http-1-0-no-length", ALL, Either, "HTTP/1.0: the body ends with the connection" =>
            send_then("HTTP/1.0 200 OK\r\n{lines}\r\n{body}", Close);
        "http-2", ALL, No, "the server's half of HTTP/2's preface" =>
            send_then(SETTINGS_FRAME, Close);
        "continue-first", ALL, Yes, "`100 Continue`, then the right answer" =>
            send(&format!("HTTP/1.1 100 Continue\r\n\r\n{ANSWER}"));
        "early-hints", ALL, Yes, "`103 Early Hints`, then the right answer" =>
            send(&format!("{HINT}{ANSWER}"));
        "early-hints-1000", ALL, Either, "a thousand `103 Early Hints`, then the right answer" =>
            send(&format!("{}{ANSWER}", HINT.repeat(1000)));
        "early-hints-only", ALL, No, "`103 Early Hints`, then nothing" => send_then(HINT, Hang);
        "second-answer", ALL, Either, "another answer glued to the right one" =>
            send(&format!("{ANSWER}{GLUED}"));
        "second-answer-later", ALL, Either, "another answer before the next question" =>
            script([Send(ANSWER.to_owned()), Send(GLUED.to_owned())]);
        "huge-header", ALL, Either, "a header of 256 KiB" =>
            send(&with_lines("X-Padding: {pad 262144}\r\n"));
        "many-headers", ALL, Either, "a thousand headers" =>
            send(&with_lines(&"X-Padding: x\r\n".repeat(1000)));
        "endless-head", ALL, No, "8 MiB of a header that does not end" =>
            send_then("HTTP/1.1 200 OK\r\nX-Padding: {pad 8388608}", Close);
        "header-no-colon", ALL, No, "a header line without a colon" =>
            send(&with_lines("X-Broken\r\n"));
        "header-nul", ALL, No, "a header value with a NUL" =>
            send(&with_lines("X-Broken: a{byte 0}b\r\n"));
        "header-bare-cr", ALL, Either, "a header value with a carriage return" =>
            send(&with_lines("X-Broken: a{byte 13}b\r\n"));
        "header-folded", ALL, Either, "a header folded onto a second line" =>
            send(&with_lines("X-Folded: a\r\n b\r\n"));
        "header-bare-lf", ALL, Either, "lines that end in LF alone" =>
            send("HTTP/1.1 200 OK\nContent-Length: {length}\n\n{body}");
        "header-not-ascii", ALL, Yes, "a header value in UTF-8" =>
            send(&with_lines("X-Name: fähre\r\n"));
    }
}
