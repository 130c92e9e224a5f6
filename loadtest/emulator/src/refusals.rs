//! Every refusal of the token endpoint, and the status and body each one has.
//!
//! The wording is IMDS's own where it is known. Where it is not, a comment says "our words".

use serde_json::json;

use crate::http::Reply;

/// The api-versions IMDS lists when a request names none.
const NEWEST_VERSIONS: [&str; 3] = ["2021-12-13", "2021-11-15", "2021-11-01"];

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    MethodNotAllowed,
    MetadataHeaderMissing,
    ForwardedFor,
    BadQuery,
    ApiVersionMissing,
    ApiVersionUnknown(String),
    DuplicateParameter(String),
    SeveralSelectors,
    ResourceMissing,
    IdentityNotFound,
    MultipleIdentities,
    Throttled,
    NoSuchPath,
}

impl Refusal {
    /// The refusal as it goes over the wire.
    pub(crate) fn reply(&self) -> Reply {
        match self {
            Self::MethodNotAllowed => {
                // Our words; the status is documented.
                let description = "The requested HTTP verb is not supported by this endpoint";
                oauth_error(405, "invalid_request", description).with("Allow", "GET")
            }
            Self::MetadataHeaderMissing => oauth_error(
                400,
                "invalid_request",
                "Required metadata header not specified",
            ),
            // Our words; that it is refused is documented.
            Self::ForwardedFor => oauth_error(
                400,
                "invalid_request",
                "Requests with an X-Forwarded-For header are not accepted",
            ),
            // Our words.
            Self::BadQuery => oauth_error(
                400,
                "invalid_request",
                "The query string is not properly encoded",
            ),
            Self::ApiVersionMissing => {
                versions_error("api-version was not specified in the request")
            }
            // Our words, in the shape of the case above.
            Self::ApiVersionUnknown(_) => {
                versions_error("The api-version in the request is not supported")
            }
            // Our words; that it is refused is documented.
            Self::DuplicateParameter(name) => oauth_error(
                400,
                "invalid_request",
                &format!("Query parameter '{name}' is specified more than once"),
            ),
            // Our words.
            Self::SeveralSelectors => oauth_error(
                400,
                "invalid_request",
                "Only one of client_id, object_id and msi_res_id may be specified",
            ),
            // Our words.
            Self::ResourceMissing => oauth_error(
                400,
                "invalid_request",
                "Required query variable 'resource' is missing",
            ),
            Self::IdentityNotFound => oauth_error(400, "invalid_request", "Identity not found"),
            Self::MultipleIdentities => oauth_error(
                400,
                "invalid_request",
                "Multiple user assigned identities exist, please specify the clientId / \
                 resourceId of the identity in the token request",
            ),
            Self::Throttled => status_reply(429),
            Self::NoSuchPath => Reply::json(404, json!({"error": "Not found"}).to_string()),
        }
    }
}

/// The reply IMDS gives with a status, for refusals that have no cause in the request: planned
/// faults, and the limit on requests.
pub(crate) fn status_reply(status: u16) -> Reply {
    match status {
        400 => Refusal::IdentityNotFound.reply(),
        401 => oauth_error(
            401,
            "unauthorized_client",
            "The client is not authorized to request a token with this method",
        ),
        // Not from IMDS: the proxy of a container desktop says so, and clients look for the
        // last word.
        403 => Reply::text(
            403,
            "connecting to 169.254.169.254:80: connecting to 169.254.169.254:80: dial tcp \
             169.254.169.254:80: connectex: A socket operation was attempted to an unreachable \
             network.",
        ),
        404 | 410 => oauth_error(
            status,
            "invalid_request",
            "The identity endpoint is being updated, please retry",
        ),
        429 => oauth_error(
            429,
            "invalid_request",
            "Temporarily throttled, too many requests",
        ),
        500 => oauth_error(
            500,
            "unknown",
            "Failed to retrieve token from the Active directory. For details see logs.",
        ),
        _ => oauth_error(
            status,
            "temporarily_unavailable",
            "The service is not available, please retry",
        ),
    }
}

fn oauth_error(status: u16, error: &str, description: &str) -> Reply {
    let body = format!(
        r#"{{"error":{},"error_description":{}}}"#,
        json!(error),
        json!(description)
    );
    Reply::json(status, body)
}

fn versions_error(cause: &str) -> Reply {
    let error = format!("Bad request. {cause}. For more information refer to aka.ms/azureimds");
    let body = format!(
        r#"{{"error":{},"newest-versions":{}}}"#,
        json!(error),
        json!(NEWEST_VERSIONS)
    );
    Reply::json(400, body)
}
