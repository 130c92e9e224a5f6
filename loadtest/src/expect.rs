//! What a scenario is to come to: counts, and bounds that they keep. Never a time: those are the
//! machine's.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::outcome::{Counts, Wrong};
use crate::report::{Load, Report};

/// Bounds by the name of the count.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Expect(BTreeMap<String, Bound>);

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Bound {
    Exactly(u64),
    Within(Within),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Within {
    at_least: Option<u64>,
    at_most: Option<u64>,
}

/// One count, and whether it kept its bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// The name of the count, after that of its load if it is one's.
    pub name: String,
    /// Its bound, in words.
    pub wanted: String,
    /// What it was; null if nobody counted it.
    pub was: Option<u64>,
    /// Whether that is within the bound.
    pub kept: bool,
}

/// Counts of one load, or of all together, warm-ups included.
const OF_LOADS: [&str; 8] = [
    "right",
    "wrong",
    "dead",
    "refused",
    "failed",
    "links_opened",
    "links_closed_idle",
    "restarts",
];
/// Counts of the whole.
const OF_ALL: [&str; 8] = [
    "upstream_calls",
    "throttled",
    "faulted",
    "upstream_refused",
    "peak_per_s",
    "peak_at_once",
    "renewed",
    "slow_right",
];

impl Expect {
    /// Whether each name is one of a load's, or of the whole's.
    pub(crate) fn check(&self, of_one_load: bool) -> anyhow::Result<()> {
        for name in self.0.keys() {
            let known = OF_LOADS.contains(&&**name);
            let known = known || !of_one_load && OF_ALL.contains(&&**name);
            ensure!(known, "nothing is counted as `{name}`, but {}", {
                let rest = if of_one_load { &[][..] } else { &OF_ALL };
                [&OF_LOADS, rest].concat().join(", ")
            });
        }
        Ok(())
    }

    /// What of the whole was expected.
    pub(crate) fn of_all(&self, report: &Report) -> Vec<Expected> {
        self.judged("", |name| {
            if OF_LOADS.contains(&name) {
                return report.loads.iter().map(|load| of_load(load, name)).sum();
            }
            let upstream = report.upstream;
            match name {
                "upstream_calls" => upstream.map(|it| it.calls),
                "throttled" => upstream.map(|it| it.throttled),
                "faulted" => upstream.map(|it| it.faulted),
                "upstream_refused" => upstream.map(|it| it.refused),
                "peak_per_s" => upstream.map(|it| it.peak_per_s),
                "peak_at_once" => upstream.map(|it| it.peak_at_once),
                "renewed" => {
                    let all = report.refreshes.as_ref()?.phases.first()?;
                    Some(all.lag.map_or(0, |lag| lag.renewed))
                }
                "slow_right" => Some(report.slow.iter().map(|slow| slow.counts.right).sum()),
                _ => None,
            }
        })
    }

    /// What of one load was expected.
    pub(crate) fn of_load(&self, load: &Load) -> Vec<Expected> {
        let before = format!("{}: ", load.name);
        self.judged(&before, |name| of_load(load, name))
    }

    fn judged(&self, before: &str, count: impl Fn(&str) -> Option<u64>) -> Vec<Expected> {
        let judged = self.0.iter().map(|(name, bound)| {
            let was = count(name);
            Expected {
                name: format!("{before}{name}"),
                wanted: bound.to_string(),
                was,
                kept: was.is_some_and(|was| bound.holds(was)),
            }
        });
        judged.collect()
    }
}

fn of_load(load: &Load, name: &str) -> Option<u64> {
    let both = |count: fn(&Counts) -> u64| Some(count(&load.counts) + count(&load.warm_up));
    match name {
        "right" => both(|counts| counts.right),
        "wrong" => both(Counts::wrong_in_all),
        "dead" => both(|counts| {
            let dead = counts.wrong.get(Wrong::Expired.as_str());
            dead.copied().unwrap_or(0)
        }),
        "refused" => both(Counts::refused),
        "failed" => both(Counts::failed_in_all),
        "links_opened" => Some(load.links_opened),
        "links_closed_idle" => Some(load.links_closed_idle),
        "restarts" => Some(load.restarts),
        _ => None,
    }
}

impl Bound {
    fn holds(self, was: u64) -> bool {
        match self {
            Self::Exactly(wanted) => was == wanted,
            Self::Within(Within { at_least, at_most }) => {
                at_least.is_none_or(|least| was >= least) && at_most.is_none_or(|most| was <= most)
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(wanted) => write!(f, "{wanted}"),
            Self::Within(within) => match (within.at_least, within.at_most) {
                (Some(least), Some(most)) => write!(f, "{least} to {most}"),
                (Some(least), None) => write!(f, "at least {least}"),
                (None, Some(most)) => write!(f, "at most {most}"),
                (None, None) => write!(f, "anything"),
            },
        }
    }
}

/// Whether all names are known, those of each load too.
pub(crate) fn check(all: &Expect, loads: &[(&str, &Expect)]) -> anyhow::Result<()> {
    all.check(false).context("[expect]")?;
    for (name, expect) in loads {
        expect.check(true).with_context(|| format!("load {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Driven;
    use crate::outcome::{Failed, Outcome};
    use crate::plan::Plan;
    use crate::report::ClientUse;

    fn report() -> Report {
        let mut driven = Driven::default();
        for outcome in [
            Outcome::Right,
            Outcome::Right,
            Outcome::Refused(503),
            Outcome::Failed(Failed::Cut),
            Outcome::Wrong(Wrong::Expired),
        ] {
            driven.counts.add(outcome);
        }
        driven.warm_up.add(Outcome::Right);
        let plan = Plan::new("unix:/x".parse().unwrap());
        let client = ClientUse {
            cpu_s: 0.0,
            cpu_us_per_request: 0.0,
        };
        Report::new(vec![Load::new("a", &plan, driven, 0)], client)
    }

    fn kept(text: &str) -> bool {
        let expect: Expect = toml::from_str(text).unwrap();
        expect.check(false).unwrap();
        let report = report();
        let judged = expect.of_all(&report);
        assert_eq!(judged.len(), 1);
        judged[0].kept
    }

    #[test]
    fn bounds_are_kept_or_not() {
        for (text, held) in [
            ("right = 3", true),
            ("right = 2", false),
            ("right = { at_least = 3 }", true),
            ("right = { at_least = 4 }", false),
            ("refused = { at_most = 1 }", true),
            ("refused = { at_most = 0 }", false),
            ("dead = 1", true),
            ("wrong = 0", false),
            ("failed = { at_least = 1, at_most = 1 }", true),
        ] {
            assert_eq!(kept(text), held, "{text}");
        }
        assert!(!kept("throttled = 0"), "nobody counted it");
    }

    #[test]
    fn what_nothing_is_counted_as_is_refused() {
        let unknown: Expect = toml::from_str("p99 = 0").unwrap();
        let told = unknown.check(false).unwrap_err().to_string();
        assert!(
            told.starts_with("nothing is counted as `p99`, but right, "),
            "{told}"
        );
        let of_all: Expect = toml::from_str("throttled = 0").unwrap();
        assert!(of_all.check(true).is_err(), "no load counts that");
        assert!(toml::from_str::<Expect>("right = { most = 1 }").is_err());
    }
}
