//! Waits of one interval: small, as there may be thousands of these.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::report::float;

/// The unit of the waits kept: finer than the quickest answer.
const UNIT: Duration = Duration::from_nanos(100);
/// Waits to two digits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u32)>", into = "Vec<(u64, u32)>")]
pub(crate) struct Waits(Histogram<u32>);

impl Default for Waits {
    fn default() -> Self {
        Self(Histogram::new(2).expect("two digits"))
    }
}

impl From<Vec<(u64, u32)>> for Waits {
    fn from(counted: Vec<(u64, u32)>) -> Self {
        let mut waits = Self::default();
        for (value, count) in counted {
            waits.0.record_n(value, count).expect("it grows");
        }
        waits
    }
}

impl From<Waits> for Vec<(u64, u32)> {
    fn from(waits: Waits) -> Self {
        let counted = waits.0.iter_recorded();
        counted
            .map(|it| (it.value_iterated_to(), it.count_at_value()))
            .collect()
    }
}

impl Waits {
    pub(crate) fn record(&mut self, wait: Duration) {
        let units = wait.as_nanos() / UNIT.as_nanos();
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        self.0.record(units).expect("it grows");
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds; 0 if there are none.
    pub(crate) fn at(&self, quantile: f64) -> f64 {
        float(self.0.value_at_quantile(quantile)) / 10.0
    }
}
