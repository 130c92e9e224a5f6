//! What can go wrong between us and a source, by class.

use std::time::Duration;

use super::settings::Kind;

/// Why there is no token. Never holds a token or a body, only the source's own error texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} (status {status:?})", class.as_str())]
pub struct FetchError {
    /// What happened.
    pub class: Class,
    /// The source's HTTP status, where it answered.
    pub status: Option<u16>,
    /// How long the source asked us to wait, bounded by `MAX_RETRY_AFTER`.
    pub retry_after: Option<Duration>,
    /// The source's `error` and `error_description`, shortened, where it sent them.
    pub detail: Option<(Box<str>, Box<str>)>,
    /// Nobody took the question, so that it is not about what was asked.
    pub unheard: bool,
}

/// The closed set of failures, for metrics, logs and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No connection, or it broke.
    Unreachable,
    /// No complete answer within the deadline.
    Timeout,
    /// 429.
    Throttled,
    /// 410: the source is being updated; it says within 70 s.
    Updating,
    /// 404: on IMDS an identity that has not yet propagated, or an update.
    NotFound,
    /// 400, 401, 403 and other 4xx: the question is wrong or not allowed.
    Denied,
    /// 5xx.
    ServerError,
    /// A status that no source documents, a redirect among them.
    UnexpectedStatus,
    /// A body longer than any token answer.
    TooLong,
    /// A body that is not the JSON object it should be, in UTF-8 and in no coding that was not asked
    /// for.
    Malformed,
    /// A token for another resource than asked.
    WrongResource,
    /// A token of another client than asked.
    WrongClient,
    /// A token that is already over, or ends absurdly late.
    BadExpiry,
    /// The source cannot be asked for this identity: nothing was sent.
    Unsupported,
    /// Arc's challenge names no file that we may read.
    BadChallenge,
    /// The federated token file cannot be read.
    NoAssertion,
    /// The source's certificate is not the one that it should be.
    Untrusted,
    /// The call was lost inside this process.
    Lost,
}

/// Whether asking again makes sense, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// A passing trouble.
    Soon,
    /// The answer will stand until somebody changes an assignment.
    Slowly,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 18] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Throttled,
        Self::Updating,
        Self::NotFound,
        Self::Denied,
        Self::ServerError,
        Self::UnexpectedStatus,
        Self::TooLong,
        Self::Malformed,
        Self::WrongResource,
        Self::WrongClient,
        Self::BadExpiry,
        Self::Unsupported,
        Self::BadChallenge,
        Self::NoAssertion,
        Self::Untrusted,
        Self::Lost,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Updating => "updating",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::ServerError => "server_error",
            Self::UnexpectedStatus => "unexpected_status",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::WrongResource => "wrong_resource",
            Self::WrongClient => "wrong_client",
            Self::BadExpiry => "bad_expiry",
            Self::Unsupported => "unsupported",
            Self::BadChallenge => "bad_challenge",
            Self::NoAssertion => "no_assertion",
            Self::Untrusted => "untrusted",
            Self::Lost => "lost",
        }
    }

    /// IMDS documents 404, 410, 429 and 5xx as passing, other 4xx as final.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            Self::Denied | Self::WrongResource | Self::WrongClient | Self::Unsupported => {
                Retry::Slowly
            }
            _ => Retry::Soon,
        }
    }

    /// The class of a status other than 200.
    #[must_use]
    pub fn of_status(kind: Kind, status: u16) -> Self {
        match status {
            // There the secret or its identity is unknown, for good (`protocols.md` §3.5).
            404 if kind == Kind::ServiceFabric => Self::Denied,
            404 => Self::NotFound,
            408 => Self::Timeout,
            410 => Self::Updating,
            429 => Self::Throttled,
            400..=499 => Self::Denied,
            500..=599 => Self::ServerError,
            _ => Self::UnexpectedStatus,
        }
    }
}

impl FetchError {
    /// A failure without an answer.
    #[must_use]
    pub fn of(class: Class) -> Self {
        Self {
            class,
            status: None,
            retry_after: None,
            detail: None,
            unheard: class == Class::Unreachable,
        }
    }
}
