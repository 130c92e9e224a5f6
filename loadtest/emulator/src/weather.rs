//! What slows an endpoint down without breaking it: how long answers take, and how much of its
//! capacity is left.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The longest wait that a distribution gives; what lies beyond is cut off there.
const LONGEST_MS: f64 = 600_000.0;

/// How long granted token requests wait, drawn anew for each.
///
/// As JSON: `{"lognormal":{"median_ms":40,"sigma":0.6}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Latency {
    /// Always the same.
    Constant {
        /// Milliseconds.
        ms: f64,
    },
    /// Any between two, each as likely.
    Uniform {
        /// The shortest, in milliseconds.
        from_ms: f64,
        /// The longest, in milliseconds.
        to_ms: f64,
    },
    /// Around a mean; what falls below nothing is nothing.
    Normal {
        /// The mean, in milliseconds.
        mean_ms: f64,
        /// The standard deviation, in milliseconds.
        sd_ms: f64,
    },
    /// Half of them below the median, and a long tail above.
    Lognormal {
        /// The median, in milliseconds.
        median_ms: f64,
        /// The standard deviation of the logarithm: at 1, one in 100 takes ten times the median.
        sigma: f64,
    },
    /// As measured: pairs of a percentile and its milliseconds, with straight lines between.
    Percentiles(Vec<(f64, f64)>),
}

impl Latency {
    /// What is wrong with it, if something is.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        let is_span = |ms: f64| (0.0..=LONGEST_MS).contains(&ms);
        let fine = match self {
            Self::Constant { ms } => is_span(*ms),
            Self::Uniform { from_ms, to_ms } => {
                if from_ms > to_ms {
                    return Some("`from` is more than `to`");
                }
                is_span(*from_ms) && is_span(*to_ms)
            }
            Self::Normal { mean_ms, sd_ms } => is_span(*mean_ms) && is_span(*sd_ms),
            Self::Lognormal { median_ms, sigma } => {
                if !(0.0..=5.0).contains(sigma) {
                    return Some("`sigma` is from 0 to 5");
                }
                is_span(*median_ms)
            }
            Self::Percentiles(points) => {
                let rises = points
                    .windows(2)
                    .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
                let at = |point: Option<&(f64, f64)>, wanted: f64| {
                    point.is_some_and(|(at, _)| at.total_cmp(&wanted).is_eq())
                };
                if !rises || !at(points.first(), 0.0) || !at(points.last(), 100.0) {
                    return Some("percentiles rise from 0 to 100, and their times with them");
                }
                points.iter().all(|(_, ms)| is_span(*ms))
            }
        };
        (!fine).then_some("a wait is from 0 to 10 minutes")
    }

    fn draw(&self, dice: &mut fastrand::Rng) -> Duration {
        let ms = match self {
            Self::Constant { ms } => *ms,
            Self::Uniform { from_ms, to_ms } => from_ms + dice.f64() * (to_ms - from_ms),
            Self::Normal { mean_ms, sd_ms } => mean_ms + sd_ms * normal(dice),
            Self::Lognormal { median_ms, sigma } => median_ms * (sigma * normal(dice)).exp(),
            Self::Percentiles(points) => between(points, 100.0 * dice.f64()),
        };
        Duration::from_secs_f64(ms.clamp(0.0, LONGEST_MS) / 1000.0)
    }
}

/// Around 0 with a standard deviation of 1 (Box and Muller).
fn normal(dice: &mut fastrand::Rng) -> f64 {
    // 1 is never drawn, so that the logarithm is that of more than 0.
    let radius = (-2.0 * (1.0 - dice.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * dice.f64()).cos()
}

/// The value at a percentile, on the straight line between the points around it.
fn between(points: &[(f64, f64)], percentile: f64) -> f64 {
    let above = points.iter().position(|(at, _)| *at > percentile);
    let Some(above) = above.filter(|above| *above > 0) else {
        return points.last().map_or(0.0, |(_, ms)| *ms);
    };
    let ((from, low), (to, high)) = (points[above - 1], points[above]);
    low + (high - low) * (percentile - from) / (to - from)
}

/// Capacity that has fallen, comes back by itself, and falls again under pressure: every request
/// that finds none left puts the recovery back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pressure {
    /// Requests per second that are served where recovery begins; above 0.
    pub from_per_s: f64,
    /// Requests per second that are served where it ends.
    pub to_per_s: f64,
    /// How long it takes, in milliseconds, if nobody asks for more than there is.
    pub heals_in_ms: u64,
    /// How far, in milliseconds, a refused request puts it back.
    pub setback_ms: u64,
    /// How much of it lies behind at the start: from 0 to 1.
    #[serde(default)]
    pub begins_at: f64,
    /// The status of those who are refused: 300 to 599.
    #[serde(default = "not_available")]
    pub status: u16,
}

