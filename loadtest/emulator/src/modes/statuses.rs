//! Modes of the status: each that these endpoints are known to give, with and without a time to
//! come back, and answers whose status and body contradict each other.

use serde_json::{Value, json};

use super::Keep::{Either, No};
use super::{
    ALL, ALL_BUT_ENTRA, Group, IMDS_LIKE, Make, Mode, OF_2017, header, rows, send, status,
};
use crate::{FaultKind, Kind};

/// What each says at the endpoints that are played; their bodies are those of the kind.
const STATUSES: [(u16, &str); 13] = [
    (400, "the identity is not found, or the request is refused"),
    (401, "the caller is not authorised"),
    (403, "forbidden, or not in reach"),
    (404, "being updated, or the identity is not there yet"),
    (405, "the method is refused"),
    (408, "the request took too long"),
    (410, "being updated; back within 70 s"),
    (429, "too many requests"),
    (500, "the directory failed"),
    (501, "not implemented"),
    (502, "a gateway failed"),
    (503, "not available"),
    (504, "a gateway waited in vain"),
];

/// How a `Retry-After` may be written.
const RETRY_AFTERS: [(&str, &str, &str); 4] = [
    ("after-seconds", "7", "in 7 s"),
    ("after-date", "{date+7}", "at a date 7 s ahead"),
    ("after-absurd", "99999999999", "in 3000 years"),
    ("after-negative", "-5", "5 s ago"),
];

/// Every status with every way to say when to come back.
pub(super) fn statuses() -> Vec<Mode> {
    let mut table = Vec::new();
    for (code, about) in STATUSES {
        let name = format!("status-{code}");
        table.push(Mode::new(Group::Status, name, ALL, No, about, status(code)));
        for (suffix, value, when) in RETRY_AFTERS {
            let name = format!("status-{code}-{suffix}");
            let about = format!("{about}; come back {when}");
            let fault = header(&format!("Retry-After: {value}"), Some(code));
            table.push(Mode::new(Group::Status, name, ALL, No, about, fault));
        }
    }
    table
}

pub(super) fn contradictions() -> Vec<Mode> {
    let not_found = |kind: &Kind| match kind {
        Kind::ServiceFabric(_) => status(404),
        _ => status(400),
    };
    rows! { Group::Status;
        "retry-after-zero", ALL, No, "503, to be asked again at once" =>
            retry_after("Retry-After: 0");
        "retry-after-past", ALL, No, "503, to be asked again at a date a day ago" =>
            retry_after("Retry-After: {date-86400}");
        "retry-after-words", ALL, No, "503, to be asked again `soon`" =>
            retry_after("Retry-After: soon");
        "retry-after-twice", ALL, No, "503 with two times to come back" =>
            retry_after("Retry-After: 3\r\nRetry-After: 90");
        "invalid-resource", IMDS_LIKE, No, "400, the resource is not known in the tenant" =>
            body(400, &invalid_resource());
        "exception-as-200", OF_2017, No, "status 200 with an `ExceptionMessage` for a 503" =>
            body(200, &exception());
        "error-as-200", ALL, No, "status 200 with `error` and `error_description`" =>
            body(200, &json!({"error": "invalid_request", "error_description": "No"}));
        "token-as-500", ALL, No, "the right answer's body under status 500" => with_token(500);
        "token-as-400", ALL, No, "the right answer's body under status 400" => with_token(400);
        "status-201", ALL, Either, "the right answer under 201" => with_token(201);
        "status-206", ALL, No, "the right answer under 206, part of something" => with_token(206);
        "status-304", ALL, No, "nothing is new, to one who has nothing" => bare("304 Not Modified");
        "status-204", ALL, No, "a success without a body" => bare("204 No Content");
        "status-101", ALL, No, "a switch to a protocol that nobody asked for" =>
            bare("101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade");
        "status-600", ALL, No, "a status outside of all classes" =>
            bare("600 Beyond\r\nContent-Length: 0");
        "identity-not-found", ALL_BUT_ENTRA, No,
            "the identity is not found although it exists, as after an assignment" =>
            Make::ByKind(not_found);
    }
}

fn retry_after(line: &str) -> FaultKind {
    header(line, Some(503))
}

fn invalid_resource() -> Value {
    json!({
        "error": "invalid_resource",
        "error_description": "AADSTS500011: The resource principal was not found in the tenant.",
    })
}

/// As it was seen in an outage of App Service.
fn exception() -> Value {
    json!({
        "ExceptionMessage": "",
        "ErrorCode": "service_unavailable",
        "ServiceErrorCodes": null,
        "StatusCode": 503,
        "Message": null,
        "CorrelationId": "00000000-0000-4000-8000-000000000000",
    })
}

fn body(status: u16, value: &Value) -> FaultKind {
    FaultKind::Body {
        status,
        text: value.to_string(),
        content_type: None,
    }
}

fn with_token(status: u16) -> FaultKind {
    FaultKind::Rewrite {
        text: "{body}".to_owned(),
        status,
    }
}

/// A head and no body.
fn bare(status: &str) -> FaultKind {
    send(&format!(
        "HTTP/1.1 {status}\r\n{{lines}}Date: {{date}}\r\n\r\n"
    ))
}
