//! Every refusal, and what the caller sees of it.

use std::sync::Arc;

use crate::authz::Denial;
use crate::authz::guard::Trespass;
use crate::protocol::imds::{self, BadRequest};
use crate::upstream::{Class, FetchError};

/// Why a request gets no token.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The request should not have got here: a forged, forwarded or malformed one.
    Trespass(Trespass),
    /// The target is not a path: absolute, authority or asterisk form.
    NotAPath,
    /// Nothing lives at this path.
    NoRoute,
    /// The path takes another method.
    Method,
    /// The target is longer than any client sends.
    TargetTooLong,
    /// More headers than any client sends.
    TooManyHeaders,
    /// No `Metadata: true`. Clients probe with this, so it is no error of anybody's.
    NoMetadata,
    /// The token request itself is wrong.
    BadRequest(BadRequest),
    /// Policy said no.
    Denied(Denial),
    /// No room for one more key or waiter.
    Full,
    /// The upstream had no token.
    Upstream(Arc<FetchError>),
    /// No answer within the time a caller may wait.
    TimedOut,
    /// The call was lost inside the process, or the process is stopping.
    Lost,
}

impl From<BadRequest> for Refusal {
    fn from(error: BadRequest) -> Self {
        Self::BadRequest(error)
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// A refusal in the words of the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status.
    pub status: u16,
    /// The JSON body.
    pub body: Vec<u8>,
    /// `Retry-After` in seconds.
    pub retry_after_s: Option<u64>,
    /// Whether `Allow: GET` belongs to it.
    pub allow_get: bool,
    /// Whether the connection ends with it: its framing cannot be trusted.
    pub close: bool,
}

impl Refusal {
    /// The metric's label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Trespass(Trespass::BadHost) => "bad_host",
            Self::Trespass(Trespass::ForeignHost) => "foreign_host",
            Self::Trespass(Trespass::Forwarded) => "forwarded",
            Self::Trespass(Trespass::Browser) => "browser",
            Self::Trespass(Trespass::Switching) => "switching",
            Self::Trespass(Trespass::Body) => "body",
            Self::NotAPath => "not_a_path",
            Self::NoRoute => "no_route",
            Self::Method => "method",
            Self::TargetTooLong => "target_too_long",
            Self::TooManyHeaders => "too_many_headers",
            Self::NoMetadata => "no_metadata_header",
            Self::BadRequest(_) => "bad_request",
            Self::Denied(_) => "denied",
            Self::Full => "full",
            Self::Upstream(error) => error.class.as_str(),
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
        }
    }

    /// The answer in the shape of IMDS.
    #[must_use]
    pub fn render(&self) -> Rejection {
        match self {
            Self::Trespass(trespass) => render_trespass(*trespass),
            Self::NotAPath => Rejection {
                close: true,
                ..invalid("The request target is not a path")
            },
            Self::NoRoute => Rejection::new(
                404,
                "not_found",
                "There is no such endpoint on this listener",
            ),
            Self::Method => Rejection {
                allow_get: true,
                ..Rejection::new(405, "method_not_allowed", "The endpoint takes GET only")
            },
            Self::TargetTooLong => Rejection {
                close: true,
                ..Rejection::new(414, "invalid_request", "The request target is too long")
            },
            Self::TooManyHeaders => Rejection {
                close: true,
                ..Rejection::new(431, "invalid_request", "There are too many headers")
            },
            Self::NoMetadata => invalid("Required metadata header not specified"),
            Self::BadRequest(BadRequest::NoApiVersion) => Rejection {
                body: imds::render_no_api_version(),
                ..invalid("")
            },
            Self::BadRequest(error) => invalid(&error.to_string()),
            Self::Denied(denial) => Rejection::new(403, "access_denied", &denial.to_string()),
            Self::Full => {
                unavailable("There is no room for one more token key or one more waiting caller")
            }
            Self::Upstream(error) => render_upstream(error),
            Self::TimedOut => unavailable("The upstream has not answered in time"),
            Self::Lost => unavailable("The request was interrupted"),
        }
    }
}

