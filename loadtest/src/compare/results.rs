//! What a comparison came to, in the one schema that the README describes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::figures::{FIGURES, Figure};
use super::goals::Goal;
use super::machine::Machine;
use super::spread::{Ratio, Spread};
use crate::outcome::Counts;
use crate::report::rounded;

/// The version of the schema: it changes when a member changes its meaning or goes.
const SCHEMA: u32 = 1;
/// Whose figures the others' are divided by.
pub(super) const BASES: [&str; 3] = ["nginx-return", "nginx-cache", "limit"];

/// All of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// The version of this schema.
    pub schema: u32,
    /// `compare`, which tells it from the results of a load.
    pub name: String,
    /// Where it was measured.
    pub machine: Machine,
    /// The commit of the tree in which it was started, if that is one.
    pub commit: Option<String>,
    /// Every server, those too that are not here.
    pub servers: Vec<Server>,
    /// What each figure is.
    pub figures: BTreeMap<String, Figure>,
    /// What was measured, in the order in which it was.
    pub workloads: Vec<Workload>,
    /// What is aimed at, and what of it was reached.
    pub goals: Vec<Goal>,
}

/// A server that is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name here.
    pub name: String,
    /// How it is set up.
    pub about: String,
    /// What it says of itself.
    pub version: Option<String>,
    /// Why it was not measured.
    pub missing: Option<String>,
}

/// One workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// What is done.
    pub about: String,
    /// Whether its sizes are those of a smoke run, which tells nothing of speed.
    pub quick: bool,
    /// Those that were measured.
    pub servers: Vec<Measured>,
    /// Those that were not, with why.
    pub left_out: BTreeMap<String, String>,
}

/// One server in one workload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// The figures of each round.
    pub rounds: Vec<BTreeMap<String, f64>>,
    /// Over the rounds.
    pub figures: BTreeMap<String, Spread>,
    /// By the server whose figure divides, in rounds that both have.
    pub ratios: BTreeMap<String, BTreeMap<String, Ratio>>,
    /// What became of the requests of all rounds.
    pub answers: Answers,
}

/// What became of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Answers that were right.
    pub right: u64,
    /// Whole answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// What was wrong with answers of status 200.
    pub wrong: BTreeMap<String, u64>,
    /// Requests without a whole answer, by why.
    pub failed: BTreeMap<String, u64>,
}

impl Results {
    pub(super) fn new(machine: Machine, commit: Option<String>) -> Self {
        let figures = FIGURES.iter();
        Self {
            schema: SCHEMA,
            name: "compare".to_owned(),
            machine,
            commit,
            servers: Vec::new(),
            figures: figures
                .map(|(name, figure)| ((*name).to_owned(), figure.clone()))
                .collect(),
            workloads: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Reads results from a file.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let read = || -> anyhow::Result<Self> {
            let results: Self = serde_json::from_slice(&std::fs::read(file)?)?;
            ensure!(
                results.schema == SCHEMA && results.name == "compare",
                "it is of another schema"
            );
            Ok(results)
        };
        read().with_context(|| format!("no results of a comparison in {}", file.display()))
    }

    /// Takes a workload in, in the place of the one of that name.
    pub(super) fn put(&mut self, workload: Workload) {
        match self
            .workloads
            .iter_mut()
            .find(|it| it.name == workload.name)
        {
            Some(old) => *old = workload,
            None => self.workloads.push(workload),
        }
    }

    /// A server in a workload.
    #[must_use]
    pub fn measured(&self, workload: &str, server: &str) -> Option<&Measured> {
        let workload = self.workloads.iter().find(|it| it.name == workload)?;
        workload.servers.iter().find(|it| it.name == server)
    }

    /// Answers that were wrong and came from Foretoken, or from what has nothing to do but repeat an
    /// answer: a cache that keeps `expires_in` as it was, or serves dead tokens, is what is compared.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        let all = self.workloads.iter().flat_map(|it| &it.servers);
        all.map(|server| {
            let wrong = server.answers.wrong.iter();
            let counts = wrong.filter(|(name, _)| {
                server.name == "foretoken" || !["expired", "expires_in"].contains(&name.as_str())
            });
            counts.map(|(_, count)| count).sum::<u64>()
        })
        .sum()
    }

    /// As JSON, for machines.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings always serialise") + "\n"
    }
}

