//! What is asked: of whom, how often, by which links, as which clients, for which keys.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};

use crate::heads::Client;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Target {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    /// `IP:PORT`, with or without `http://` before it, or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let address = text.strip_prefix("http://").unwrap_or(text);
        let address = address.strip_suffix('/').unwrap_or(address);
        let parsed = address.parse().map(Self::Tcp);
        parsed.map_err(|_| format!("`{text}` is neither IP:PORT nor unix:PATH"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// When the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// Closed loop: as soon as the answer to the last one is there. A server that stalls is asked
    /// less, so this measures what it can do, and not what callers would feel.
    Closed,
    /// Open loop: so many a second, whatever the answers do. Latency counts from the moment at
    /// which a request was to be sent, also if no link was free then.
    Open {
        /// Requests a second, of all threads together.
        per_s: u32,
    },
}

impl Pace {
    /// Open at that rate, closed without one.
    #[must_use]
    pub fn at(rate: Option<u32>) -> Self {
        rate.map_or(Self::Closed, |per_s| Self::Open { per_s })
    }
}

/// How long a link lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// As long as the server lets it.
    Alive,
    /// For one request.
    OneRequest,
}

impl Keep {
    /// A link for each request, or as few as do.
    #[must_use]
    pub fn of(connect_each: bool) -> Self {
        if connect_each {
            Self::OneRequest
        } else {
            Self::Alive
        }
    }
}

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Length {
    /// Requests are begun for so long.
    For(Duration),
    /// This many requests.
    Requests(u64),
}

/// The whole of it. All counts and rates are those of all processes and threads together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Where requests go.
    pub target: Target,
    /// When the next request is sent.
    pub pace: Pace,
    /// How long a link lives.
    pub keep: Keep,
    /// No request before so much time has passed since the begin of all loads.
    pub after: Duration,
    /// In a closed loop, how long a link rests between an answer and the next request: this long, give
    /// or take half of it at random. The first request of each link is sent at once.
    pub think: Option<Duration>,
    /// Links at the same time.
    pub links: usize,
    /// Requests on the way on one link at the same time.
    pub pipeline: usize,
    /// Whose heads are sent, each with its weight.
    pub clients: Vec<(Client, u32)>,
    /// How many keys (resources) are asked for.
    pub keys: usize,
    /// The exponent of Zipf's law: the key of rank `r` is asked for in proportion to `1 / r^skew`.
    /// 0 asks for all alike, 1 is what caches usually see.
    pub skew: f64,
    /// Time before the measured part, with the same load; its answers are checked and counted apart.
    pub warm_up: Duration,
    /// How much is asked after that.
    pub length: Length,
    /// How long an answer is waited for. Its link is closed then.
    pub timeout: Duration,
    /// Processes that send and read, as the clients of a dense machine are; 0 is none but this one.
    pub processes: usize,
    /// After how long each of these ends, and a new one takes its place, with new links. Their ends
    /// are spread over this time.
    pub restart_every: Option<Duration>,
    /// Threads that send and read, in each process.
    pub threads: usize,
    /// The CPUs that the threads are bound to, in turn; none leaves that to the kernel.
    pub cpus: Vec<usize>,
    /// The seed of keys, clients and request ids.
    pub seed: u64,
    /// Width of the intervals in which the load is also told one by one; none are for 0.
    pub interval: Duration,
}

impl Plan {
    /// Most links of one run: what one source address has ports for, with room to spare.
    const MAX_LINKS: usize = 28_000;
    /// Most keys. Each costs a head for each client, and an answer to compare with.
    const MAX_KEYS: usize = 100_000;
    const MAX_PIPELINE: usize = 1_000;
    const MAX_TIMEOUT: Duration = Duration::from_mins(10);
    /// Most client processes. Each is a copy of this program.
    const MAX_PROCESSES: usize = 500;
    /// The shortest life of a client process: to start one takes some hundredths of a second.
    const MIN_RESTART: Duration = Duration::from_millis(100);

    /// How long requests are begun, warm-up included, if that is a time.
    #[must_use]
    pub(crate) fn lasts(&self) -> Option<Duration> {
        match self.length {
            Length::For(length) => Some(self.warm_up + length),
            Length::Requests(_) => None,
        }
    }

    /// Threads of all processes.
    #[must_use]
    pub(crate) fn workers(&self) -> usize {
        self.threads * self.processes.max(1)
    }

