//! What can become of a request, and how often it did.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 200, with a token that is right in every way that is checked.
    Right,
    /// A status other than 200.
    Refused(u16),
    /// 200 with what must not be there.
    Wrong(Wrong),
    /// No whole answer.
    Failed(Failed),
}

/// What is wrong with a 200. None of it must ever happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The token is for another resource than the one asked for.
    Audience,
    /// The token is right, or that cannot be told, but the answer names another resource.
    Resource,
    /// The token, or what the answer says of it, ended before it arrived.
    Expired,
    /// `expires_in` is off by more than a second, or is missing.
    ExpiresIn,
    /// It is no answer to a token request: no JSON, no token, no time.
    Malformed,
    /// An answer that nobody asked for.
    Unasked,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// Nobody took the connection.
    Connect,
    /// The link ended before the first byte of an answer.
    Closed,
    /// The link ended within an answer.
    Cut,
    /// What came is not HTTP.
    NotHttp,
    /// It took longer than the timeout.
    TimedOut,
    /// It was due, but until the end no link was free to send it.
    Unsent,
}

impl Outcome {
    /// Every outcome of a request on its way is told apart in the report by these names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Refused(_) => "refused",
            Self::Wrong(wrong) => wrong.as_str(),
            Self::Failed(failed) => failed.as_str(),
        }
    }
}

impl Wrong {
    /// Each of them.
    pub const ALL: [Self; 6] = [
        Self::Audience,
        Self::Resource,
        Self::Expired,
        Self::ExpiresIn,
        Self::Malformed,
        Self::Unasked,
    ];

    /// Its name in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audience => "audience",
            Self::Resource => "resource",
            Self::Expired => "expired",
            Self::ExpiresIn => "expires_in",
            Self::Malformed => "malformed",
            Self::Unasked => "unasked",
        }
    }
}

impl Failed {
    /// Each of them.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Closed,
        Self::Cut,
        Self::NotHttp,
        Self::TimedOut,
        Self::Unsent,
    ];

    /// Its name in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Cut => "cut",
            Self::NotHttp => "not_http",
            Self::TimedOut => "timed_out",
            Self::Unsent => "unsent",
        }
    }
}

/// How often each outcome was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Answers that were right.
    pub right: u64,
    /// Whole answers by status, right or wrong.
    pub by_status: BTreeMap<u16, u64>,
    /// What was wrong with answers of status 200: with each the first thing. An answer that nobody
    /// asked for counts here only.
    #[serde(deserialize_with = "wrong_by_name")]
    pub wrong: BTreeMap<&'static str, u64>,
    /// Requests without a whole answer, by why.
    #[serde(deserialize_with = "failed_by_name")]
    pub failed: BTreeMap<&'static str, u64>,
}

type ByName = BTreeMap<&'static str, u64>;

fn wrong_by_name<'de, D: Deserializer<'de>>(from: D) -> Result<ByName, D::Error> {
    by_name(from, &Wrong::ALL.map(Wrong::as_str))
}

fn failed_by_name<'de, D: Deserializer<'de>>(from: D) -> Result<ByName, D::Error> {
    by_name(from, &Failed::ALL.map(Failed::as_str))
}

fn by_name<'de, D: Deserializer<'de>>(from: D, names: &[&'static str]) -> Result<ByName, D::Error> {
    let read = BTreeMap::<String, u64>::deserialize(from)?;
    let known = names
        .iter()
        .filter_map(|name| Some((*name, *read.get(*name)?)));
    Ok(known.collect())
}

impl Counts {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        let status = match outcome {
            Outcome::Wrong(Wrong::Unasked) => {
                // It is the answer to no request.
                *self.wrong.entry(Wrong::Unasked.as_str()).or_default() += 1;
                return;
            }
            Outcome::Right | Outcome::Wrong(_) => 200,
            Outcome::Refused(status) => status,
            Outcome::Failed(failed) => {
                *self.failed.entry(failed.as_str()).or_default() += 1;
                return;
            }
        };
        *self.by_status.entry(status).or_default() += 1;
        match outcome {
            Outcome::Right => self.right += 1,
            Outcome::Wrong(wrong) => *self.wrong.entry(wrong.as_str()).or_default() += 1,
            _ => {}
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.right += other.right;
        for (status, count) in &other.by_status {
            *self.by_status.entry(*status).or_default() += count;
        }
        for (name, count) in &other.wrong {
            *self.wrong.entry(name).or_default() += count;
        }
        for (name, count) in &other.failed {
            *self.failed.entry(name).or_default() += count;
        }
    }

    /// Whole answers.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.by_status.values().sum()
    }

    /// Requests: whole answers, and those without.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.answers() + self.failed_in_all()
    }

    /// Whole answers with a status other than 200.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let refusals = self.by_status.iter().filter(|(status, _)| **status != 200);
        refusals.map(|(_, count)| count).sum()
    }

    /// Wrong answers of all sorts.
    #[must_use]
    pub fn wrong_in_all(&self) -> u64 {
        self.wrong.values().sum()
    }

    /// Requests without a whole answer, for whatever reason.
    #[must_use]
    pub fn failed_in_all(&self) -> u64 {
        self.failed.values().sum()
    }
}
