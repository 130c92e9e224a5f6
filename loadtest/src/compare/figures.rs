//! Every figure that a workload may give: its unit, and which way is better.

use serde::{Deserialize, Serialize};

/// What a figure is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// Its unit; of a count it is empty.
    pub unit: String,
    /// What it says, in a few words.
    pub about: String,
    /// Whether more of it is better; else less is.
    pub more_is_better: bool,
    /// Whether it makes sense to divide it by another server's.
    pub divided: bool,
}

/// By name.
pub(super) static FIGURES: std::sync::LazyLock<Vec<(&'static str, Figure)>> =
    std::sync::LazyLock::new(|| TABLE.iter().map(Figure::named).collect());

type Row = (&'static str, &'static str, &'static str, bool, bool);

/// Name, unit, what it says, whether more is better, whether it is divided.
#[rustfmt::skip]
const TABLE: [Row; 25] = [
    ("cpu_us_per_request", "µs", "time of the server on the CPU for each request", false, true),
    ("answers_per_s", "/s", "whole answers a second", true, true),
    ("p50_us", "µs", "latency that half of the requests do not exceed", false, true),
    ("p99_us", "µs", "latency that 99 in 100 do not exceed", false, true),
    ("p99_9_us", "µs", "latency that 999 in 1,000 do not exceed", false, true),
    ("max_us", "µs", "the longest latency", false, true),
    ("driver_us_per_request", "µs", "time of the driver on the CPU for each request", false, false),
    ("kib_per_link", "KiB", "memory of an idle link (PSS)", false, true),
    ("kept_kib_per_link", "KiB", "the same when the links are closed", false, false),
    ("upstream_calls", "", "calls that arrived upstream", false, false),
    ("last_after_ms", "ms", "from the upstream's answer to the last client's", false, false),
    ("max_ms", "ms", "the longest latency", false, false),
    ("waited", "", "requests that took longer than a fifth of an upstream call", false, false),
    ("dead", "", "dead tokens served", false, false),
    ("wrong_expires_in", "", "answers whose `expires_in` was off by more than a second", false, false),
    ("alive_refused", "", "refusals while the token was good", false, false),
    ("alive_failed", "", "requests without an answer while the token was good", false, false),
    ("error_refused", "", "refusals after its end, the upstream answering 500", false, false),
    ("error_failed", "", "requests without an answer after its end, the upstream answering 500", false, false),
    ("error_max_ms", "ms", "the longest wait after its end, the upstream answering 500", false, false),
    ("hang_refused", "", "refusals after its end, the upstream silent", false, false),
    ("hang_failed", "", "requests without an answer after its end, the upstream silent", false, false),
    ("hang_max_ms", "ms", "the longest wait after its end, the upstream silent", false, false),
    ("first_answer_ms", "ms", "from the start of the process to its first good answer", false, false),
    ("rss_kib", "KiB", "memory resident", false, false),
];

impl Figure {
    fn named(row: &Row) -> (&'static str, Self) {
        let (name, unit, about, more_is_better, divided) = *row;
        let figure = Self {
            unit: unit.to_owned(),
            about: about.to_owned(),
            more_is_better,
            divided,
        };
        (name, figure)
    }
}