    /// One closed loop on one kept link, as one client, for one key, for a second.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            pace: Pace::Closed,
            keep: Keep::Alive,
            after: Duration::ZERO,
            think: None,
            links: 1,
            pipeline: 1,
            clients: vec![(Client::default(), 1)],
            keys: 1,
            skew: 0.0,
            warm_up: Duration::ZERO,
            length: Length::For(Duration::from_secs(1)),
            timeout: Duration::from_secs(30),
            processes: 0,
            restart_every: None,
            threads: 1,
            cpus: Vec::new(),
            seed: 1,
            interval: Duration::ZERO,
        }
    }

    /// Whether it can be carried out.
    ///
    /// # Errors
    /// With a sentence that says what is out of range.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=Self::MAX_LINKS).contains(&self.links),
            "links must be 1 to {}",
            Self::MAX_LINKS
        );
        ensure!(
            (1..=self.links).contains(&self.threads),
            "threads must be 1 or more, and no more than links"
        );
        ensure!(
            self.processes <= Self::MAX_PROCESSES && self.workers() <= self.links,
            "processes must be at most {}, and their threads no more than links",
            Self::MAX_PROCESSES
        );
        ensure!(
            (1..=Self::MAX_KEYS).contains(&self.keys),
            "keys must be 1 to {}",
            Self::MAX_KEYS
        );
        ensure!(
            (1..=Self::MAX_PIPELINE).contains(&self.pipeline),
            "pipeline must be 1 to {}",
            Self::MAX_PIPELINE
        );
        ensure!(
            (0.0..=10.0).contains(&self.skew),
            "skew must be between 0 and 10"
        );
        ensure!(
            !self.timeout.is_zero() && self.timeout <= Self::MAX_TIMEOUT,
            "the timeout must be more than 0 and at most 10 minutes"
        );
        if self.clients.iter().all(|(_, weight)| *weight == 0) {
            bail!("at least one client needs a weight");
        }
        if self.keep == Keep::OneRequest && self.pipeline > 1 {
            bail!("a link of one request cannot be pipelined");
        }
        if self.pace == (Pace::Open { per_s: 0 }) {
            bail!("the rate must be at least 1 a second");
        }
        if self.think.is_some() && self.pace != Pace::Closed {
            bail!("a load with a rate has its own pauses: `think` is for a closed loop");
        }
        if let Some(every) = self.restart_every {
            ensure!(
                self.processes > 0 && matches!(self.length, Length::For(_)),
                "only processes can be restarted, in a load of some time"
            );
            ensure!(
                every >= Self::MIN_RESTART,
                "a process must live for 100ms at least"
            );
        }
        if self.length == Length::Requests(0) {
            bail!("at least one request is needed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for text in ["127.0.0.1:16925", "[::1]:80", "unix:/run/foretoken.sock"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let url: Target = "http://127.0.0.1:1/".parse().unwrap();
        assert_eq!(url.to_string(), "127.0.0.1:1");
        assert!("localhost:1".parse::<Target>().is_err());
    }

    #[test]
    fn a_plan_that_cannot_be_carried_out_is_refused() {
        let good = Plan::new(Target::Unix("/x".into()));
        assert!(good.check().is_ok());
        let bad = [
            Plan {
                links: 0,
                ..good.clone()
            },
            Plan {
                threads: 2,
                ..good.clone()
            },
            Plan {
                keys: 0,
                ..good.clone()
            },
            Plan {
                skew: f64::NAN,
                ..good.clone()
            },
            Plan {
                clients: vec![],
                ..good.clone()
            },
            Plan {
                timeout: Duration::ZERO,
                ..good.clone()
            },
            Plan {
                processes: 2,
                ..good.clone()
            },
            Plan {
                restart_every: Some(Duration::from_secs(1)),
                ..good.clone()
            },
            Plan {
                think: Some(Duration::from_secs(1)),
                pace: Pace::Open { per_s: 1 },
                ..good.clone()
            },
            Plan {
                keep: Keep::OneRequest,
                pipeline: 2,
                ..good.clone()
            },
            Plan {
                pace: Pace::Open { per_s: 0 },
                ..good.clone()
            },
            Plan {
                length: Length::Requests(0),
                ..good
            },
        ];
        for plan in bad {
            assert!(plan.check().is_err(), "{plan:?}");
        }
    }
}
