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
    /// Requests spoilt by a fault.
    pub faulted: u64,
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
}

/// The running counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The plain numbers; its lists stay empty and are filled in when read.
    pub(crate) numbers: Counts,
    calls: BTreeMap<(String, String), u64>,
    arrivals_unix_ms: VecDeque<u64>,
    /// Arrivals within the last second.
    window: VecDeque<Instant>,
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

    /// A token call has been answered, or its caller has gone.
    pub(crate) fn finished(&mut self) {
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
        tally.finished();
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
