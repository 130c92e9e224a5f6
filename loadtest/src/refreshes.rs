//! What callers feel of a refresh: their waits while a call upstream is under way, and a while before
//! and after, beside those of the rest of the time; and how late tokens were renewed.

use std::ops::Range;

use foretoken_emulator::Counts;
use serde::Serialize;

use crate::report::{float, rounded};
use crate::timeline::Timeline;
use crate::waits::Waits;

/// What refreshes were like, in all and in each phase of the emulator's scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Refreshes {
    /// Seconds before and after a call upstream that count as around it.
    pub window_s: f64,
    /// `all`, and the phases.
    pub phases: Vec<PhaseRefreshes>,
}

/// Those of one span of time.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseRefreshes {
    /// The name of the phase; `all` is the whole of the loads.
    pub name: String,
    /// Calls that arrived upstream.
    pub calls: u64,
    /// Renewals and their lag, if the server's metrics were read.
    pub lag: Option<Lag>,
    /// Waits of requests that were due around a call.
    pub around: Felt,
    /// Waits of all others.
    pub steady: Felt,
}

/// How late tokens were renewed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// Tokens that had become due and were renewed.
    pub renewed: u64,
    /// Calls upstream for each of these.
    pub calls_each: f64,
    /// Milliseconds from due to published: the arithmetic mean,
    pub mean_ms: f64,
    /// the least, and
    pub min_ms: f64,
    /// the most; of renewals that were seen in one look at the metrics, their mean.
    pub max_ms: f64,
}

/// Waits in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Felt {
    /// How many there are.
    pub count: u64,
    /// The median.
    pub p50_us: f64,
    /// What 99 in 100 do not exceed.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// Renewals seen in one look at the metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seen {
    pub at_ms: u64,
    pub renewed: u64,
    pub lag_ms: u64,
}

/// A span of time with a name.
pub(crate) struct Span<'a> {
    pub name: &'a str,
    pub time_ms: Range<u64>,
}

impl Refreshes {
    /// `seen` is none if the server's metrics were not read.
    pub(crate) fn new(
        window_ms: u64,
        timeline: &Timeline,
        counts: &Counts,
        seen: Option<&[Seen]>,
        spans: &[Span],
    ) -> Self {
        let around = around(counts, window_ms);
        let phases = spans.iter().map(|span| {
            let calls = counts.arrivals_unix_ms.iter();
            let calls = calls.filter(|at| span.time_ms.contains(at)).count() as u64;
            let (mut near, mut far) = (Waits::default(), Waits::default());
            for (at_ms, cell) in timeline.cells() {
                let ends_ms = at_ms + timeline.interval_ms();
                if !span.time_ms.contains(&at_ms) {
                    continue;
                }
                let is_near = around.iter().any(|it| it.start < ends_ms && at_ms < it.end);
                (if is_near { &mut near } else { &mut far }).merge(&cell.waits);
            }
            PhaseRefreshes {
                name: span.name.to_owned(),
                calls,
                lag: seen.and_then(|seen| Lag::of(seen, &span.time_ms, calls)),
                around: Felt::of(&near),
                steady: Felt::of(&far),
            }
        });
        Self {
            window_s: float(window_ms) / 1_000.0,
            phases: phases.collect(),
        }
    }
}

/// When calls were under way, or had been or were to be shortly.
fn around(counts: &Counts, window_ms: u64) -> Vec<Range<u64>> {
    let begins = counts.arrivals_unix_ms.iter().map(|at| (*at, 1));
    let ends = counts.ends_unix_ms.iter().map(|at| (*at, -1));
    let mut changes: Vec<_> = begins.chain(ends).collect();
    // A call that ends when the next begins leaves nothing between them.
    changes.sort_by_key(|(at, change)| (*at, -change));
    let (mut spans, mut open, mut since) = (Vec::new(), 0, 0);
    for (at, change) in changes {
        if open == 0 {
            since = at;
        }
        open += change;
        if open == 0 {
            spans.push(since.saturating_sub(window_ms)..at + window_ms);
        }
    }
    if open > 0 {
        spans.push(since.saturating_sub(window_ms)..u64::MAX);
    }
    spans
}

