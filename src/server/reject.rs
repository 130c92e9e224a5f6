//! Every refusal, and what the caller sees of it.

use std::sync::Arc;
use std::time::Duration;

use super::head::BadHead;
use crate::authz::Denial;
use crate::authz::guard::Trespass;
use crate::protocol::{
    BadRequest, Complaint, Dialect, Methods, render_error, render_no_api_version,
};
use crate::upstream::{Class, FetchError};

/// Why a request gets no token.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The request should not have got here: a forged, forwarded or malformed one.
    Trespass(Trespass),
    /// Nothing lives at this path.
    NoRoute,
    /// The path takes another method.
    Method(Methods),
    /// No `Metadata: true`. Clients probe with this, so it is no error of anybody's.
    NoMetadata,
    /// No secret of a client, or none where the dialect asks for one.
    Unproven,
    /// Arc's challenge: read this file and come again.
    Challenged,
    /// Too many challenges are open.
    Challenges,
    /// The head or the framing of the body is not what it should be.
    BadHead(BadHead),
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
    /// The value of `Allow`, where it belongs to it.
    pub allow: Option<&'static str>,
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
            Self::NoRoute => "no_route",
            Self::Method(_) => "method",
            Self::Unproven => "unproven",
            Self::Challenged => "challenged",
            Self::Challenges => "challenges",
            Self::BadHead(bad) => bad.reason(),
            Self::NoMetadata => "no_metadata_header",
            Self::BadRequest(_) => "bad_request",
            Self::Denied(_) => "denied",
            Self::Full => "full",
            Self::Upstream(error) => error.class.as_str(),
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
        }
    }

    /// The answer in the shape of a dialect. `correlation` is a random number.
    #[must_use]
    pub fn render(&self, dialect: Dialect, correlation: u128) -> Rejection {
        let verdict = self.verdict();
        let complaint = Complaint {
            status: verdict.status,
            error: &verdict.error,
            description: &verdict.description,
            correlation,
        };
        let names_versions =
            dialect == Dialect::Imds && matches!(self, Self::BadRequest(BadRequest::NoApiVersion));
        let body = if names_versions {
            render_no_api_version()
        } else {
            render_error(dialect, &complaint)
        };
        Rejection {
            status: verdict.status,
            body,
            retry_after_s: verdict.retry_after_s,
            allow: verdict.allow,
            close: verdict.close,
        }
    }

    fn verdict(&self) -> Verdict {
        match self {
            Self::Trespass(trespass) => of_trespass(*trespass),
            Self::BadHead(bad) => {
                let (status, text) = bad.status_and_text();
                Verdict {
                    close: true,
                    ..Verdict::new(status, "invalid_request", text)
                }
            }
            Self::NoRoute => Verdict::new(
                404,
                "not_found",
                "There is no such endpoint on this listener",
            ),
            Self::Method(methods) => Verdict {
                allow: Some(methods.allow()),
                // Whatever the method's body may be, it is not read.
                close: true,
                ..Verdict::new(
                    405,
                    "method_not_allowed",
                    "The endpoint takes other methods",
                )
            },
            Self::NoMetadata => invalid("Required metadata header not specified"),
            Self::Unproven => Verdict::new(
                401,
                "unauthorized_client",
                "The secret header is missing or unknown",
            ),
            Self::Challenged => Verdict::new(
                401,
                "unauthorized_client",
                "Present the content of the key file",
            ),
            Self::Challenges => Verdict {
                retry_after_s: Some(1),
                ..Verdict::new(429, "too_many_requests", "Too many challenges are open")
            },
            Self::BadRequest(error @ (BadRequest::NoApiVersion | BadRequest::BadApiVersion)) => {
                Verdict::new(400, "invalid_api_version", &error.to_string())
            }
            Self::BadRequest(error) => invalid(&error.to_string()),
            Self::Denied(denial) => Verdict::new(403, "access_denied", &denial.to_string()),
            Self::Full => {
                unavailable("There is no room for one more token key or one more waiting caller")
            }
            Self::Upstream(error) => of_upstream(error),
            Self::TimedOut => unavailable("The upstream has not answered in time"),
            Self::Lost => unavailable("The request was interrupted"),
        }
    }
}