fn not_available() -> u16 {
    503
}

impl Pressure {
    /// What is wrong with it, if something is.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        let rates = [self.from_per_s, self.to_per_s];
        if !(rates.iter().all(|rate| *rate > 0.0 && *rate <= 1e6) && rates[0] <= rates[1]) {
            return Some("rates are above 0 and at most a million, and `from` is not above `to`");
        }
        if !(0.0..=1.0).contains(&self.begins_at) {
            return Some("`begins_at` is from 0 to 1");
        }
        (!(300..600).contains(&self.status)).then_some("status must be 300 to 599")
    }
}

/// How far a recovery has come.
struct Recovery {
    pressure: Pressure,
    /// From 0 to 1.
    progress: f64,
    /// Requests that may be served at once.
    credit: f64,
    last: Instant,
}

impl Recovery {
    fn new(pressure: Pressure, now: Instant) -> Self {
        let mut recovery = Self {
            pressure,
            progress: pressure.begins_at,
            credit: 0.0,
            last: now,
        };
        recovery.credit = recovery.per_s().max(1.0);
        recovery
    }

    fn per_s(&self) -> f64 {
        let Pressure {
            from_per_s,
            to_per_s,
            ..
        } = self.pressure;
        from_per_s + (to_per_s - from_per_s) * self.progress
    }

    /// Whether there is capacity for one request more.
    fn serve(&mut self, now: Instant) -> bool {
        let span_s = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.progress = (self.progress + share(span_s, self.pressure.heals_in_ms)).min(1.0);
        let per_s = self.per_s();
        // No more than a second's worth is saved up, and one request always can be.
        self.credit = (self.credit + span_s * per_s).min(per_s.max(1.0));
        if self.credit >= 1.0 {
            self.credit -= 1.0;
            return true;
        }
        let back_s = Duration::from_millis(self.pressure.setback_ms).as_secs_f64();
        self.progress = (self.progress - share(back_s, self.pressure.heals_in_ms)).max(0.0);
        false
    }
}

/// Which share of a span in milliseconds these seconds are.
fn share(seconds: f64, of_ms: u64) -> f64 {
    seconds / Duration::from_millis(of_ms.max(1)).as_secs_f64()
}

/// The weather of the moment.
pub(crate) struct Weather {
    latency: Option<Latency>,
    recovery: Option<Recovery>,
    dice: fastrand::Rng,
}

impl Weather {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            latency: None,
            recovery: None,
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    pub(crate) fn set_latency(&mut self, latency: Option<Latency>) {
        self.latency = latency;
    }

    pub(crate) fn set_pressure(&mut self, pressure: Option<Pressure>, now: Instant) {
        self.recovery = pressure.map(|pressure| Recovery::new(pressure, now));
    }

    pub(crate) fn seed(&mut self, seed: u64) {
        self.dice = fastrand::Rng::with_seed(seed);
    }

    pub(crate) fn shown_latency(&self) -> Option<&Latency> {
        self.latency.as_ref()
    }

    /// Requests per second that are served now, if capacity is short.
    pub(crate) fn capacity_per_s(&self) -> Option<f64> {
        self.recovery.as_ref().map(Recovery::per_s)
    }

    /// How long the next granted request waits.
    pub(crate) fn latency(&mut self, otherwise_ms: u64) -> Duration {
        match &self.latency {
            Some(latency) => latency.draw(&mut self.dice),
            None => Duration::from_millis(otherwise_ms),
        }
    }