impl PhaseRefreshes {
    /// For people.
    pub(crate) fn line(&self) -> String {
        let felt = |felt: &Felt| {
            let Felt {
                p50_us,
                p99_us,
                max_us,
                ..
            } = felt;
            format!("p50 {p50_us:.0}, p99 {p99_us:.0}, max {max_us:.0}")
        };
        let lag = self.lag.map_or(String::new(), |lag| {
            let Lag {
                renewed,
                mean_ms,
                max_ms,
                ..
            } = lag;
            format!(", {renewed} renewed {mean_ms:.0} ms after they were due, {max_ms:.0} at most")
        });
        let (around, steady) = (felt(&self.around), felt(&self.steady));
        let Self { name, calls, .. } = self;
        format!("refreshes, {name}: {calls} calls{lag}; around them, µs: {around}; else: {steady}")
    }
}

impl Lag {
    /// Nothing if nothing was renewed.
    fn of(seen: &[Seen], time_ms: &Range<u64>, calls: u64) -> Option<Self> {
        let within: Vec<_> = seen
            .iter()
            .filter(|it| time_ms.contains(&it.at_ms))
            .collect();
        let renewed: u64 = within.iter().map(|it| it.renewed).sum();
        let lag_ms: u64 = within.iter().map(|it| it.lag_ms).sum();
        let each = within.iter().map(|it| float(it.lag_ms) / float(it.renewed));
        Some(Self {
            renewed,
            calls_each: rounded(float(calls) / float(renewed)),
            mean_ms: rounded(float(lag_ms) / float(renewed)),
            min_ms: rounded(each.clone().min_by(f64::total_cmp)?),
            max_ms: rounded(each.max_by(f64::total_cmp)?),
        })
    }
}

impl Felt {
    fn of(waits: &Waits) -> Self {
        Self {
            count: waits.count(),
            p50_us: waits.at(0.5),
            p99_us: waits.at(0.99),
            max_us: waits.at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn requests_around_a_call_are_told_apart_from_the_rest() {
        let mut timeline = Timeline::new(Duration::from_millis(100), None);
        for at_ms in (10_000..20_000).step_by(100) {
            // Slow while the call of 15.0 to 15.5 s is under way.
            let slow = (15_000..15_500).contains(&at_ms);
            let wait = Duration::from_millis(if slow { 50 } else { 1 });
            timeline.add(at_ms, wait, Outcome::Right);
        }
        let counts = Counts {
            arrivals_unix_ms: vec![15_000, 25_000],
            ends_unix_ms: vec![15_500, 25_500],
            ..Counts::default()
        };
        let seen = [(15_510, 510), (25_600, 90)].map(|(at_ms, lag_ms)| Seen {
            at_ms,
            renewed: 1,
            lag_ms,
        });
        let spans = [(10_000..20_000, "all"), (10_000..14_000, "before")];
        let spans = spans.map(|(time_ms, name)| Span { name, time_ms });
        let told = Refreshes::new(1_000, &timeline, &counts, Some(&seen), &spans);
        let all = &told.phases[0];
        // 14.0 to 16.5 s.
        assert_eq!((all.calls, all.around.count, all.steady.count), (1, 25, 75));
        assert!(
            all.around.max_us > 49_000.0 && all.steady.max_us < 1_100.0,
            "{all:?}"
        );
        let lag = all.lag.unwrap();
        assert_eq!((lag.renewed, lag.calls_each), (1, 1.0));
        assert_eq!((lag.mean_ms, lag.max_ms), (510.0, 510.0));
        let before = &told.phases[1];
        assert_eq!(
            (before.calls, before.lag, before.around.count),
            (0, None, 0)
        );
    }

    #[test]
    fn a_call_that_is_still_under_way_lasts() {
        let counts = Counts {
            arrivals_unix_ms: vec![1_000, 5_000],
            ends_unix_ms: vec![2_000],
            ..Counts::default()
        };
        assert_eq!(around(&counts, 100), [900..2_100, 4_900..u64::MAX]);
    }
}
