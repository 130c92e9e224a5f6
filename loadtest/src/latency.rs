//! How long answers took, in histograms of three digits.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest wait told apart from longer ones.
const LONGEST: Duration = Duration::from_hours(1);

/// Waits of any length, each within a thousandth.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Latency(Histogram<u64>);

/// What is told of them, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many there are.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// What 90 in 100 do not exceed.
    pub p90: f64,
    /// What 99 in 100 do not exceed.
    pub p99: f64,
    /// What 999 in 1,000 do not exceed.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, nanos(LONGEST), 3).expect("bounds that are in range"))
    }
}

impl From<Vec<(u64, u64)>> for Latency {
    fn from(counted: Vec<(u64, u64)>) -> Self {
        let mut latency = Self::default();
        for (value, count) in counted {
            latency.0.saturating_record_n(value, count);
        }
        latency
    }
}

impl From<Latency> for Vec<(u64, u64)> {
    fn from(latency: Latency) -> Self {
        let counted = latency.0.iter_recorded();
        counted
            .map(|it| (it.value_iterated_to(), it.count_at_value()))
            .collect()
    }
}

impl Latency {
    pub(crate) fn record(&mut self, wait: Duration) {
        self.0.saturating_record(nanos(wait));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// How many took this long or longer.
    #[must_use]
    pub fn at_least(&self, wait: Duration) -> u64 {
        self.0.count_between(nanos(wait), u64::MAX)
    }

    /// Percentiles and the microseconds that so many do not exceed, as far as there are enough waits
    /// to tell them apart.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        const CURVE: [f64; 14] = [
            0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 99.999,
        ];
        let told = CURVE.iter().filter(|percent| {
            crate::report::float(self.0.len()) * (100.0 - **percent) >= 100.0 * (1.0 - 1e-6)
        });
        told.map(|percent| (*percent, micros(self.0.value_at_quantile(percent / 100.0))))
            .collect()
    }

    /// What is told of them.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        Percentiles {
            count: self.0.len(),
            min: micros(self.0.min()),
            mean: (self.0.mean() / 10.0).round() / 100.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(self.0.max()),
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// To two places: the histogram's digits go no further.
#[allow(
    clippy::cast_precision_loss,
    reason = "an hour in nanoseconds has 42 bits"
)]
fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 10.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded_by_both_threads() {
        let (mut one, mut other) = (Latency::default(), Latency::default());
        for ms in 1..=1_000 {
            let thread = if ms % 2 == 0 { &mut one } else { &mut other };
            thread.record(Duration::from_millis(ms));
        }
        one.merge(&other);
        let told = one.percentiles();
        assert_eq!(told.count, 1_000);
        for (told, right_ms) in [
            (told.p50, 500.0),
            (told.p90, 900.0),
            (told.p99, 990.0),
            (told.p99_9, 999.0),
            (told.max, 1_000.0),
            (told.mean, 500.5),
        ] {
            let ms = told / 1_000.0;
            assert!((ms - right_ms).abs() <= right_ms / 500.0, "{ms} {right_ms}");
        }
        assert_eq!(one.at_least(Duration::from_millis(1_001)), 0);
        assert!((99..=101).contains(&one.at_least(Duration::from_millis(901))));
    }
}
