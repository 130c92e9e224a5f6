//! A load in intervals: what became of the requests that were due in each, and how long they took.
//!
//! Intervals are numbered from the Unix epoch, so that those of several threads, processes and loads
//! lie over each other, and over what the emulator dates.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::clock::Now;
use crate::outcome::Outcome;
use crate::report::float;
use crate::waits::Waits;

/// Most intervals of one load: five minutes of tenths of a second, some 10 KB each. Those of a longer
/// load are wider; what is later than it was to last counts in the last one.
const MAX_CELLS: u64 = 3_000;

/// Requests in an interval, on average, for which a 99th percentile says something.
const ENOUGH: u64 = 200;
/// The widest intervals that are told, and how many there are at least, if there were so many.
const WIDEST_MS: u64 = 1_000;
const FEWEST: u64 = 20;

/// The intervals of a load, empty ones between others included.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Timeline {
    /// 0 keeps none.
    interval_ms: u64,
    /// The number of the first.
    first: u64,
    cells: Vec<Cell>,
}

/// One interval.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub refused: u64,
    pub wrong: u64,
    pub failed: u64,
    pub waits: Waits,
}

/// Tells which interval a moment of the steady clock is in.
pub(crate) struct Dater {
    base: Instant,
    base_ms: u64,
}

impl Dater {
    /// For moments from `base` on.
    pub(crate) fn new(base: Instant) -> Self {
        let now = Now::read();
        let ahead = base.saturating_duration_since(now.steady);
        Self {
            base,
            base_ms: now.unix_ms_at(base) + millis(ahead),
        }
    }

    pub(crate) fn unix_ms(&self, at: Instant) -> u64 {
        self.base_ms + millis(at.saturating_duration_since(self.base))
    }
}

impl Timeline {
    /// For a load that lasts about so long, if that is known.
    pub(crate) fn new(interval: Duration, lasts: Option<Duration>) -> Self {
        let interval_ms = millis(interval);
        // Whole multiples, so that those of several loads lie over each other.
        let all = millis(lasts.unwrap_or_default()).checked_div(interval_ms);
        let times = all.map_or(1, |all| all.div_ceil(MAX_CELLS - 1).max(1));
        Self {
            interval_ms: interval_ms * times,
            ..Self::default()
        }
    }

    /// A request that was due at this time came to this.
    pub(crate) fn add(&mut self, due_ms: u64, wait: Duration, outcome: Outcome) {
        let Some(number) = due_ms.checked_div(self.interval_ms) else {
            return;
        };
        let cell = self.cell(number);
        match outcome {
            Outcome::Right => {}
            Outcome::Refused(_) => cell.refused += 1,
            Outcome::Wrong(_) => cell.wrong += 1,
            Outcome::Failed(_) => cell.failed += 1,
        }
        cell.waits.record(wait);
    }

    fn cell(&mut self, number: u64) -> &mut Cell {
        if self.cells.is_empty() {
            self.first = number;
        }
        while number < self.first {
            self.cells.insert(0, Cell::default());
            self.first -= 1;
        }
        let at = (number - self.first).min(MAX_CELLS - 1);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if at >= self.cells.len() {
            self.cells.resize_with(at + 1, Cell::default);
        }
        &mut self.cells[at]
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if self.interval_ms < other.interval_ms {
            let narrow = std::mem::take(self);
            self.interval_ms = other.interval_ms;
            self.merge(&narrow);
        }
        for (at_ms, cell) in other.cells() {
            self.cell(at_ms / self.interval_ms).merge(cell);
        }
    }

    /// The intervals in which something was due, each with when it began.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (u64, &Cell)> {
        let dated = self.cells.iter().zip(self.first..);
        let dated = dated.map(|(cell, number)| (number * self.interval_ms, cell));
        dated.filter(|(_, cell)| !cell.waits.is_empty())
    }

    pub(crate) fn interval_ms(&self) -> u64 {
        self.interval_ms
    }

    /// The intervals themselves, or two, five or ten of them together.
    fn width_ms(&self) -> u64 {
        let requests: u64 = self.cells().map(|(_, cell)| cell.waits.count()).sum();
        let cells = self.cells().count() as u64;
        let wide_enough = |times: &u64| requests * times >= ENOUGH * cells;
        let fits = |times: u64| times * self.interval_ms <= WIDEST_MS && cells >= FEWEST * times;
        let wider = [1, 2, 5, 10].into_iter();
        let wider: Vec<_> = wider.filter(|times| *times == 1 || fits(*times)).collect();
        let found = wider.iter().find(|times| wide_enough(times));
        found.or(wider.last()).unwrap_or(&1) * self.interval_ms
    }

    /// As columns, the times as seconds since `from_ms`, in intervals in which there are enough
    /// requests for a 99th percentile, as far as that leaves some intervals.
    pub(crate) fn columns(&self, from_ms: u64) -> Columns {
        let width_ms = self.width_ms();
        let mut columns = Columns {
            interval_ms: width_ms,
            ..Columns::default()
        };
        let mut wider = Self {
            interval_ms: width_ms,
            ..Self::default()
        };
        // They begin where all loads begin.
        let offset_ms = from_ms.checked_rem(width_ms).unwrap_or(0);
        for (at_ms, cell) in self.cells() {
            wider.cell((at_ms - offset_ms) / width_ms).merge(cell);
        }
        for (at_ms, cell) in wider.cells() {
            let at_ms = at_ms + offset_ms;
            columns.at_s.push(since_s(at_ms, from_ms));
            columns.count.push(cell.waits.count());
            columns.p50_us.push(cell.waits.at(0.5));
            columns.p99_us.push(cell.waits.at(0.99));
            columns.max_us.push(cell.waits.at(1.0));
            columns.refused.push(cell.refused);
            columns.wrong.push(cell.wrong);
            columns.failed.push(cell.failed);
        }
        columns
    }
}