impl Workload {
    /// Adds up what all rounds had.
    pub(super) fn sum_up(&mut self) {
        for server in &mut self.servers {
            server.figures = server
                .names()
                .map(|name| (name.clone(), server.spread(&name)))
                .collect();
        }
        let all = self.servers.clone();
        for server in &mut self.servers {
            let bases = all
                .iter()
                .filter(|base| BASES.contains(&base.name.as_str()));
            server.ratios = bases
                .filter(|base| base.name != server.name)
                .map(|base| (base.name.clone(), server.by(base)))
                .collect();
        }
    }
}

impl Measured {
    fn names(&self) -> impl Iterator<Item = String> + use<> {
        let names: std::collections::BTreeSet<_> = self
            .rounds
            .iter()
            .flat_map(|round| round.keys().cloned())
            .collect();
        names.into_iter()
    }

    fn spread(&self, name: &str) -> Spread {
        Spread::of(
            self.rounds
                .iter()
                .filter_map(|round| round.get(name).copied()),
        )
    }

    fn by(&self, base: &Self) -> BTreeMap<String, Ratio> {
        let divided = FIGURES.iter().filter(|(_, figure)| figure.divided);
        let ratios = divided.filter_map(|(name, figure)| {
            let pairs = self.rounds.iter().zip(&base.rounds);
            let ratios =
                pairs.filter_map(|(own, other)| Some((own.get(*name)?, other.get(*name)?)));
            let ratios: Vec<_> = ratios
                .filter(|(_, other)| **other > 0.0)
                .map(|(own, other)| own / other)
                .collect();
            if ratios.is_empty() {
                return None;
            }
            let best = |server: &Self| {
                let spread = server.spread(name);
                if figure.more_is_better {
                    spread.max
                } else {
                    spread.min
                }
            };
            let ratio = Ratio {
                same_round: Spread::of(ratios.into_iter()),
                quietest: rounded(best(self) / best(base)),
            };
            Some(((*name).to_owned(), ratio))
        });
        ratios.collect()
    }
}

impl Answers {
    pub(super) fn add(&mut self, counts: &Counts) {
        self.right += counts.right;
        for (status, count) in &counts.by_status {
            *self.by_status.entry(*status).or_default() += count;
        }
        for (name, count) in &counts.wrong {
            *self.wrong.entry((*name).to_owned()).or_default() += count;
        }
        for (name, count) in &counts.failed {
            *self.failed.entry((*name).to_owned()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, cpu: &[f64], rate: &[f64]) -> Measured {
        let rounds = cpu.iter().zip(rate).map(|(cpu, rate)| {
            BTreeMap::from([
                ("cpu_us_per_request".to_owned(), *cpu),
                ("answers_per_s".to_owned(), *rate),
            ])
        });
        Measured {
            name: name.to_owned(),
            rounds: rounds.collect(),
            ..Measured::default()
        }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_of_the_quietest_rounds() {
        let mut workload = Workload {
            name: "x".to_owned(),
            about: String::new(),
            quick: false,
            servers: vec![
                server("foretoken", &[4.0, 9.0, 3.0], &[20.0, 10.0, 30.0]),
                server("nginx-return", &[8.0, 6.0, 4.0], &[10.0, 10.0, 40.0]),
            ],
            left_out: BTreeMap::new(),
        };
        workload.sum_up();
        let [own, base] = &*workload.servers else {
            panic!("two servers")
        };
        assert_eq!(
            own.figures["cpu_us_per_request"],
            Spread {
                min: 3.0,
                median: 4.0,
                max: 9.0
            }
        );
        assert!(base.ratios.is_empty(), "nothing is divided by itself");
        let ratios = &own.ratios["nginx-return"];
        let cpu = ratios["cpu_us_per_request"];
        assert_eq!(
            cpu.same_round,
            Spread {
                min: 0.5,
                median: 0.75,
                max: 1.5
            }
        );
        assert!((cpu.quietest - 3.0 / 4.0).abs() < 0.001, "{cpu:?}");
        let rate = ratios["answers_per_s"];
        assert!(
            (rate.quietest - 30.0 / 40.0).abs() < 0.001,
            "the most of a rate"
        );
        assert!((rate.same_round.median - 1.0).abs() < 0.001, "{rate:?}");
    }
}
