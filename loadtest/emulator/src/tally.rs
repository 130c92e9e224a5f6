//! What the emulator has been asked and what it answered, for tests to read back.
//!
//! Everything is bounded, and nothing here ever holds a token.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Most pairs of selector and resource counted apart; beyond it, calls are only totalled.
const KEY_LIMIT: usize = 100_000;
/// Most arrival times kept: the latest ones.
const ARRIVAL_LIMIT: usize = 10_000;
/// Most seconds of which something is kept: the latest ones, over eight hours of them.
const SECOND_LIMIT: usize = 30_000;
/// Most arrivals of one second remembered to find the peak rate.
const WINDOW_LIMIT: usize = 1_000_000;

/// A reading of the counts. A "token call" is a request for a token that keeps the rules of the
/// endpoint, whatever the answer was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests of all kinds, control path excepted.
    pub total: u64,
    /// Token calls.
    pub token_calls: u64,
    /// Requests on the token path that broke a rule: probes, unknown parameters, wrong methods.
    pub refused: u64,
    /// Requests answered with a challenge; only Arc gives any. One that carries a wrong proof
    /// counts as refused too.
    #[serde(default)]
    pub challenged: u64,
    /// Token calls naming an identity that does not exist, or none where several do.
    pub no_identity: u64,
    /// Token calls answered 429 because of a limit.
    pub throttled: u64,
    /// Token calls refused because capacity had fallen; see [`crate::Pressure`].
    #[serde(default)]
    pub overloaded: u64,
    /// Requests spoilt by a fault.
    pub faulted: u64,
    /// Requests, and for faults of connecting connections, that each mode spoilt, by name;
    /// faults without a name are `unnamed`.
    #[serde(default)]
    pub modes: BTreeMap<String, u64>,
    /// Answers with a newly issued token.
    pub tokens_issued: u64,
    /// Answers with a token issued before.
    pub tokens_repeated: u64,
    /// Token calls being answered right now.
    pub in_progress: u64,
    /// The most token calls being answered at the same time.
    pub peak_concurrency: u64,
    /// The most token calls arriving within one second.
    pub peak_rate_per_s: u64,
    /// Token calls by selector and resource.
    pub calls: Vec<CallCount>,
    /// When the latest token calls arrived, in milliseconds since the Unix epoch, oldest first;
    /// the last 10 000 of them.
    pub arrivals_unix_ms: Vec<u64>,
    /// When the latest of them were over: answered, or left by their callers.
    #[serde(default)]
    pub ends_unix_ms: Vec<u64>,
    /// What happened in each second in which something did, oldest first; the last 30 000.
    #[serde(default)]
    pub seconds: Vec<Second>,
}

/// What happened in one second of wall time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// The second, since the Unix epoch.
    pub unix_s: u64,
    /// Token calls that arrived.
    pub calls: u64,
    /// Of these, answered 429 because of a limit.
    pub throttled: u64,
    /// Of these, refused because capacity had fallen.
    pub overloaded: u64,
    /// Requests spoilt by a fault.
    pub faulted: u64,
}

/// How often a token was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    /// `system`, or `client_id=…`, `object_id=…`, `msi_res_id=…` with the value in lower case;
    /// `mi_res_id` counts as `msi_res_id`.
    pub selector: String,
    /// The resource, decoded once.
    pub resource: String,
    /// Token calls for this pair.
    pub calls: u64,
}

impl Counts {
    /// Token calls for one selector, spelled as in [`CallCount`], and one resource.
    #[must_use]
    pub fn calls_for(&self, selector: &str, resource: &str) -> u64 {
        self.calls
            .iter()
            .find(|it| it.selector == selector && it.resource == resource)
            .map_or(0, |it| it.calls)
    }

    /// Requests that a mode spoilt; connections, for modes of connecting.
    #[must_use]
    pub fn spoilt_by(&self, mode: &str) -> u64 {
        self.modes.get(mode).copied().unwrap_or(0)
    }
}

/// The running counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The plain numbers; its lists stay empty and are filled in when read.
    pub(crate) numbers: Counts,
    calls: BTreeMap<(String, String), u64>,
    arrivals_unix_ms: VecDeque<u64>,
    ends_unix_ms: VecDeque<u64>,
    /// Arrivals within the last second.
    window: VecDeque<Instant>,
    seconds: VecDeque<Second>,
}

impl Tally {
    /// A token call arrives. Each must be `finished`.
    pub(crate) fn arrived(
        &mut self,
        selector: String,
        resource: String,
        now: Instant,
        now_ms: u64,
    ) {
        let key = (selector, resource);
        if self.calls.len() < KEY_LIMIT || self.calls.contains_key(&key) {
            *self.calls.entry(key).or_default() += 1;
        }
        push_bounded(&mut self.arrivals_unix_ms, now_ms, ARRIVAL_LIMIT);
        self.second(now_ms).calls += 1;

        let second = Duration::from_secs(1);
        while self
            .window
            .front()
            .is_some_and(|then| now.duration_since(*then) >= second)
        {
            self.window.pop_front();
        }
        push_bounded(&mut self.window, now, WINDOW_LIMIT);

        let numbers = &mut self.numbers;
        numbers.token_calls += 1;
        numbers.in_progress += 1;
        numbers.peak_concurrency = numbers.peak_concurrency.max(numbers.in_progress);
        numbers.peak_rate_per_s = numbers.peak_rate_per_s.max(self.window.len() as u64);
    }

