//! Modes of what headers say about the body, and of the body as a whole.

use super::Keep::{Either, No, Yes};
use super::{
    ALL, ALL_BUT_ENTRA, Group, Mode, edit, header, rewrite, rows, send, send_then, status,
};
use crate::FaultKind;
use crate::script::Step::Close;

const USUAL: &str = "{lines}Date: {date}\r\n";

/// The right answer but for these lines, each with its end, in place of type and date.
fn answer(lines: &str, length: &str, body: &str) -> FaultKind {
    send(&format!(
        "HTTP/1.1 200 OK\r\n{lines}Content-Length: {length}\r\n\r\n{body}"
    ))
}

/// The right answer with another date line, or none.
fn dated(line: &str) -> FaultKind {
    answer(&format!("{{lines}}{line}"), "{length}", "{body}")
}

fn typed(line: &str) -> FaultKind {
    answer(&format!("{line}Date: {{date}}\r\n"), "{length}", "{body}")
}

pub(super) fn headers() -> Vec<Mode> {
    rows! { Group::Header;
        "redirect-self", ALL, No, "302 to where the request went" =>
            header("Location: {url}", Some(302));
        "redirect-elsewhere", ALL, No, "302 to another address" =>
            header("Location: http://127.0.0.1:9/elsewhere", Some(302));
        "redirect-307", ALL, No, "307 to where the request went" =>
            header("Location: {url}", Some(307));
        "redirect-nowhere", ALL, No, "308 without a place to go to" => status(308);
        "set-cookie", ALL, Yes, "the right answer with a cookie" =>
            header("Set-Cookie: session=1; Path=/", None);
        "type-text", ALL, Either, "the right body as `text/plain`" =>
            typed("Content-Type: text/plain\r\n");
        "type-html", ALL, Either, "the right body as `text/html`" =>
            typed("Content-Type: text/html; charset=utf-8\r\n");
        "type-missing", ALL, Either, "the right body without a type" => typed("");
        "html", ALL, No, "status 200 with a page of HTML" => FaultKind::Html;
        "gzip", ALL, Either, "the right body in gzip, unasked" =>
            answer(&format!("{USUAL}Content-Encoding: gzip\r\n"), "{gzip_length}", "{gzip}");
        "gzip-unnamed", ALL, No, "the right body in gzip, and nothing that says so" =>
            answer(USUAL, "{gzip_length}", "{gzip}");
        "gzip-named", ALL, No, "the right body as it is, called gzip" =>
            answer(&format!("{USUAL}Content-Encoding: gzip\r\n"), "{length}", "{body}");
        "date-5m-ahead", ALL, Yes, "`Date` is 5 minutes ahead" => dated("Date: {date+300}\r\n");
        "date-5m-behind", ALL, Yes, "`Date` is 5 minutes behind" => dated("Date: {date-300}\r\n");
        "date-1d-ahead", ALL, Yes, "`Date` is a day ahead" => dated("Date: {date+86400}\r\n");
        "date-1d-behind", ALL, Yes, "`Date` is a day behind" => dated("Date: {date-86400}\r\n");
        "date-missing", ALL, Yes, "the right answer without a `Date`" => dated("");
        "date-words", ALL, Either, "`Date` says `today`" => dated("Date: today\r\n");
        "date-twice", ALL, Either, "two dates, a day apart" =>
            dated("Date: {date}\r\nDate: {date-86400}\r\n");
    }
}

pub(super) fn bodies() -> Vec<Mode> {
    rows! { Group::Body;
        "body-empty", ALL, No, "status 200 and no body" => rewrite("");
        "json-invalid", ALL, No, "a body that is not JSON" => rewrite("{'access_token': x}");
        "json-truncated", ALL, No, "the first half of the body, with the right length" =>
            rewrite("{half}");
        "json-array", ALL, No, "the right object in a list" => rewrite("[{body}]");
        "json-string", ALL, No, "a JSON string" => rewrite("\"access_token\"");
        "json-number", ALL, No, "a JSON number" => rewrite("42");
        "json-null", ALL, No, "a JSON null" => rewrite("null");
        "json-empty-object", ALL, No, "an object without members" => rewrite("{}");
        "json-nested", ALL, No, "the right object inside another" => rewrite("{\"token\":{body}}");
        "json-deep", ALL, No, "a hundred thousand lists within each other" =>
            rewrite(&"[".repeat(100_000));
        "json-nan", ALL, No, "a member with the value NaN" => rewrite("{\"x\":NaN,{members}}");
        "json-trailing-comma", ALL, No, "a comma after the last member" => rewrite("{{members},}");
        "trailing-junk", ALL, No, "the right object and junk behind it" => rewrite("{body}junk");
        "trailing-object", ALL, No, "the right object twice" => rewrite("{body}{body}");
        "trailing-nul", ALL, No, "the right object and a NUL" => rewrite("{body}{byte 0}");
        "blanks-around", ALL, Yes, "spaces and line ends around the object" =>
            rewrite(" \r\n\t{body}\r\n");
        "bom", ALL, Either, "a byte order mark before the object" =>
            rewrite("{byte 239}{byte 187}{byte 191}{body}");
        "bad-utf-8", ALL, No, "a member that is not UTF-8" =>
            rewrite("{\"x\":\"{byte 255}{byte 254}\",{members}}");
        "utf-16", ALL, No, "two bytes for each character" =>
            rewrite("{byte 255}{byte 254}{{byte 0}\"{byte 0}a{byte 0}\"{byte 0}:{byte 0}");
        "token-twice", ALL, No, "two tokens that differ" =>
            rewrite("{\"access_token\":\"another\",{members}}");
        "member-twice", ALL, Either, "an unknown member twice" =>
            rewrite("{\"x\":1,\"x\":2,{members}}");
        "expires-on-twice", ALL_BUT_ENTRA, No, "two ends that differ, the later one first" =>
            rewrite("{\"expires_on\":\"4102444800\",{members}}");
        "resource-twice", ALL_BUT_ENTRA, No, "two resources that differ" =>
            rewrite("{\"resource\":\"https://elsewhere.invalid\",{members}}");
        "extra-members", ALL, Yes, "members that nobody knows" =>
            rewrite("{\"x\":{\"y\":[1,2,{}]},\"z\":null,{members}}");
        "huge-body", ALL, Either, "2 MiB of an unknown member beside the right ones" =>
            rewrite("{\"padding\":\"{pad 2097152}\",{members}}");
        "huge-token", ALL, No, "a token of 1 MiB" =>
            edit([("access_token", "x".repeat(1 << 20).into())]);
        "huge-junk", ALL, No, "4 MiB that are not JSON" => rewrite("{pad 4194304}");
        "endless-body", ALL, No, "8 MiB, and no length" =>
            send_then("HTTP/1.1 200 OK\r\n{lines}\r\n{\"padding\":\"{pad 8388608}", Close);
    }
}
