//! The scenarios of `loadtest/scenarios`, each before the built program with the configuration that
//! lies beside it, and steady callers of twenty keys. `./recipes scenarios` plays all of them as
//! they are; `cargo test` plays two, compressed further.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foretoken_emulator::{Counts, Emulator, Scenario};
use rustix::process::Signal;

use super::cell::over_budget;
use super::watch::{Caller, Key, Seen, Verifier};
use super::{TABLE, in_lanes};
use crate::support::process::{Served, command, write_file};

/// Plays all of them, each at its own scale.
const ALL: &str = "FORETOKEN_SCENARIOS";
const KEYS: usize = 20;
const BETWEEN_CALLS: Duration = Duration::from_millis(250);
/// The longest deadline of a caller, so that one who waits when the timeline ends is answered.
const LONGEST_WAIT: Duration = Duration::from_secs(21);
/// Keys that are asked for later, spread over the timeline.
const LATE_KEYS: usize = 5;
/// What tokens that were fetched at the beginning survive. The others begin without any, or last
/// longer than half of a token's life, or hang for 10 real seconds where a life is 24.
const SURVIVED: [&str; 4] = [
    "outage-2024-07",
    "outage-2026-02",
    "revocation",
    "update-410",
];

struct Job {
    name: String,
    /// In place of its own.
    scale: Option<f64>,
}

#[test]
fn whole_outages_are_survived_within_the_budget() {
    let jobs = if std::env::var_os(ALL).is_some() {
        shipped()
    } else {
        // A day in a minute.
        let job = |name: &str, scale| Job {
            name: name.to_owned(),
            scale: Some(scale),
        };
        vec![job("outage-2026-02", 1440.0), job("slow-recovery", 180.0)]
    };
    let mut outcomes = in_lanes(&jobs, play);
    outcomes.sort_by(|one, other| one.name.cmp(&other.name));
    let text = table(&outcomes);
    eprintln!("{text}");
    if let Some(file) = std::env::var_os(TABLE) {
        super::table::write_scenarios(file.as_ref(), &text);
    }
    let wrong: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtest/scenarios")
}

fn shipped() -> Vec<Job> {
    let files = fs::read_dir(folder()).expect("the scenarios");
    let names = files.filter_map(|file| file.expect("a file").file_name().into_string().ok());
    let names = names.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned));
    let mut names: Vec<_> = names.filter(|name| !name.ends_with(".foretoken")).collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| Job { name, scale: None })
        .collect()
}

/// How one went.
struct Outcome {
    name: String,
    scale: f64,
    seconds: u64,
    answers: usize,
    /// Requests without a token, by status.
    failed: BTreeMap<u16, usize>,
    /// The same of keys that are asked for later.
    late_failed: BTreeMap<u16, usize>,
    /// How long before the end of the timeline the last of them was answered.
    last_failure_s: Option<i64>,
    counts: Counts,
    wrong: Vec<String>,
}

fn play(job: &Job) -> Outcome {
    let text = fs::read_to_string(folder().join(format!("{}.toml", job.name))).expect("a scenario");
    let mut scenario = Scenario::from_toml(&text).expect("a scenario");
    let shipped_scale = scenario.scale;
    if let Some(scale) = job.scale {
        scenario = scenario.at_scale(scale);
    }
    let scale = scenario.scale;
    let length = scenario
        .length()
        .expect("its last phase ends")
        .div_f64(scale);

    let emulator = Emulator::start(foretoken_emulator::Settings::default()).expect("it starts");
    let verifier = Verifier::of(&emulator);
    let state = tempfile::tempdir().expect("a temporary folder");
    let config = configuration(&job.name, shipped_scale, scale, &emulator);
    let path = write_file(state.path(), &config);
    let mut served = Served::start_as(command(state.path()), &path);
    emulator.play(scenario);

    let over = AtomicBool::new(false);
    let (mut seen, mut late, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let mut ended_ms = 0;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..KEYS + LATE_KEYS)
            .map(|number| {
                let resource = format!("https://{number}.example");
                let key = Key {
                    resource,
                    client: None,
                };
                let mut caller = Caller::new(served.address, key, &verifier);
                let over = &over;
                let late = u32::try_from((number + 1).saturating_sub(KEYS)).expect("few");
                let begins = length * late / u32::try_from(LATE_KEYS + 1).expect("few");
                scope.spawn(move || {
                    std::thread::sleep(begins);
                    let mut seen: Vec<Seen> = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        seen.push(caller.ask());
                        std::thread::sleep(BETWEEN_CALLS);
                    }
                    (seen, caller.wrong)
                })
            })
            .collect();
        std::thread::sleep(length);
        ended_ms = super::watch::now_ms();
        // All is well again: who has no token now gets one.
        let left = LONGEST_WAIT.min(length / 4);
        std::thread::sleep(left);
        over.store(true, Ordering::Relaxed);
        for (number, caller) in callers.into_iter().enumerate() {
            let (answers, complaints) = caller.join().expect("no panic");
            if answers.last().is_none_or(|last| last.status != 200) {
                wrong.push("a key has no token in the end".to_owned());
            }
            if number < KEYS {
                seen.extend(answers);
            } else {
                late.extend(answers);
            }
            wrong.extend(complaints);
        }
    });

    let counts = emulator.counts();
    wrong.extend(over_budget(&counts));
    let failed = failures(&seen);
    if SURVIVED.contains(&&*job.name) && !failed.is_empty() {
        wrong.push(format!("failed requests: {failed:?}"));
    }
    let refused = seen.iter().filter(|answer| answer.status != 200);
    let last_failure = refused.map(|answer| answer.back_ms).max();
    if served.end(Signal::TERM).code() != Some(0) {
        wrong.push("it did not end well".to_owned());
    }
    if served.log().contains("panicked") {
        wrong.push("a panic".to_owned());
    }
    Outcome {
        name: job.name.clone(),
        scale,
        seconds: length.as_secs(),
        answers: seen.len() + late.len(),
        failed,
        late_failed: failures(&late),
        last_failure_s: last_failure.map(|at| (ended_ms - at) / 1000),
        counts,
        wrong: wrong
            .into_iter()
            .map(|what| format!("{}: {what}", job.name))
            .collect(),
    }
}

