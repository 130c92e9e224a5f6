//! What Foretoken aims at beside the others, and what of it was reached.

use serde::{Deserialize, Serialize};

use super::results::Results;
use super::spread::Spread;

/// One aim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Its number.
    pub number: u32,
    /// What is measured.
    pub measure: String,
    /// Each bound that it has.
    pub parts: Vec<Part>,
    /// The worst of its parts.
    pub verdict: Verdict,
}

/// One bound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What it is a bound of.
    pub of: String,
    /// What must be reached.
    pub must: f64,
    /// What is aimed at.
    pub goal: f64,
    /// Whether values must not be less; else they must not be more.
    pub at_least: bool,
    /// What was measured, if it was.
    pub measured: Option<f64>,
    /// What it came to.
    pub verdict: Verdict,
}

/// How a measured value stands to its bounds. From the best to the worst, what is not known last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The aim is reached.
    Goal,
    /// What must be reached is.
    Must,
    /// It is not.
    Missed,
    /// It was not measured, or only in a smoke run.
    NotMeasured,
}

impl Verdict {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Goal => "goal",
            Self::Must => "must",
            Self::Missed => "missed",
            Self::NotMeasured => "not measured",
        }
    }
}

/// Which value of Foretoken's in a workload.
enum Of {
    /// By this server's: the least of all rounds by the least of the other's.
    Quietest(&'static str),
    /// By this server's: the middle of the ratios within one round.
    SameRound(&'static str),
    /// The value in the quietest round.
    Least,
    /// The value in the worst round: what must never happen.
    Most,
}

struct Bound {
    what: &'static str,
    workload: &'static str,
    figure: &'static str,
    of: Of,
    must: f64,
    goal: f64,
    at_least: bool,
}

use Of::{Least, Most, Quietest, SameRound};

const fn most(
    what: &'static str,
    workload: &'static str,
    figure: &'static str,
    of: Of,
    must: f64,
    goal: f64,
) -> Bound {
    Bound {
        what,
        workload,
        figure,
        of,
        must,
        goal,
        at_least: false,
    }
}

const fn least(
    what: &'static str,
    workload: &'static str,
    figure: &'static str,
    of: Of,
    must: f64,
    goal: f64,
) -> Bound {
    Bound {
        what,
        workload,
        figure,
        of,
        must,
        goal,
        at_least: true,
    }
}

const CPU: &str = "cpu_us_per_request";

#[rustfmt::skip]
const GOALS: [(&str, &[Bound]); 13] = [
    ("CPU for each request, nginx `return 200` = 1",
        &[most("ratio", "keepalive", CPU, Quietest("nginx-return"), 1.05, 0.75)]),
    ("CPU for each request, nginx proxy_cache with open_file_cache = 1",
        &[most("ratio", "keepalive", CPU, Quietest("nginx-cache"), 0.75, 0.53)]),
    ("CPU for each request, the limit = 1",
        &[most("ratio", "keepalive", CPU, Quietest("limit"), 1.65, 1.16)]),
    ("Unix socket, CPU for each request, nginx `return 200` = 1",
        &[most("ratio", "unix", CPU, Quietest("nginx-return"), 1.05, 0.70)]),
    ("p99 at 20,000 requests a second, nginx proxy_cache = 1",
        &[most("ratio", "open", "p99_us", SameRound("nginx-cache"), 0.95, 0.85)]),
    ("A link for each request, CPU, nginx `return 200` = 1",
        &[most("ratio", "connect-each", CPU, Quietest("nginx-return"), 1.20, 1.05)]),
    ("Pipelines of 16, answers a second, nginx `return 200` = 1",
        &[least("ratio", "pipelined", "answers_per_s", SameRound("nginx-return"), 3.0, 4.0)]),
    ("Memory of an idle link, of 10,000", &[
        most("KiB", "idle", "kib_per_link", Least, 4.0, 1.0),
        // Given back: at most a tenth of what the goal allows is kept.
        most("KiB kept after the close", "idle", "kept_kib_per_link", Least, 4.0, 0.1),
    ]),
    ("A herd of 1,000 on one key", &[
        most("upstream calls", "herd", "upstream_calls", Most, 1.0, 1.0),
        most("ms from the upstream's answer to the last client's", "herd", "last_after_ms", Least, 100.0, 40.0),
    ]),
    ("Expiry under load, the upstream takes 500 ms", &[
        most("requests that waited for the upstream", "expiry", "waited", Least, 0.0, 0.0),
        most("ms of the longest latency", "expiry", "max_ms", Least, 100.0, 5.0),
    ]),
    ("A dense machine, nginx `return 200` = 1", &[
        least("ratio of answers a second", "dense", "answers_per_s", SameRound("nginx-return"), 1.5, 2.2),
        most("ratio of p99", "dense", "p99_us", SameRound("nginx-return"), 0.8, 0.6),
    ]),
    ("Restart to the first good answer, 1,000 keys",
        &[most("ms", "restart", "first_answer_ms", Least, 50.0, 15.0)]),
    ("Memory with 10,000 keys and 1,000 links",
        &[most("KiB", "footprint", "rss_kib", Most, 65_536.0, 40_960.0)]),
];

/// Holds what was measured against the aims.
pub(super) fn goals(results: &Results) -> Vec<Goal> {
    let goals = (1..).zip(&GOALS);
    let goals = goals.map(|(number, (measure, bounds))| {
        let parts: Vec<_> = bounds.iter().map(|bound| bound.part(results)).collect();
        Goal {
            number,
            measure: (*measure).to_owned(),
            verdict: parts
                .iter()
                .map(|part| part.verdict)
                .max()
                .unwrap_or(Verdict::NotMeasured),
            parts,
        }
    });
    goals.collect()
}

impl Bound {
    fn part(&self, results: &Results) -> Part {
        let measured = self.measured(results);
        Part {
            of: self.what.to_owned(),
            must: self.must,
            goal: self.goal,
            at_least: self.at_least,
            measured,
            verdict: measured.map_or(Verdict::NotMeasured, |value| self.verdict(value)),
        }
    }

    fn measured(&self, results: &Results) -> Option<f64> {
        let workload = results
            .workloads
            .iter()
            .find(|it| it.name == self.workload)?;
        if workload.quick {
            return None;
        }
        let own = results.measured(self.workload, "foretoken")?;
        let spread = || own.figures.get(self.figure).copied();
        let ratio = |base: &str| own.ratios.get(base)?.get(self.figure).copied();
        match self.of {
            Quietest(base) => ratio(base).map(|ratio| ratio.quietest),
            SameRound(base) => ratio(base).map(|ratio| ratio.same_round.median),
            Least => spread().map(|Spread { min, .. }| min),
            Most => spread().map(|Spread { max, .. }| max),
        }
    }

    fn verdict(&self, value: f64) -> Verdict {
        let reached = |bound: f64| {
            if self.at_least {
                value >= bound
            } else {
                value <= bound
            }
        };
        if reached(self.goal) {
            Verdict::Goal
        } else if reached(self.must) {
            Verdict::Must
        } else {
            Verdict::Missed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compare::figures::FIGURES;
    use crate::compare::machine::Machine;
    use crate::compare::results::{Measured, Workload};
    use crate::compare::workload::WORKLOADS;

    fn results(rate: [f64; 2], p99: [f64; 2], quick: bool) -> Results {
        let server = |name: &str, at: usize| Measured {
            name: name.to_owned(),
            rounds: vec![BTreeMap::from([
                ("answers_per_s".to_owned(), rate[at]),
                ("p99_us".to_owned(), p99[at]),
            ])],
            ..Measured::default()
        };
        let mut workload = Workload {
            name: "dense".to_owned(),
            about: String::new(),
            quick,
            servers: vec![server("nginx-return", 0), server("foretoken", 1)],
            left_out: BTreeMap::new(),
        };
        workload.sum_up();
        let mut results = Results::new(Machine::here(), None);
        results.put(workload);
        results
    }

    fn dense(results: &Results) -> Verdict {
        goals(results)[10].verdict
    }

    #[test]
    fn a_goal_is_as_good_as_its_worst_part() {
        for (rate, p99, verdict) in [
            (2.2, 0.6, Verdict::Goal),
            (2.1, 0.6, Verdict::Must),
            (2.2, 0.7, Verdict::Must),
            (1.4, 0.1, Verdict::Missed),
            (9.0, 0.9, Verdict::Missed),
        ] {
            let results = results([100.0, 100.0 * rate], [100.0, 100.0 * p99], false);
            assert_eq!(dense(&results), verdict, "{rate} {p99}");
        }
    }

    #[test]
    fn what_was_not_measured_or_in_a_smoke_run_only_has_no_verdict() {
        assert_eq!(
            dense(&results([1.0, 9.0], [1.0, 0.1], true)),
            Verdict::NotMeasured
        );
        let nothing = Results::new(Machine::here(), None);
        let all = goals(&nothing);
        assert_eq!(all.len(), 13);
        assert!(all.iter().all(|goal| goal.verdict == Verdict::NotMeasured));
    }

    #[test]
    fn every_goal_is_of_a_workload_and_a_figure_that_there_are() {
        for bound in GOALS.iter().flat_map(|(_, bounds)| *bounds) {
            assert!(
                WORKLOADS.iter().any(|it| it.name == bound.workload),
                "{}",
                bound.workload
            );
            assert!(
                FIGURES.iter().any(|(name, _)| *name == bound.figure),
                "{}",
                bound.figure
            );
        }
    }
}
