//! A scenario: what happens to the endpoint, and when.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::Limits;
use crate::{Latency, Planned, Pressure};

/// A timeline of phases. [`Scenario::from_toml`] reads one; the README describes the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it plays, for people.
    pub about: String,
    /// The seed of what is left to chance.
    pub seed: u64,
    /// How many seconds of the timeline pass in one.
    pub scale: f64,
    /// The life of tokens, in the time of the timeline; `None` leaves it as it is.
    pub lifetime: Option<Duration>,
    /// The share of its life at or below which a token is replaced; `None` leaves it as it is.
    pub reissue_below: Option<f64>,
    /// The limits where a phase says nothing else; `None` leaves them as they are.
    pub limits: Option<Limits>,
    /// In the order of their start, and none over another.
    pub phases: Vec<Phase>,
}

/// A span of the timeline, and what is so while it lasts.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// What it is called.
    pub name: String,
    /// From the start of the timeline to its own.
    pub at: Duration,
    /// How long it lasts; `None` until the next one, and for the last one for ever.
    pub length: Option<Duration>,
    /// The limits while it lasts.
    pub limits: Option<Limits>,
    /// How long answers take while it lasts. These waits are not scaled.
    pub latency: Option<Latency>,
    /// How capacity comes back while it lasts. Its rates are not scaled, its spans are.
    pub pressure: Option<Pressure>,
    /// What goes wrong while it lasts.
    pub faults: Vec<Planned>,
    /// Whether tokens issued before it are not repeated any more.
    pub forget_tokens: bool,
}

/// Where a scenario stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioState {
    /// What it is called.
    pub name: String,
    /// How many seconds of the timeline pass in one.
    pub scale: f64,
    /// Milliseconds since its start, in the time of the timeline.
    pub at_ms: u64,
    /// The phase now; `None` between two of them.
    pub phase: Option<String>,
    /// The phases begun so far.
    pub phases_begun: usize,
    /// All phases that there are.
    pub phases: usize,
    /// Whether the timeline is over. The state of the last phase stays.
    pub ended: bool,
    /// Requests per second that are served now, where capacity is short.
    pub capacity_per_s: Option<f64>,
}

impl Scenario {
    /// The scales that there are. None is slower than a thousandth.
    pub const SCALES: RangeInclusive<f64> = 0.001..=100_000.0;

    /// The same at another speed; a scale that is none of [`Self::SCALES`] becomes the nearest.
    #[must_use]
    pub fn at_scale(self, scale: f64) -> Self {
        let scale = if scale.is_nan() { 1.0 } else { scale };
        Self {
            scale: scale.clamp(*Self::SCALES.start(), *Self::SCALES.end()),
            ..self
        }
    }

    /// How long a span of the timeline really takes.
    pub(crate) fn scaled(&self, span: Duration) -> Duration {
        let seconds = span.as_secs_f64() / self.scale;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// The life of its tokens as it is told and counted: whole seconds, at least 1.
    pub(crate) fn scaled_lifetime_s(&self) -> Option<u64> {
        let life = self.scaled(self.lifetime?);
        Some(life.as_secs().max(1))
    }

    /// A recovery whose spans take as long as they really do.
    pub(crate) fn scaled_pressure(&self, pressure: Pressure) -> Pressure {
        let scaled_ms = |ms| {
            let scaled = self.scaled(Duration::from_millis(ms)).as_millis();
            u64::try_from(scaled)
                .unwrap_or(u64::MAX)
                .max(u64::from(ms > 0))
        };
        Pressure {
            heals_in_ms: scaled_ms(pressure.heals_in_ms),
            setback_ms: scaled_ms(pressure.setback_ms),
            ..pressure
        }
    }

    /// The whole of the timeline; `None` if its last phase does not end.
    #[must_use]
    pub fn length(&self) -> Option<Duration> {
        let last = self.phases.last()?;
        Some(last.at.saturating_add(last.length?))
    }
}