fn failures(seen: &[Seen]) -> BTreeMap<u16, usize> {
    let mut failed = BTreeMap::new();
    for answer in seen.iter().filter(|answer| answer.status != 200) {
        *failed.entry(answer.status).or_default() += 1;
    }
    failed
}

/// The configuration that lies beside the scenario, on free ports, its spans divided as the
/// scenario's. The one that has none plays in real time.
fn configuration(name: &str, shipped_scale: f64, scale: f64, emulator: &Emulator) -> String {
    let path = folder().join(format!("{name}.foretoken.toml"));
    let text = fs::read_to_string(path).unwrap_or_else(|_| {
        assert!((scale - 1.0).abs() < 1e-9, "{name} has no configuration");
        PLAIN.to_owned()
    });
    let mut config: toml::Table = text.parse().expect("TOML");
    let mut set = |table: &str, key: &str, value: toml::Value| {
        let table = config[table].as_table_mut().expect("a table");
        table.insert(key.to_owned(), value)
    };
    let free = || toml::Value::from("127.0.0.1:0");
    set("admin", "address", free());
    let upstream = format!("http://{}", emulator.address());
    set("upstream", "endpoint", upstream.into());
    if (shipped_scale - scale).abs() > 1e-9 {
        let asked = set("refresh", "outage_to_survive", "off".into());
        let asked = asked
            .as_ref()
            .and_then(toml::Value::as_str)
            .expect("a span");
        let seconds: f64 = asked.trim_end_matches('s').parse().expect("seconds");
        let seconds = (seconds * shipped_scale / scale).ceil();
        set("refresh", "outage_to_survive", format!("{seconds}s").into());
        #[expect(clippy::cast_possible_truncation, reason = "at most 1000")]
        set("refresh", "time_scale", (scale.min(1000.0) as i64).into());
    }
    config["listener"][0]["address"] = free();
    let log = toml::Table::from_iter([("format".to_owned(), "json".into())]);
    config.insert("log".to_owned(), log.into());
    toml::to_string(&config).expect("TOML")
}

const PLAIN: &str = "[[listener]]\naddress = \"\"\n[admin]\nsocket = \"off\"\n[upstream]\n[store]\nmode = \"off\"\n";

fn table(outcomes: &[Outcome]) -> String {
    let mut text = "| Scenario | Scale | Takes, s | Requests | Failed | The last of them, s before the end | Failed, late keys | Calls | \
                    In one second | At once | Spoilt | Over the limits | Over capacity | Checks that failed |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for outcome in outcomes {
        let Outcome {
            name,
            scale,
            seconds,
            answers,
            counts,
            ..
        } = outcome;
        let [failed, late] = [&outcome.failed, &outcome.late_failed].map(told);
        let last = outcome
            .last_failure_s
            .map_or("–".to_owned(), |s| s.to_string());
        writeln!(
            text,
            "| `{name}` | {scale} | {seconds} | {answers} | {failed} | {last} | {late} | {} | {} | {} | {} | {} | {} | {} |",
            counts.token_calls,
            counts.peak_rate_per_s,
            counts.peak_concurrency,
            counts.faulted,
            counts.throttled,
            counts.overloaded,
            outcome.wrong.len(),
        )
        .expect("a string takes it");
    }
    text
}

fn told(failed: &BTreeMap<u16, usize>) -> String {
    if failed.is_empty() {
        return "0".to_owned();
    }
    let each = failed
        .iter()
        .map(|(status, count)| format!("{status} × {count}"));
    each.collect::<Vec<_>>().join(", ")
}
