//! Every metric: name, unit and labels; `docs/metrics.md` explains them to operators.
//!
//! Requests are counted by each worker in a cache line of its own and added up when somebody
//! looks; the rest is rare enough to be counted where it happens. Only counters and gauges are
//! used, and written here in Prometheus' text format: its exporter's recorder measures the
//! processor's clock before it can be used, which took 0.6 ms of every start, and up to 200 on a
//! busy machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Key, Label};
use metrics_util::registry::{AtomicStorage, Registry};

use super::process;

/// Names and help texts, checked against `docs/metrics.md` by `tests/tidy.rs`.
pub const NAMES: [(&str, &str); 19] = [
    (
        "foretoken_requests_total",
        "Token requests by outcome: hit, miss, coalesced, refused.",
    ),
    (
        "foretoken_refusals_total",
        "Requests answered with an error, by reason.",
    ),
    (
        "foretoken_upstream_calls_total",
        "Calls to the upstream, by result.",
    ),
    (
        "foretoken_upstream_in_flight",
        "Calls to the upstream under way.",
    ),
    (
        "foretoken_refreshes_total",
        "Tokens that had become due and were renewed.",
    ),
    (
        "foretoken_refresh_lag_milliseconds_total",
        "Milliseconds from due to published, over all of these.",
    ),
    ("foretoken_keys", "Token keys held in memory."),
    (
        "foretoken_runway_seconds",
        "Seconds that the key in use with the least left would be served if the upstream died now; \
         a week at most, and without such a key.",
    ),
    (
        "foretoken_keys_below_floor",
        "Keys in use whose runway is below refresh.outage_to_survive.",
    ),
    (
        "foretoken_breaker_state",
        "Whether the upstream is called: 0 closed, it is; 1 probing; 2 open, it is not.",
    ),
    (
        "foretoken_echo_mismatches_total",
        "Entries withheld because they were not for the key asked for. Always 0.",
    ),
    (
        "foretoken_panics_total",
        "Connections that ended by a panic of their own. Always 0.",
    ),
    (
        "foretoken_clock_steps_total",
        "Times that the clocks no longer agreed, by sort: forward, backward, start, upstream.",
    ),
    (
        "foretoken_clock_skew_seconds",
        "How far the upstream's clock is ahead of this machine's, by its last Date header.",
    ),
    (
        "foretoken_store_degraded",
        "1 while sealed tokens cannot be kept on disk.",
    ),
    ("foretoken_ready", "1 once tokens are served."),
    process::NAMES[0],
    process::NAMES[1],
    process::NAMES[2],
];

/// How a token request ended for the cache. Every request has exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from memory.
    Hit,
    /// Started an upstream call.
    Miss,
    /// Waited for a call that another request, or the refresh, had started.
    Coalesced,
    /// Answered with an error without waiting.
    Refused,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 4] = [
        Outcome::Hit,
        Outcome::Miss,
        Outcome::Coalesced,
        Outcome::Refused,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Refused => "refused",
        }
    }
}

/// One worker's request counters, on cache lines that no other worker writes.
#[derive(Default)]
#[repr(align(128))]
pub struct WorkerCounters([AtomicU64; 4]);