    /// A token call goes over a limit.
    pub(crate) fn throttled(&mut self, now_ms: u64) {
        self.numbers.throttled += 1;
        self.second(now_ms).throttled += 1;
    }

    /// A token call finds no capacity left.
    pub(crate) fn overloaded(&mut self, now_ms: u64) {
        self.numbers.overloaded += 1;
        self.second(now_ms).overloaded += 1;
    }

    /// A fault spoils a request.
    pub(crate) fn spoilt(&mut self, mode: &str, now_ms: u64) {
        self.numbers.faulted += 1;
        self.second(now_ms).faulted += 1;
        self.count_mode(mode);
    }

    /// A fault spoils a connection before it carries a request.
    pub(crate) fn spoilt_connection(&mut self, mode: &str) {
        self.count_mode(mode);
    }

    fn count_mode(&mut self, mode: &str) {
        *self.numbers.modes.entry(mode.to_owned()).or_default() += 1;
    }

    /// The counts of this second. A clock that is set back goes on counting in the last one.
    fn second(&mut self, now_ms: u64) -> &mut Second {
        let unix_s = now_ms / 1000;
        if self.seconds.back().is_none_or(|last| last.unix_s < unix_s) {
            let second = Second {
                unix_s,
                ..Second::default()
            };
            push_bounded(&mut self.seconds, second, SECOND_LIMIT);
        }
        self.seconds
            .back_mut()
            .expect("one was pushed if there was none")
    }

    /// A token call has been answered, or its caller has gone.
    pub(crate) fn finished(&mut self, now_ms: u64) {
        push_bounded(&mut self.ends_unix_ms, now_ms, ARRIVAL_LIMIT);
        self.numbers.in_progress = self.numbers.in_progress.saturating_sub(1);
    }

    pub(crate) fn read(&self) -> Counts {
        Counts {
            calls: self
                .calls
                .iter()
                .map(|((selector, resource), calls)| CallCount {
                    selector: selector.clone(),
                    resource: resource.clone(),
                    calls: *calls,
                })
                .collect(),
            arrivals_unix_ms: self.arrivals_unix_ms.iter().copied().collect(),
            ends_unix_ms: self.ends_unix_ms.iter().copied().collect(),
            seconds: self.seconds.iter().copied().collect(),
            ..self.numbers.clone()
        }
    }

    /// Starts again from zero; what is in progress stays in progress.
    pub(crate) fn reset(&mut self) {
        let in_progress = self.numbers.in_progress;
        *self = Self::default();
        self.numbers.in_progress = in_progress;
        self.numbers.peak_concurrency = in_progress;
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    if queue.len() == limit {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::steady;

    fn arrive(tally: &mut Tally, now: Instant) {
        tally.arrived("system".to_owned(), "r".to_owned(), now, 0);
    }

    #[test]
    fn the_peak_rate_is_that_of_the_fullest_second() {
        let (mut tally, start) = (Tally::default(), steady());
        for at_ms in [0, 100, 1050, 1080, 1099, 5000] {
            arrive(&mut tally, start + Duration::from_millis(at_ms));
        }
        assert_eq!(tally.read().peak_rate_per_s, 4);
    }

    #[test]
    fn a_reset_keeps_what_is_in_progress() {
        let (mut tally, now) = (Tally::default(), steady());
        arrive(&mut tally, now);
        arrive(&mut tally, now);
        tally.finished(0);
        tally.reset();
        let counts = tally.read();
        assert_eq!(
            (
                counts.token_calls,
                counts.in_progress,
                counts.peak_concurrency
            ),
            (0, 1, 1)
        );
        assert!(counts.calls.is_empty() && counts.arrivals_unix_ms.is_empty());
        tally.finished(7);
        assert_eq!(tally.read().ends_unix_ms, [7]);
    }

    #[test]
    fn each_second_has_counts_of_its_own() {
        let (mut tally, now) = (Tally::default(), steady());
        let arrive = |tally: &mut Tally, now_ms| {
            tally.arrived("system".to_owned(), "r".to_owned(), now, now_ms);
        };
        arrive(&mut tally, 5_000);
        arrive(&mut tally, 5_999);
        tally.throttled(5_999);
        arrive(&mut tally, 9_000);
        tally.spoilt("hang", 9_001);
        // A clock that is set back.
        tally.overloaded(3_000);
        let second = |unix_s, calls, throttled, overloaded, faulted| Second {
            unix_s,
            calls,
            throttled,
            overloaded,
            faulted,
        };
        let counts = tally.read();
        assert_eq!(
            counts.seconds,
            [second(5, 2, 1, 0, 0), second(9, 1, 0, 1, 1)]
        );
        assert_eq!(
            (counts.spoilt_by("hang"), counts.spoilt_by("reset")),
            (1, 0)
        );
        tally.reset();
        assert_eq!(
            tally.read(),
            Counts {
                in_progress: 3,
                peak_concurrency: 3,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn arrival_times_are_bounded() {
        let (mut tally, now) = (Tally::default(), steady());
        for _ in 0..ARRIVAL_LIMIT + 5 {
            arrive(&mut tally, now);
        }
        assert_eq!(tally.read().arrivals_unix_ms.len(), ARRIVAL_LIMIT);
    }
}
