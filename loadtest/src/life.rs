//! How much life the tokens had left that were handed out.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::report::float;

/// The lives left, in milliseconds, each to a thousandth.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub(crate) struct Lives(Histogram<u64>);

/// Seconds from an answer to the end of its token, over all right answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LifeLeft {
    /// The least.
    pub min: f64,
    /// What 99 in 100 had at least.
    pub p1: f64,
    /// The median.
    pub p50: f64,
}

impl Default for Lives {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits"))
    }
}

impl From<Vec<(u64, u64)>> for Lives {
    fn from(counted: Vec<(u64, u64)>) -> Self {
        let mut lives = Self::default();
        for (value, count) in counted {
            lives.0.record_n(value, count).expect("it grows");
        }
        lives
    }
}

impl From<Lives> for Vec<(u64, u64)> {
    fn from(lives: Lives) -> Self {
        let counted = lives.0.iter_recorded();
        counted
            .map(|it| (it.value_iterated_to(), it.count_at_value()))
            .collect()
    }
}

impl Lives {
    pub(crate) fn record(&mut self, left_ms: u64) {
        self.0.record(left_ms).expect("it grows");
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows");
    }

    /// Nothing if there was no right answer.
    pub(crate) fn told(&self) -> Option<LifeLeft> {
        // None had less than is told: the lower edge of what is told apart.
        let lower = |ms| float(self.0.lowest_equivalent(ms)) / 1_000.0;
        let at = |quantile| lower(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| LifeLeft {
            min: lower(self.0.min()),
            p1: at(0.01),
            p50: at(0.5),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_told_and_survives_the_way_from_another_process() {
        let (mut lives, mut other) = (Lives::default(), Lives::default());
        assert_eq!(lives.told(), None);
        (1..=100).for_each(|s| lives.record(s * 1_000));
        other.record(500);
        let sent = serde_json::to_string(&other).unwrap();
        lives.merge(&serde_json::from_str(&sent).unwrap());
        let told = lives.told().unwrap();
        assert!((told.min - 0.5).abs() < 0.01, "{told:?}");
        assert!((told.p50 - 50.0).abs() < 1.1, "{told:?}");
    }
}