impl WorkerCounters {
    /// Counts one request. Only the owning worker calls this: a load and a store, no locked add.
    pub fn count(&self, outcome: Outcome) {
        let cell = &self.0[outcome as usize];
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    /// Counts one request unless it was counted before.
    pub fn count_unless(&self, counted: bool, outcome: Outcome) {
        if !counted {
            self.count(outcome);
        }
    }

    /// Requests with this outcome so far.
    #[must_use]
    pub fn total(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry<Key, AtomicStorage>,
    workers: Mutex<Vec<Arc<WorkerCounters>>>,
    requests: [Counter; 4],
    refreshes: Counter,
    refresh_lag_ms: Counter,
    in_flight: Gauge,
    keys: Gauge,
    runway: Gauge,
    clock_skew: Gauge,
    below_floor: Gauge,
    breaker: Gauge,
    echo_mismatches: Counter,
    panics: Counter,
    store_degraded: Gauge,
    ready: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything that has no label of its own.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new(AtomicStorage);
        let requests = Outcome::ALL.map(|o| {
            counter(
                &registry,
                "foretoken_requests_total",
                Some(("outcome", o.as_str())),
            )
        });
        Self(Arc::new(Inner {
            requests,
            refreshes: counter(&registry, "foretoken_refreshes_total", None),
            refresh_lag_ms: counter(&registry, "foretoken_refresh_lag_milliseconds_total", None),
            in_flight: gauge(&registry, "foretoken_upstream_in_flight"),
            keys: gauge(&registry, "foretoken_keys"),
            runway: gauge(&registry, "foretoken_runway_seconds"),
            clock_skew: gauge(&registry, "foretoken_clock_skew_seconds"),
            below_floor: gauge(&registry, "foretoken_keys_below_floor"),
            breaker: gauge(&registry, "foretoken_breaker_state"),
            echo_mismatches: counter(&registry, "foretoken_echo_mismatches_total", None),
            panics: counter(&registry, "foretoken_panics_total", None),
            store_degraded: gauge(&registry, "foretoken_store_degraded"),
            ready: gauge(&registry, "foretoken_ready"),
            workers: Mutex::default(),
            registry,
        }))
    }

    /// Counters for one more worker.
    #[must_use]
    pub fn add_worker(&self) -> Arc<WorkerCounters> {
        let counters = Arc::new(WorkerCounters::default());
        self.workers().push(Arc::clone(&counters));
        counters
    }

    /// Requests with this outcome, over all workers.
    #[must_use]
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.workers().iter().map(|w| w.total(outcome)).sum()
    }

    /// Counts an answer that is an error. `reason` comes from a closed set.
    pub fn refused(&self, reason: &'static str) {
        counter(
            &self.0.registry,
            "foretoken_refusals_total",
            Some(("reason", reason)),
        )
        .increment(1);
    }

    /// Makes the series of these results of upstream calls start at 0, so that alerts see a first
    /// failure as an increase.
    pub fn expect_results(&self, results: impl IntoIterator<Item = &'static str>) {
        for result in results {
            counter(
                &self.0.registry,
                "foretoken_upstream_calls_total",
                Some(("result", result)),
            )
            .absolute(0);
        }
    }

    /// Counts a finished upstream call. `result` comes from a closed set.
    pub fn upstream_call(&self, result: &'static str) {
        counter(
            &self.0.registry,
            "foretoken_upstream_calls_total",
            Some(("result", result)),
        )
        .increment(1);
    }

    /// Counts a token that was renewed and is published, so long after it had become due.
    pub fn refreshed(&self, lag_ms: u64) {
        self.0.refreshes.increment(1);
        self.0.refresh_lag_ms.increment(lag_ms);
    }

    /// Sets how many upstream calls are under way.
    pub fn upstream_in_flight(&self, calls: usize) {
        self.0.in_flight.set(as_gauge(calls));
    }

    /// Sets how many keys are held.
    pub fn keys(&self, keys: usize) {
        self.0.keys.set(as_gauge(keys));
    }

    /// Sets the shortest runway in seconds, and how many keys have one below the floor.
    pub fn runway(&self, shortest_s: u64, below: usize) {
        let shortest = usize::try_from(shortest_s).unwrap_or(usize::MAX);
        self.0.runway.set(as_gauge(shortest));
        self.0.below_floor.set(as_gauge(below));
    }

    /// Sets the breaker's state, by its name.
    pub fn breaker(&self, state: &str) {
        let state = match state {
            "closed" => 0,
            "probing" => 1,
            _ => 2,
        };
        self.0.breaker.set(as_gauge(state));
    }

    /// An entry was about to be served for a key that is not its own. An alarm, not a statistic.
    pub fn echo_mismatch(&self) {
        self.0.echo_mismatches.increment(1);
    }

    /// A connection panicked; it is closed, and the others go on. An alarm, not a statistic.
    pub fn panicked(&self) {
        self.0.panics.increment(1);
    }

    /// Makes the series of these sorts of clock steps start at 0.
    pub fn expect_clock_steps(&self, sorts: impl IntoIterator<Item = &'static str>) {
        for sort in sorts {
            self.clock_steps(sort).absolute(0);
        }
    }

    /// Counts a step of the clock after which every key is checked. `sort` comes from a closed set.
    pub fn clock_step(&self, sort: &'static str) {
        self.clock_steps(sort).increment(1);
    }

    fn clock_steps(&self, sort: &'static str) -> Counter {
        let name = "foretoken_clock_steps_total";
        counter(&self.0.registry, name, Some(("sort", sort)))
    }

