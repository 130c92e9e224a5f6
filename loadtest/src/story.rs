//! What happened around the loads, over the same time as their intervals: calls upstream, and the
//! phases of the emulator's scenario.

use foretoken_emulator::{Counts, Scenario};
use serde::Serialize;

use crate::timeline::since_s;

/// The time of the measurement, as it was outside the loads.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Story {
    /// From when all times in the results count, in milliseconds since the Unix epoch: the first
    /// interval of a load.
    pub from_unix_ms: u64,
    /// The most calls a second that the emulator serves, if it has a limit and tells it.
    pub limit_per_s: Option<u64>,
    /// The most calls a second that the server is to make, as far as the scenario says.
    pub budget_per_s: Option<u64>,
    /// Calls upstream, second by second.
    pub upstream: Seconds,
    /// When each call upstream arrived, the first [`MAX_CALLS`] of them.
    pub calls_at_s: Vec<f64>,
    /// The phases of the emulator's scenario.
    pub phases: Vec<PhaseSpan>,
}

/// Most calls that are told one by one.
const MAX_CALLS: usize = 2_000;

/// Seconds in which something happened upstream, a column for each figure.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Seconds {
    /// When the second began.
    pub at_s: Vec<f64>,
    /// Token calls that arrived.
    pub calls: Vec<u64>,
    /// Of these, answered 429 by the limits.
    pub throttled: Vec<u64>,
    /// Requests spoilt by a fault, or refused for want of capacity.
    pub faulted: Vec<u64>,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseSpan {
    /// What it is called.
    pub name: String,
    /// When it began.
    pub from_s: f64,
    /// When it was over; null if it lasted.
    pub to_s: Option<f64>,
    /// What went wrong in it.
    pub faults: Vec<String>,
}

/// A scenario, and when it began.
pub(crate) struct Played<'a> {
    pub scenario: &'a Scenario,
    pub began_ms: u64,
}

impl Played<'_> {
    /// Each phase with its begin and its end by the wall clock.
    pub(crate) fn phases(&self) -> Vec<(&str, u64, Option<u64>)> {
        let phases = &self.scenario.phases;
        let at_ms = |at: std::time::Duration| {
            let scaled = at.div_f64(self.scenario.scale);
            self.began_ms + crate::timeline::millis(scaled)
        };
        let next = phases.iter().skip(1).map(|next| Some(next.at));
        let with_next = phases.iter().zip(next.chain([None]));
        with_next
            .map(|(phase, next)| {
                let ends = phase.length.map(|length| phase.at + length).or(next);
                (&*phase.name, at_ms(phase.at), ends.map(at_ms))
            })
            .collect()
    }

    fn spans(&self, from_ms: u64) -> Vec<PhaseSpan> {
        let timed = self.phases().into_iter().zip(&self.scenario.phases);
        timed
            .map(|((name, began_ms, ended_ms), phase)| PhaseSpan {
                name: name.to_owned(),
                from_s: since_s(began_ms, from_ms),
                to_s: ended_ms.map(|ended_ms| since_s(ended_ms, from_ms)),
                faults: phase
                    .faults
                    .iter()
                    .map(|fault| fault.mode.clone())
                    .collect(),
            })
            .collect()
    }
}

impl Story {
    /// `counts` are those of the emulator at the end; what was before `from_ms` is left out.
    pub(crate) fn new(from_ms: u64, counts: Option<&Counts>, played: Option<&Played>) -> Self {
        let mut story = Self {
            from_unix_ms: from_ms,
            phases: played.map_or_else(Vec::new, |played| played.spans(from_ms)),
            ..Self::default()
        };
        let Some(counts) = counts else {
            return story;
        };
        for second in &counts.seconds {
            let at_ms = second.unix_s * 1_000;
            if at_ms + 1_000 > from_ms {
                story.upstream.at_s.push(since_s(at_ms, from_ms));
                story.upstream.calls.push(second.calls);
                story.upstream.throttled.push(second.throttled);
                story
                    .upstream
                    .faulted
                    .push(second.faulted + second.overloaded);
            }
        }
        let arrived = counts.arrivals_unix_ms.iter().filter(|at| **at >= from_ms);
        let arrived = arrived.map(|at_ms| since_s(*at_ms, from_ms));
        story.calls_at_s = arrived.take(MAX_CALLS).collect();
        story
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_in_the_time_of_the_load() {
        let scenario = Scenario::from_toml(
            "name = 'x'\nscale = 10\n[[phase]]\nname = 'well'\nat = '0s'\n[[phase]]\nname = 'ill'\n\
             at = '20s'\nfor = '10s'\n[[phase.fault]]\nmode = 'hang'\n",
        );
        let played = Played {
            scenario: &scenario.unwrap(),
            began_ms: 5_000,
        };
        let counts = Counts {
            arrivals_unix_ms: vec![5_900, 6_100],
            seconds: [4, 5, 6]
                .map(|unix_s| foretoken_emulator::Second {
                    unix_s,
                    calls: 1,
                    ..Default::default()
                })
                .to_vec(),
            ..Counts::default()
        };
        let story = Story::new(6_000, Some(&counts), Some(&played));
        let [well, ill] = &story.phases[..] else {
            panic!("{story:?}");
        };
        assert_eq!((well.from_s, well.to_s), (-1.0, Some(1.0)));
        assert_eq!((ill.from_s, ill.to_s), (1.0, Some(2.0)));
        assert_eq!(ill.faults, ["hang"]);
        assert_eq!(story.calls_at_s, [0.1]);
        assert_eq!(story.upstream.at_s, [0.0]);
    }
}
