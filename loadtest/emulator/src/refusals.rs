//! Every refusal of a token endpoint, and the status and body each one has.
//!
//! The wording is IMDS's own where it is known. Where it is not, a comment says "our words". A
//! kind that is known to say it in other words has them in its file.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::claims::random_bytes;
use crate::fields::Fields;
use crate::identities::guid;
use crate::kind::Kind;
use crate::reply::Reply;
use crate::time::{self, calendar};

/// The api-versions IMDS lists when a request names none.
const NEWEST_VERSIONS: [&str; 3] = ["2021-12-13", "2021-11-15", "2021-11-01"];

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// With the methods that are allowed.
    MethodNotAllowed(String),
    MetadataHeaderMissing,
    ForwardedFor,
    /// With the header it should have been in.
    SecretMissing(&'static str),
    SecretWrong,
    NotAForm,
    BadQuery,
    ApiVersionMissing,
    ApiVersionUnknown(String),
    DuplicateParameter(String),
    SeveralSelectors,
    ResourceMissing,
    IdentityNotFound,
    MultipleIdentities,
    Throttled,
    /// With the path and query that were asked for.
    NoSuchPath(String),
    /// Arc: with the path of the file to read.
    Challenge(String),
    /// Arc: the file could not be written.
    NoKeyFile,
    /// What only one kind has to say.
    Own(Words),
}

/// The status, code and message of a refusal, before they are put into a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    pub status: u16,
    /// A word for programs; App Service has none.
    pub code: &'static str,
    pub message: Cow<'static, str>,
}

impl Words {
    pub(crate) fn new(
        status: u16,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }
}

/// The JSON object in which a kind tells its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorShape {
    /// `{"error","error_description"}`
    OAuth,
    /// `{"statusCode","message","correlationId"}`
    CamelCase,
    /// `{"StatusCode","Message","CorrelationId"}`
    PascalCase,
    /// Status 200, and `{"ExceptionMessage","ErrorCode","ServiceErrorCodes","StatusCode",
    /// "Message","CorrelationId"}`
    ExceptionAs200,
    /// `{"error":{"code","message"}}`
    Nested,
    /// `{"error":{"correlationId","code","message"}}`
    NestedWithId,
    /// `{"error","error_description","error_codes","timestamp","trace_id","correlation_id",
    /// "error_uri"}`; the message starts with an `AADSTS` number.
    Entra,
}

impl ErrorShape {
    pub(crate) fn reply(self, words: &Words) -> Reply {
        let Words {
            status,
            code,
            message,
        } = words;
        let (message, correlation_id) = (message.as_ref(), guid(random_bytes()));
        let fields = Fields::default();
        let fields = match self {
            Self::OAuth => fields
                .with("error", *code)
                .with("error_description", message),
            Self::CamelCase => fields
                .with("statusCode", *status)
                .with("message", message)
                .with("correlationId", correlation_id),
            Self::PascalCase => fields
                .with("StatusCode", *status)
                .with("Message", message)
                .with("CorrelationId", correlation_id),
            // An outage, as it was seen: it says so in the code alone.
            Self::ExceptionAs200 if *status >= 500 => {
                exception_fields("", "service_unavailable", *status, &correlation_id)
            }
            Self::ExceptionAs200 => exception_fields(message, code, *status, &correlation_id),
            Self::Nested => fields.with("code", *code).with("message", message),
            Self::NestedWithId => fields
                .with("correlationId", correlation_id)
                .with("code", *code)
                .with("message", message),
            Self::Entra => entra_fields(code, message, &correlation_id),
        };
        let body = match self {
            Self::Nested | Self::NestedWithId => format!(r#"{{"error":{}}}"#, fields.to_json()),
            _ => fields.to_json(),
        };
        let status = match self {
            Self::ExceptionAs200 => 200,
            _ => *status,
        };
        Reply::json(status, body)
    }
}

fn exception_fields(message: &str, code: &str, status: u16, correlation_id: &str) -> Fields {
    Fields::default()
        .with("ExceptionMessage", message)
        .with("ErrorCode", code)
        .with("ServiceErrorCodes", Value::Null)
        .with("StatusCode", status)
        .with("Message", Value::Null)
        .with("CorrelationId", correlation_id)
}

/// As Entra spells it: the number at the start of the message, once more by itself. A message
/// without one gets that of a transient error.
fn entra_fields(code: &str, message: &str, correlation_id: &str) -> Fields {
    let number = message
        .strip_prefix("AADSTS")
        .and_then(|rest| rest.split_once(':')?.0.parse::<u32>().ok());
    let (number, message) = match number {
        Some(number) => (number, message.to_owned()),
        None => (90_033, format!("AADSTS90033: {message}.")),
    };
    let it = calendar(time::unix_ms() / 1000);
    let timestamp = format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
        it.year, it.month, it.day, it.hour, it.minute, it.second
    );
    let trace_id = guid(random_bytes());
    let description = format!(
        "{message} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
    );
    Fields::default()
        .with("error", code)
        .with("error_description", description)
        .with("error_codes", json!([number]))
        .with("timestamp", timestamp)
        .with("trace_id", trace_id)
        .with("correlation_id", correlation_id)
        .with(
            "error_uri",
            format!("https://login.microsoftonline.com/error?code={number}"),
        )
}