impl Rejection {
    fn new(status: u16, error: &str, description: &str) -> Self {
        Self {
            status,
            body: imds::render_error(error, description),
            retry_after_s: None,
            allow_get: false,
            close: false,
        }
    }
}

fn invalid(description: &str) -> Rejection {
    Rejection::new(400, "invalid_request", description)
}

fn unavailable(description: &str) -> Rejection {
    Rejection {
        retry_after_s: Some(1),
        ..Rejection::new(503, "service_unavailable", description)
    }
}

fn render_trespass(trespass: Trespass) -> Rejection {
    let rejection = match trespass {
        Trespass::BadHost => invalid("The request needs one valid Host header"),
        Trespass::ForeignHost => {
            Rejection::new(403, "access_denied", "The Host header names another host")
        }
        Trespass::Forwarded => invalid("Forwarded requests are not accepted"),
        Trespass::Browser => Rejection::new(
            403,
            "access_denied",
            "Requests of browsers are not accepted",
        ),
        Trespass::Switching => invalid("Expect and Upgrade are not accepted"),
        Trespass::Body => invalid("The request must not have a body"),
    };
    Rejection {
        close: true,
        ..rejection
    }
}

/// The upstream's own 4xx as it was; a truthful 503 for everything that is not the caller's doing.
fn render_upstream(error: &FetchError) -> Rejection {
    let asked = error.retry_after.map(|wait| wait.as_secs());
    if let (
        Class::Denied | Class::NotFound | Class::Throttled | Class::Updating,
        Some(status),
        detail,
    ) = (error.class, error.status, &error.detail)
    {
        let (name, text) = match detail {
            Some((name, text)) => (&**name, &**text),
            None => ("unknown", "The upstream refused without a reason"),
        };
        let retry_after_s = if error.class == Class::Throttled {
            Some(asked.unwrap_or(1))
        } else {
            asked
        };
        Rejection {
            retry_after_s,
            ..Rejection::new(status, name, text)
        }
    } else {
        let text = format!("The upstream gave no token: {}", error.class.as_str());
        Rejection {
            retry_after_s: Some(asked.unwrap_or(1).max(1)),
            ..unavailable(&text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn upstream(class: Class, status: Option<u16>, wait_s: Option<u64>) -> Rejection {
        let error = FetchError {
            class,
            status,
            retry_after: wait_s.map(Duration::from_secs),
            detail: Some(("e".into(), "d".into())),
        };
        Refusal::Upstream(Arc::new(error)).render()
    }

    #[test]
    fn a_probe_without_the_header_gets_the_real_endpoints_words() {
        let rejection = Refusal::NoMetadata.render();
        assert_eq!(rejection.status, 400);
        assert_eq!(
            rejection.body,
            b"{\"error\":\"invalid_request\",\
              \"error_description\":\"Required metadata header not specified\"}"
        );
    }

    #[test]
    fn the_upstreams_own_refusals_pass_unchanged() {
        let denied = upstream(Class::Denied, Some(400), None);
        assert_eq!((denied.status, denied.retry_after_s), (400, None));
        assert_eq!(
            denied.body,
            b"{\"error\":\"e\",\"error_description\":\"d\"}"
        );
        let throttled = upstream(Class::Throttled, Some(429), Some(7));
        assert_eq!((throttled.status, throttled.retry_after_s), (429, Some(7)));
        assert_eq!(upstream(Class::NotFound, Some(404), None).status, 404);
    }

    #[test]
    fn troubles_of_the_upstream_are_a_503_that_says_when_to_come_back() {
        for class in [
            Class::ServerError,
            Class::Timeout,
            Class::Unreachable,
            Class::Malformed,
        ] {
            let rejection = upstream(class, Some(500), None);
            assert_eq!(
                (rejection.status, rejection.retry_after_s),
                (503, Some(1)),
                "{class:?}"
            );
        }
    }

    #[test]
    fn a_request_whose_framing_is_in_doubt_ends_its_connection() {
        assert!(Refusal::Trespass(Trespass::Body).render().close);
        assert!(!Refusal::NoMetadata.render().close);
    }
}