    /// Sets how far the upstream's clock is ahead of ours, in milliseconds.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a skew of more than 285,000 years may be a second off"
    )]
    pub fn clock_skew(&self, ahead_ms: i64) {
        self.0.clock_skew.set(ahead_ms as f64 / 1000.0);
    }

    /// Whether the store keeps what it is given.
    pub fn store_degraded(&self, degraded: bool) {
        self.0.store_degraded.set(as_gauge(usize::from(degraded)));
    }

    /// Whether tokens are served.
    pub fn ready(&self, ready: bool) {
        self.0.ready.set(as_gauge(usize::from(ready)));
    }

    /// All of it in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        for outcome in Outcome::ALL {
            self.0.requests[outcome as usize].absolute(self.requests(outcome));
        }
        for ((name, _), value) in process::NAMES.into_iter().zip(process::now()) {
            let value = value.and_then(|value| usize::try_from(value).ok());
            if let Some(value) = value {
                gauge(&self.0.registry, name).set(as_gauge(value));
            }
        }
        let mut text = String::new();
        for (name, help) in NAMES {
            let mut series = Vec::new();
            let mut kind = "counter";
            self.0.registry.visit_counters(|key, cell| {
                if key.name() == name {
                    series.push(line(key, cell.load(Ordering::Relaxed)));
                }
            });
            self.0.registry.visit_gauges(|key, cell| {
                if key.name() == name {
                    kind = "gauge";
                    series.push(line(key, f64::from_bits(cell.load(Ordering::Relaxed))));
                }
            });
            series.sort();
            if !series.is_empty() {
                text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
                text.extend(series);
                text.push('\n');
            }
        }
        text
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<WorkerCounters>>> {
        self.0
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of the text format. Names, labels and their values come from closed sets, in which
/// nothing has to be escaped.
fn line(key: &Key, value: impl std::fmt::Display) -> String {
    let name = key.name();
    match key.labels().next() {
        Some(label) => format!("{name}{{{}=\"{}\"}} {value}\n", label.key(), label.value()),
        None => format!("{name} {value}\n"),
    }
}

fn counter(
    registry: &Registry<Key, AtomicStorage>,
    name: &'static str,
    label: Option<(&'static str, &'static str)>,
) -> Counter {
    let key = match label {
        Some((k, v)) => Key::from_parts(name, vec![Label::from_static_parts(k, v)]),
        None => Key::from_static_name(name),
    };
    registry.get_or_create_counter(&key, |cell| Counter::from_arc(Arc::clone(cell)))
}

fn gauge(registry: &Registry<Key, AtomicStorage>, name: &'static str) -> Gauge {
    let key = Key::from_static_name(name);
    registry.get_or_create_gauge(&key, |cell| Gauge::from_arc(Arc::clone(cell)))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts, and bytes of memory, stay far below 2^52"
)]
fn as_gauge(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_by_outcome() {
        let metrics = Metrics::new();
        let (a, b) = (metrics.add_worker(), metrics.add_worker());
        a.count(Outcome::Hit);
        b.count(Outcome::Hit);
        b.count(Outcome::Refused);
        assert_eq!(metrics.requests(Outcome::Hit), 2);
        let text = metrics.render();
        assert!(
            text.contains("foretoken_requests_total{outcome=\"hit\"} 2"),
            "{text}"
        );
        assert!(
            text.contains("foretoken_requests_total{outcome=\"refused\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("foretoken_requests_total{outcome=\"miss\"} 0"),
            "{text}"
        );
    }

    #[test]
    fn each_series_stands_behind_the_help_and_the_type_of_its_name() {
        let metrics = Metrics::new();
        metrics.refused("full");
        metrics.refused("denied");
        metrics.refused("full");
        metrics.clock_skew(-1500);
        let text = metrics.render();
        let refusals = "# HELP foretoken_refusals_total Requests answered with an error, by reason.\n\
             # TYPE foretoken_refusals_total counter\n\
             foretoken_refusals_total{reason=\"denied\"} 1\n\
             foretoken_refusals_total{reason=\"full\"} 2\n\n";
        assert!(text.contains(refusals), "{text}");
        assert!(
            text.contains(
                "# TYPE foretoken_clock_skew_seconds gauge\nforetoken_clock_skew_seconds -1.5\n"
            ),
            "{text}"
        );
        // What has never happened and has labels is not there.
        assert!(!text.contains("foretoken_upstream_calls_total"), "{text}");
    }
}
