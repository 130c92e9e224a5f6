//! The results for people.

use std::fmt::Write as _;

use super::goals::Part;
use super::results::{BASES, Measured, Results, Workload};

/// The figures of loads, which stand in columns; others stand in a line.
const COLUMNS: [&str; 5] = [
    "cpu_us_per_request",
    "answers_per_s",
    "p50_us",
    "p99_us",
    "p99_9_us",
];

impl Results {
    /// Tables, ratios and goals.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let commit = self.commit.as_deref().unwrap_or("unknown");
        let _ = writeln!(
            text,
            "{}, {} CPUs, {}; commit {commit}",
            machine.cpu, machine.cpus, machine.kernel
        );
        for server in &self.servers {
            let said = match (&server.missing, &server.version) {
                (Some(why), _) => format!("not measured: {why}"),
                (None, Some(version)) => version.clone(),
                (None, None) => String::new(),
            };
            let _ = writeln!(text, "  {:<13} {said}", server.name);
        }
        for workload in &self.workloads {
            workload.table(&mut text);
        }
        let _ = writeln!(text, "\ngoals");
        for goal in &self.goals {
            let _ = writeln!(
                text,
                "{:>4} {:<12} {}",
                goal.number,
                goal.verdict.as_str(),
                goal.measure
            );
            for part in &goal.parts {
                let _ = writeln!(text, "       {}", part.line());
            }
        }
        text
    }
}

impl Part {
    fn line(&self) -> String {
        let measured = self.measured.map_or_else(|| "–".to_owned(), short);
        let sign = if self.at_least { "≥" } else { "≤" };
        let (must, goal) = (short(self.must), short(self.goal));
        format!(
            "{measured} {}: must {sign} {must}, goal {sign} {goal}",
            self.of
        )
    }
}

impl Workload {
    fn table(&self, text: &mut String) {
        let smoke = if self.quick {
            " (a smoke run: it tells nothing of speed)"
        } else {
            ""
        };
        let _ = writeln!(text, "\n{}{smoke}: {}", self.name, self.about);
        let in_columns = |server: &Measured| server.figures.contains_key(COLUMNS[0]);
        if self.servers.iter().any(in_columns) {
            let _ = writeln!(
                text,
                "  {:<13} {:>22} {:>24} {:>8} {:>8} {:>8}   ratios to {}",
                "",
                "CPU µs/request",
                "answers/s",
                "p50 µs",
                "p99 µs",
                "p99.9 µs",
                BASES.join(", ")
            );
        }
        for server in &self.servers {
            if in_columns(server) {
                server.row(text);
            } else {
                server.line(text);
            }
            server.wrongs(text);
        }
        for (name, why) in &self.left_out {
            let _ = writeln!(text, "  {name:<13} left out: {why}");
        }
    }
}

impl Measured {
    /// Of CPU and rates min/median/max, of latencies the middle; ratios of the quietest rounds, and of
    /// rates those of the same round.
    fn row(&self, text: &mut String) {
        let spread = |name: &str| {
            let spread = self.figures.get(name).copied().unwrap_or_default();
            format!(
                "{}/{}/{}",
                short(spread.min),
                short(spread.median),
                short(spread.max)
            )
        };
        let median = |name: &str| short(self.figures.get(name).copied().unwrap_or_default().median);
        let ratios = BASES.map(|base| {
            let of = |name: &str| self.ratios.get(base)?.get(name);
            match (of(COLUMNS[0]), of(COLUMNS[1])) {
                (Some(cpu), Some(rate)) => {
                    format!("{:.2} ({:.2})", cpu.quietest, rate.same_round.median)
                }
                _ => "–".to_owned(),
            }
        });
        let _ = writeln!(
            text,
            "  {:<13} {:>22} {:>24} {:>8} {:>8} {:>8}   {:<12} {:<12} {}",
            self.name,
            spread(COLUMNS[0]),
            spread(COLUMNS[1]),
            median(COLUMNS[2]),
            median(COLUMNS[3]),
            median(COLUMNS[4]),
            ratios[0],
            ratios[1],
            ratios[2],
        );
    }

    fn line(&self, text: &mut String) {
        let figures = self.figures.iter().map(|(name, spread)| {
            if (spread.max - spread.min).abs() < f64::EPSILON {
                format!("{name} {}", short(spread.min))
            } else {
                format!(
                    "{name} {}/{}/{}",
                    short(spread.min),
                    short(spread.median),
                    short(spread.max)
                )
            }
        });
        let _ = writeln!(
            text,
            "  {:<13} {}",
            self.name,
            figures.collect::<Vec<_>>().join(", ")
        );
    }

    /// What was not right, if anything was not.
    fn wrongs(&self, text: &mut String) {
        let refused = self
            .answers
            .by_status
            .iter()
            .filter(|(status, _)| **status != 200);
        let refused = refused.map(|(status, count)| format!("{status} × {count}"));
        let wrong = self.answers.wrong.iter().chain(&self.answers.failed);
        let wrong = wrong.map(|(name, count)| format!("{name} × {count}"));
        let all: Vec<_> = refused.chain(wrong).collect();
        if !all.is_empty() {
            let _ = writeln!(
                text,
                "  {:<13}   of {} right: {}",
                "",
                self.answers.right,
                all.join(", ")
            );
        }
    }
}

/// As many digits as a figure is worth.
fn short(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
