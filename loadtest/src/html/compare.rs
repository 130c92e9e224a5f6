//! The part of a comparison: goals, ratios to a base for each workload, and all figures in tables.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::axis::plain;
use super::page::{Page, Set};
use super::ratio::{Panel, Ratio, svg};

/// Which server is 1, the first of these that a workload has.
const BASES: [&str; 3] = ["nginx-return", "nginx-cache", "limit"];
/// Which figures are drawn, as far as a workload has them, and what they are called there.
const DRAWN: [(&str, &str); 4] = [
    ("cpu_us_per_request", "CPU per request"),
    ("answers_per_s", "answers a second"),
    ("p99_us", "p99 latency"),
    ("kib_per_link", "memory per idle link"),
];
const OWN: &str = "foretoken";

#[derive(Deserialize)]
pub(super) struct Results {
    name: String,
    machine: Option<Machine>,
    commit: Option<String>,
    servers: Vec<Server>,
    figures: BTreeMap<String, Figure>,
    workloads: Vec<Workload>,
    #[serde(default)]
    goals: Vec<Goal>,
}

#[derive(Deserialize)]
struct Machine {
    cpu: String,
    cpus: u64,
    kernel: String,
}

#[derive(Deserialize)]
struct Server {
    name: String,
    about: String,
    version: Option<String>,
    missing: Option<String>,
}

#[derive(Deserialize)]
struct Figure {
    unit: String,
    about: String,
    more_is_better: bool,
}