    /// The status to refuse the next request with, if there is no capacity for it.
    pub(crate) fn refuse(&mut self, now: Instant) -> Option<u16> {
        let recovery = self.recovery.as_mut()?;
        (!recovery.serve(now)).then_some(recovery.pressure.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::steady;

    fn drawn(latency: Latency) -> Vec<f64> {
        assert_eq!(latency.mistake(), None);
        let mut weather = Weather::new(3);
        weather.set_latency(Some(latency));
        let mut all: Vec<f64> = (0..10_001)
            .map(|_| weather.latency(0).as_secs_f64() * 1000.0)
            .collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn about(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < wanted * 0.05
    }

    #[test]
    fn each_distribution_is_the_one_it_is_called() {
        let constant = drawn(Latency::Constant { ms: 7.0 });
        assert!(about(constant[0], 7.0) && about(constant[10_000], 7.0));

        let (from_ms, to_ms) = (10.0, 30.0);
        let uniform = drawn(Latency::Uniform { from_ms, to_ms });
        assert!(uniform[0] >= 10.0 && uniform[10_000] <= 30.0);
        assert!(about(uniform[2500], 15.0) && about(uniform[7500], 25.0));

        let (mean_ms, sd_ms) = (100.0, 10.0);
        let normal = drawn(Latency::Normal { mean_ms, sd_ms });
        assert!(about(normal[5000], 100.0) && about(normal[8413], 110.0));

        let (median_ms, sigma) = (50.0, 1.0);
        let lognormal = drawn(Latency::Lognormal { median_ms, sigma });
        assert!(about(lognormal[5000], 50.0) && about(lognormal[8413], 50.0 * 1.0_f64.exp()));

        let points = vec![(0.0, 1.0), (50.0, 20.0), (99.0, 400.0), (100.0, 2000.0)];
        let measured = drawn(Latency::Percentiles(points));
        assert!(about(measured[2500], 10.5) && about(measured[7500], 213.9));
        assert!(measured[10_000] <= 2000.0);
    }

    #[test]
    fn the_same_seed_draws_the_same_waits() {
        let draw = |seed| {
            let mut weather = Weather::new(seed);
            weather.set_latency(Some(Latency::Uniform {
                from_ms: 0.0,
                to_ms: 1000.0,
            }));
            [(); 5].map(|()| weather.latency(0))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn impossible_weather_is_refused() {
        for latency in [
            Latency::Constant { ms: -1.0 },
            Latency::Constant { ms: f64::NAN },
            Latency::Uniform {
                from_ms: 2.0,
                to_ms: 1.0,
            },
            Latency::Lognormal {
                median_ms: 1.0,
                sigma: 9.0,
            },
            Latency::Percentiles(vec![]),
            Latency::Percentiles(vec![(0.0, 1.0), (50.0, 2.0)]),
            Latency::Percentiles(vec![(0.0, 5.0), (100.0, 2.0)]),
        ] {
            assert!(latency.mistake().is_some(), "{latency:?}");
        }
        assert!(pressure(0.0, 1.0).mistake().is_some());
        assert!(pressure(2.0, 1.0).mistake().is_some());
    }

    fn pressure(from_per_s: f64, to_per_s: f64) -> Pressure {
        Pressure {
            from_per_s,
            to_per_s,
            heals_in_ms: 100_000,
            setback_ms: 1000,
            begins_at: 0.0,
            status: 503,
        }
    }

    /// Asks this often per second for this many seconds; the capacity at the end.
    fn hammered(asks_per_s: u32, seconds: u32) -> f64 {
        let (mut weather, start) = (Weather::new(1), steady());
        weather.set_pressure(Some(pressure(1.0, 21.0)), start);
        for ask in 0..asks_per_s * seconds {
            weather.refuse(start + Duration::from_secs(1) * ask / asks_per_s);
        }
        weather.capacity_per_s().unwrap()
    }

    #[test]
    fn capacity_comes_back_unless_it_is_hammered() {
        assert!(about(hammered(1, 101), 21.0));
        assert!(
            about(hammered(50, 101), 1.0),
            "each second brings 1, and takes 49 away"
        );
        assert!(hammered(3, 101) < hammered(1, 101));
    }

    #[test]
    fn what_is_left_of_the_capacity_is_served() {
        let (mut weather, now) = (Weather::new(1), steady());
        assert_eq!(
            weather.refuse(now),
            None,
            "without pressure nobody is refused"
        );
        weather.set_pressure(Some(pressure(2.0, 2.0)), now);
        let refused = [(); 4].map(|()| weather.refuse(now));
        assert_eq!(refused, [None, None, Some(503), Some(503)]);
        assert_eq!(weather.refuse(now + Duration::from_millis(500)), None);
        // What was not asked for is not saved up beyond a second's worth.
        let later = now + Duration::from_secs(100);
        let refused = [(); 3].map(|()| weather.refuse(later));
        assert_eq!(refused, [None, None, Some(503)]);
    }
}
