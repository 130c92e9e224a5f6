//! Which key the next request is for.

/// The resource of a key: those of one key are Azure's own, those of many are made up.
pub(crate) fn resource(key: usize, keys: usize) -> String {
    if keys == 1 {
        "https://vault.azure.net".to_owned()
    } else {
        format!("https://key-{key:05}.load.test")
    }
}

/// Chooses among weighted things.
#[derive(Debug)]
pub(crate) struct Choice {
    /// For each thing, the weight of it and of all before it.
    sums: Box<[f64]>,
}

impl Choice {
    /// Keys by Zipf's law; key 0 is asked for most.
    pub(crate) fn of_keys(keys: usize, skew: f64) -> Self {
        Self::new((1..=keys).map(|rank| f64_of(rank).powf(-skew)))
    }

    /// At least one weight must be more than 0.
    pub(crate) fn new(weights: impl Iterator<Item = f64>) -> Self {
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self {
            sums: sums.collect(),
        }
    }

    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let last = self.sums.len() - 1;
        if last == 0 {
            return 0;
        }
        let at = random.f64() * self.sums[last];
        self.sums.partition_point(|sum| *sum <= at).min(last)
    }
}

/// Exact: there are fewer things than a `u32` can count.
fn f64_of(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(choice: &Choice, draws: usize) -> Vec<usize> {
        let mut counts = vec![0; choice.sums.len()];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..draws {
            counts[choice.draw(&mut random)] += 1;
        }
        counts
    }

    #[test]
    fn without_a_skew_all_keys_are_asked_for_alike() {
        let counts = drawn(&Choice::of_keys(10, 0.0), 100_000);
        assert!(
            counts.iter().all(|n| (9_500..10_500).contains(n)),
            "{counts:?}"
        );
    }

    #[test]
    fn with_a_skew_of_one_the_first_key_is_asked_for_twice_as_often_as_the_second() {
        let counts = drawn(&Choice::of_keys(10_000, 1.0), 1_000_000);
        // 1 / H(10,000) = 0.1022
        assert!((98_000..106_000).contains(&counts[0]), "{}", counts[0]);
        assert!((48_000..54_000).contains(&counts[1]), "{}", counts[1]);
        assert!(counts.iter().filter(|n| **n > 0).count() > 9_000);
    }

    #[test]
    fn what_has_no_weight_is_never_chosen() {
        let counts = drawn(&Choice::new([0.0, 1.0, 0.0, 3.0, 0.0].into_iter()), 4_000);
        assert_eq!((counts[0], counts[2], counts[4]), (0, 0, 0));
        assert!((900..1_100).contains(&counts[1]), "{counts:?}");
    }
}
