//! A figure over several rounds.

use serde::{Deserialize, Serialize};

use crate::report::rounded;

/// A figure over the rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The most.
    pub max: f64,
}

/// A figure divided by another server's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Over the rounds, each divided by the same round of the other.
    #[serde(flatten)]
    pub same_round: Spread,
    /// The best of all rounds by the best of the other's: of times the least, of rates the most.
    pub quietest: f64,
}

impl Spread {
    /// Of all zero if there are none.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self {
            min: rounded(*min),
            median: rounded(median),
            max: rounded(*max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_of_rounds_is_between_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0].into_iter());
        assert_eq!(
            spread,
            Spread {
                min: 1.0,
                median: 3.0,
                max: 9.0
            }
        );
    }
}