/// A refusal before it has a shape.
struct Verdict {
    status: u16,
    error: Box<str>,
    description: Box<str>,
    retry_after_s: Option<u64>,
    allow: Option<&'static str>,
    close: bool,
}

impl Verdict {
    fn new(status: u16, error: &str, description: &str) -> Self {
        Self {
            status,
            error: error.into(),
            description: description.into(),
            retry_after_s: None,
            allow: None,
            close: false,
        }
    }
}

fn invalid(description: &str) -> Verdict {
    Verdict::new(400, "invalid_request", description)
}

fn unavailable(description: &str) -> Verdict {
    Verdict {
        retry_after_s: Some(1),
        ..Verdict::new(503, "service_unavailable", description)
    }
}

fn of_trespass(trespass: Trespass) -> Verdict {
    let verdict = match trespass {
        Trespass::BadHost => invalid("The request needs one valid Host header"),
        Trespass::ForeignHost => {
            Verdict::new(403, "access_denied", "The Host header names another host")
        }
        Trespass::Forwarded => invalid("Forwarded requests are not accepted"),
        Trespass::Browser => Verdict::new(
            403,
            "access_denied",
            "Requests of browsers are not accepted",
        ),
        Trespass::Switching => invalid("Expect and Upgrade are not accepted"),
        Trespass::Body => invalid("The request must not have a body"),
    };
    Verdict {
        close: true,
        ..verdict
    }
}

/// The upstream's own 4xx as it was; a truthful 503 for everything that is not the caller's doing.
fn of_upstream(error: &FetchError) -> Verdict {
    // Not a second too early.
    let whole = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let asked = error.retry_after.map(whole);
    let theirs = matches!(
        error.class,
        Class::Denied | Class::NotFound | Class::Throttled | Class::Updating | Class::Unsupported
    );
    if let Some(status) = error.status.filter(|_| theirs) {
        let (name, text) = match &error.detail {
            Some((name, text)) => (&**name, &**text),
            None => ("unknown", "The upstream refused without a reason"),
        };
        let throttled = error.class == Class::Throttled;
        let retry_after_s = if throttled {
            Some(asked.unwrap_or(1))
        } else {
            asked
        };
        return Verdict {
            retry_after_s,
            ..Verdict::new(status, name, text)
        };
    }
    let text = format!("The upstream gave no token: {}", error.class.as_str());
    Verdict {
        retry_after_s: Some(asked.unwrap_or(1).max(1)),
        ..unavailable(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(class: Class, status: Option<u16>, wait_s: Option<u64>) -> Rejection {
        let error = FetchError {
            class,
            status,
            retry_after: wait_s.map(Duration::from_secs),
            detail: Some(("e".into(), "d".into())),
            unheard: false,
        };
        Refusal::Upstream(Arc::new(error)).render(Dialect::Imds, 0)
    }

    #[test]
    fn a_probe_without_the_header_gets_the_real_endpoints_words() {
        let rejection = Refusal::NoMetadata.render(Dialect::Imds, 0);
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
        let soon = Arc::new(FetchError {
            status: Some(429),
            retry_after: Some(Duration::from_millis(700)),
            ..FetchError::of(Class::Throttled)
        });
        let soon = Refusal::Upstream(soon).render(Dialect::Imds, 0);
        assert_eq!(soon.retry_after_s, Some(1), "not a second too early");
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
        assert!(
            Refusal::Trespass(Trespass::Body)
                .render(Dialect::Imds, 0)
                .close
        );
        assert!(!Refusal::NoMetadata.render(Dialect::Imds, 0).close);
    }
}