/// The intervals of a load, a column for each figure.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Columns {
    /// The width of the intervals, in milliseconds.
    pub interval_ms: u64,
    /// When it began: seconds since the timeline's `from_unix_ms`.
    pub at_s: Vec<f64>,
    /// Requests due in it.
    pub count: Vec<u64>,
    /// Their median wait, in microseconds.
    pub p50_us: Vec<f64>,
    /// What 99 in 100 of them did not exceed.
    pub p99_us: Vec<f64>,
    /// The longest.
    pub max_us: Vec<f64>,
    /// Of them, answered with another status than 200.
    pub refused: Vec<u64>,
    /// Of them, wrong.
    pub wrong: Vec<u64>,
    /// Of them, without an answer.
    pub failed: Vec<u64>,
}

/// Seconds between two moments, negative if the first is earlier.
pub(crate) fn since_s(at_ms: u64, from_ms: u64) -> f64 {
    if at_ms >= from_ms {
        float(at_ms - from_ms) / 1_000.0
    } else {
        -float(from_ms - at_ms) / 1_000.0
    }
}

impl Cell {
    fn merge(&mut self, other: &Self) {
        self.refused += other.refused;
        self.wrong += other.wrong;
        self.failed += other.failed;
        self.waits.merge(&other.waits);
    }
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Failed;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_request_counts_in_the_interval_in_which_it_was_due() {
        let mut timeline = Timeline::new(100 * MS, None);
        timeline.add(12_345, 5 * MS, Outcome::Right);
        timeline.add(12_399, 7 * MS, Outcome::Refused(429));
        timeline.add(12_600, 900 * MS, Outcome::Failed(Failed::TimedOut));
        let columns = timeline.columns(12_000);
        assert_eq!(columns.interval_ms, 100);
        assert_eq!(columns.at_s, [0.3, 0.6], "nothing was due between them");
        assert_eq!(columns.count, [2, 1]);
        assert_eq!(
            (&columns.refused[..], &columns.failed[..]),
            (&[1, 0][..], &[0, 1][..])
        );
        assert!((columns.max_us[0] - 7_000.0).abs() < 70.0, "{columns:?}");
    }

    #[test]
    fn intervals_of_few_requests_are_told_together() {
        let mut timeline = Timeline::new(100 * MS, None);
        for at_ms in (7_300..17_300).step_by(100) {
            timeline.add(at_ms, MS, Outcome::Right);
            timeline.add(at_ms + 50, 3 * MS, Outcome::Refused(503));
        }
        let columns = timeline.columns(7_300);
        assert_eq!(columns.interval_ms, 500, "a second would leave ten of them");
        assert_eq!((columns.at_s.len(), columns.at_s[1]), (20, 0.5));
        assert!(
            columns.count.iter().all(|count| *count == 10),
            "{columns:?}"
        );
        assert!(
            columns.refused.iter().all(|count| *count == 5),
            "{columns:?}"
        );
    }

    #[test]
    fn timelines_of_two_processes_lie_over_each_other() {
        let (mut one, mut other) = (Timeline::new(100 * MS, None), Timeline::new(100 * MS, None));
        one.add(1_000, MS, Outcome::Right);
        other.add(500, MS, Outcome::Right);
        other.add(1_050, 9 * MS, Outcome::Right);
        let sent = serde_json::to_string(&other).unwrap();
        one.merge(&serde_json::from_str(&sent).unwrap());
        let counts = one.cells().map(|(at_ms, cell)| (at_ms, cell.waits.count()));
        assert_eq!(counts.collect::<Vec<_>>(), [(500, 1), (1_000, 2)]);
    }

    #[test]
    fn intervals_of_a_long_load_are_wider() {
        let width_ms = |minutes| {
            let lasts = Duration::from_mins(minutes);
            Timeline::new(100 * MS, Some(lasts)).interval_ms()
        };
        assert_eq!([1, 4, 10, 60].map(width_ms), [100, 100, 300, 1_300]);
    }

    #[test]
    fn narrow_intervals_are_counted_in_wide_ones() {
        let (mut narrow, mut wide) = (Timeline::new(100 * MS, None), Timeline::new(300 * MS, None));
        narrow.add(900, MS, Outcome::Right);
        narrow.add(1_150, MS, Outcome::Right);
        wide.add(1_000, MS, Outcome::Right);
        for (mut one, other) in [(narrow.clone(), &wide), (wide.clone(), &narrow)] {
            one.merge(other);
            let counts = one.cells().map(|(at_ms, cell)| (at_ms, cell.waits.count()));
            assert_eq!(counts.collect::<Vec<_>>(), [(900, 3)]);
        }
    }

    #[test]
    fn without_a_width_nothing_is_kept() {
        let mut timeline = Timeline::new(Duration::ZERO, None);
        timeline.add(1, MS, Outcome::Right);
        assert_eq!(timeline.cells().count(), 0);
    }
}