impl Refusal {
    /// The refusal as it goes over the wire.
    pub(crate) fn reply(&self, kind: &Kind) -> Reply {
        let words = kind.words(self).unwrap_or_else(|| self.words());
        match (kind, self) {
            (Kind::Imds, Self::ApiVersionMissing | Self::ApiVersionUnknown(_)) => {
                versions_error(&words.message)
            }
            (Kind::Imds, Self::NoSuchPath(_)) => {
                Reply::json(words.status, json!({"error": words.message}).to_string())
            }
            _ => {
                let reply = kind.rules().errors.reply(&words);
                match self {
                    Self::MethodNotAllowed(methods) => reply.with("Allow", methods),
                    Self::Challenge(path) => {
                        reply.with("WWW-Authenticate", format!("Basic realm={path}"))
                    }
                    _ => reply,
                }
            }
        }
    }

    fn words(&self) -> Words {
        let invalid = |message: &'static str| Words::new(400, "invalid_request", message);
        match self {
            // Our words; the status is documented.
            Self::MethodNotAllowed(_) => Words::new(
                405,
                "invalid_request",
                "The requested HTTP verb is not supported by this endpoint",
            ),
            Self::MetadataHeaderMissing => invalid("Required metadata header not specified"),
            // Our words; that it is refused is documented.
            Self::ForwardedFor => {
                invalid("Requests with an X-Forwarded-For header are not accepted")
            }
            // Our words, and a guess at the status.
            Self::SecretMissing(header) => Words::new(
                401,
                "unauthorized_client",
                format!("The header {header} is missing"),
            ),
            Self::SecretWrong => Words::new(
                401,
                "unauthorized_client",
                "The secret is not the right one",
            ),
            // Our words.
            Self::NotAForm => invalid("The body is not of type application/x-www-form-urlencoded"),
            // Our words.
            Self::BadQuery => invalid("The query string is not properly encoded"),
            Self::ApiVersionMissing => invalid("api-version was not specified in the request"),
            // Our words, in the shape of the case above.
            Self::ApiVersionUnknown(_) => {
                invalid("The api-version in the request is not supported")
            }
            // Our words; that it is refused is documented.
            Self::DuplicateParameter(name) => Words::new(
                400,
                "invalid_request",
                format!("Query parameter '{name}' is specified more than once"),
            ),
            // Our words.
            Self::SeveralSelectors => {
                invalid("Only one of client_id, object_id and msi_res_id may be specified")
            }
            // Our words.
            Self::ResourceMissing => invalid("Required query variable 'resource' is missing"),
            Self::IdentityNotFound => invalid("Identity not found"),
            Self::MultipleIdentities => invalid(
                "Multiple user assigned identities exist, please specify the clientId / \
                 resourceId of the identity in the token request",
            ),
            Self::Throttled => words_of_status(429),
            Self::NoSuchPath(_) => Words::new(404, "not_found", "Not found"),
            // Our words; a library fails on a challenge without a JSON body.
            Self::Challenge(_) => Words::new(
                401,
                "unauthorized",
                "Present the content of the key file named in the challenge",
            ),
            Self::NoKeyFile => Words::new(500, "unknown", "The key file cannot be written"),
            Self::Own(words) => words.clone(),
        }
    }
}

/// The reply a kind gives with a status, for refusals that have no cause in the request: planned
/// faults, and the limit on requests.
pub(crate) fn status_reply(kind: &Kind, status: u16) -> Reply {
    match (kind, status) {
        // Not from IMDS: the proxy of a container desktop says so, and clients look for the
        // last word.
        (Kind::Imds, 403) => Reply::text(
            403,
            "connecting to 169.254.169.254:80: connecting to 169.254.169.254:80: dial tcp \
             169.254.169.254:80: connectex: A socket operation was attempted to an unreachable \
             network.",
        ),
        (Kind::ServiceFabric(_), 400) => Refusal::ResourceMissing.reply(kind),
        (Kind::ServiceFabric(_), 404) | (_, 400) => Refusal::IdentityNotFound.reply(kind),
        _ => kind.rules().errors.reply(&words_of_status(status)),
    }
}

fn words_of_status(status: u16) -> Words {
    match status {
        401 => Words::new(
            401,
            "unauthorized_client",
            "The client is not authorized to request a token with this method",
        ),
        404 | 410 => Words::new(
            status,
            "invalid_request",
            "The identity endpoint is being updated, please retry",
        ),
        429 => Words::new(
            429,
            "invalid_request",
            "Temporarily throttled, too many requests",
        ),
        500 => Words::new(
            500,
            "unknown",
            "Failed to retrieve token from the Active directory. For details see logs.",
        ),
        _ => Words::new(
            status,
            "temporarily_unavailable",
            "The service is not available, please retry",
        ),
    }
}

fn versions_error(cause: &str) -> Reply {
    let error = format!("Bad request. {cause}. For more information refer to aka.ms/azureimds");
    let body = Fields::default()
        .with("error", error)
        .with("newest-versions", json!(NEWEST_VERSIONS));
    Reply::json(400, body.to_json())
}