#[derive(Deserialize)]
struct Workload {
    name: String,
    about: String,
    #[serde(default)]
    quick: bool,
    servers: Vec<Measured>,
    #[serde(default)]
    left_out: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Measured {
    name: String,
    #[serde(default)]
    rounds: Vec<serde::de::IgnoredAny>,
    figures: BTreeMap<String, Spread>,
    #[serde(default)]
    ratios: BTreeMap<String, BTreeMap<String, Spread>>,
}

#[derive(Deserialize, Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

#[derive(Deserialize)]
struct Goal {
    number: u64,
    measure: String,
    parts: Vec<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    of: String,
    must: f64,
    goal: f64,
    at_least: bool,
    measured: Option<f64>,
    verdict: String,
}

pub(super) fn part(page: &mut Page, results: &Results) {
    page.part(&results.name, "measured", &about(results));
    if !results.goals.is_empty() {
        goals(page, results);
    }
    servers(page, results);
    for workload in &results.workloads {
        one(page, results, workload);
    }
    page.end_part();
}

fn about(results: &Results) -> String {
    let mut about = String::new();
    if let Some(machine) = &results.machine {
        let Machine { cpu, cpus, kernel } = machine;
        about += &format!("{cpu}, {cpus} CPUs, {kernel}. ");
    }
    if let Some(commit) = &results.commit {
        about += &format!("Commit {commit}. ");
    }
    if results.workloads.iter().any(|workload| workload.quick) {
        about += "A smoke run: its figures mean nothing.";
    }
    about
}

fn goals(page: &mut Page, results: &Results) {
    page.heading("Goals");
    let columns = [
        ("#", Set::Number),
        ("Measure", Set::Text),
        ("Of", Set::Text),
        ("Must", Set::Number),
        ("Goal", Set::Number),
        ("Measured", Set::Number),
        ("", Set::Short),
    ];
    let mut rows = Vec::new();
    for goal in &results.goals {
        for (nth, part) in goal.parts.iter().enumerate() {
            let sign = if part.at_least { "≥ " } else { "≤ " };
            let first = |text: String| if nth == 0 { text } else { String::new() };
            let verdict = match &*part.verdict {
                "goal" => "+✓ goal reached",
                "must" => "+✓ must reached",
                "missed" => "!✗ missed",
                _ => "not measured",
            };
            rows.push(vec![
                first(goal.number.to_string()),
                first(goal.measure.clone()),
                part.of.clone(),
                format!("{sign}{}", plain(part.must)),
                format!("{sign}{}", plain(part.goal)),
                part.measured.map_or("–".to_owned(), plain),
                verdict.to_owned(),
            ]);
        }
    }
    page.table("Must, and what is aimed at.", &columns, &rows);
}

fn servers(page: &mut Page, results: &Results) {
    page.heading("Who was measured");
    let columns = [
        ("Server", Set::Short),
        ("Is", Set::Text),
        ("Version", Set::Text),
    ];
    let rows = results.servers.iter().map(|server| {
        let version = match &server.missing {
            Some(missing) => format!("!{missing}"),
            None => server.version.clone().unwrap_or_default(),
        };
        vec![server.name.clone(), server.about.clone(), version]
    });
    page.table(
        "All in the same rounds, one after the other.",
        &columns,
        &rows.collect::<Vec<_>>(),
    );
}

fn one(page: &mut Page, results: &Results, workload: &Workload) {
    page.heading(&workload.name);
    page.note(&workload.about);
    let names: Vec<_> = workload
        .servers
        .iter()
        .map(|server| &*server.name)
        .collect();
    let has_base = |base: &&str| {
        let ratios = workload
            .servers
            .iter()
            .filter_map(|server| server.ratios.get(*base));
        names.contains(base) && ratios.into_iter().any(|ratios| !ratios.is_empty())
    };
    if let Some(base) = BASES.into_iter().find(has_base) {
        let panels = panels(results, workload, base);
        if !panels.is_empty() {
            let title = format!("{}: ratios", workload.name);
            let rounds = workload
                .servers
                .iter()
                .map(|server| server.rounds.len())
                .max();
            let caption = format!(
                "{base} = 1. Bars are the median of {}, whiskers the least and the most, by ratios within one round. Blue is better than {base}, orange worse.",
                match rounds.unwrap_or(0) {
                    1 => "one round".to_owned(),
                    count => format!("{count} rounds"),
                }
            );
            page.figure(&svg(&title, base, &names, OWN, &panels), &caption);
        }
    }
    figures(page, results, workload);
    if !workload.left_out.is_empty() {
        let left_out = workload.left_out.iter();
        let left_out = left_out.map(|(name, why)| format!("{name} ({why})"));
        page.note(&format!(
            "Not among them: {}.",
            left_out.collect::<Vec<_>>().join("; ")
        ));
    }
}

fn panels(results: &Results, workload: &Workload, base: &str) -> Vec<Panel> {
    let panels = DRAWN.iter().filter_map(|(figure, name)| {
        let ratio = |server: &Measured| {
            let spread = server.ratios.get(base)?.get(*figure)?;
            let Spread { min, median, max } = *spread;
            Some(Ratio { min, median, max })
        };
        let ratios: Vec<_> = workload.servers.iter().map(ratio).collect();
        let more_is_better = results.figures.get(*figure)?.more_is_better;
        ratios.iter().any(Option::is_some).then(|| Panel {
            name: (*name).to_owned(),
            more_is_better,
            ratios,
        })
    });
    panels.collect()
}

/// A row for each figure, a column for each server.
fn figures(page: &mut Page, results: &Results, workload: &Workload) {
    let mut columns = vec![("", Set::Text)];
    columns.extend(
        workload
            .servers
            .iter()
            .map(|server| (&*server.name, Set::Number)),
    );
    let rows = results.figures.iter().filter_map(|(name, figure)| {
        let cell = |server: &Measured| server.figures.get(name).copied();
        let cells: Vec<_> = workload.servers.iter().map(cell).collect();
        if cells.iter().all(Option::is_none) {
            return None;
        }
        let mut row = vec![match &*figure.unit {
            "" => figure.about.clone(),
            unit => format!("{}, {unit}", figure.about),
        }];
        row.extend(
            cells
                .into_iter()
                .map(|cell| cell.map_or("–".to_owned(), told)),
        );
        Some(row)
    });
    page.table(
        "Medians, and below them the least and the most.",
        &columns,
        &rows.collect::<Vec<_>>(),
    );
}

fn told(spread: Spread) -> String {
    let Spread { min, median, max } = spread;
    let short = |value: f64| match value {
        value if value.abs() >= 100.0 => plain(value.round()),
        value => plain((value * 100.0).round() / 100.0),
    };
    if short(min) == short(max) {
        return short(median);
    }
    format!("{}\n{}–{}", short(median), short(min), short(max))
}
