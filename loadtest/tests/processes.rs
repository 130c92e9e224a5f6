//! Clients that are processes of their own: what they do together is the plan, and all of it counts.

use std::process::{Command, Output};

use foretoken_emulator::{Emulator, Limits, Settings};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_foretoken-load");

fn emulator() -> Emulator {
    let settings = Settings {
        limits: Limits::NONE,
        ..Settings::default()
    };
    Emulator::start(settings).unwrap()
}

fn run(emulator: &Emulator, arguments: &[&str]) -> (Output, Value) {
    let at = emulator.address().to_string();
    let always = ["run", "--to", &at, "--emulator", &at];
    let output = Command::new(PROGRAM)
        .args(always.iter().chain(arguments))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let results = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"));
    (output, results)
}

/// The load, after what holds for every one.
fn load(results: &Value) -> &Value {
    let load = &results["loads"][0];
    assert_eq!(load["right"], load["requests"], "{load}");
    assert_eq!(load["right"], results["upstream"]["calls"], "{results}");
    let by_interval = load["timeline"]["count"].as_array().unwrap();
    let sum: u64 = by_interval.iter().filter_map(Value::as_u64).sum();
    assert_eq!(load["right"], sum, "each is in one interval: {load}");
    assert_eq!(load["latency_us"]["count"], sum);
    load
}

#[test]
fn processes_share_requests_and_links_out() {
    let (output, results) = run(
        &emulator(),
        &[
            "--processes",
            "3",
            "--links",
            "7",
            "--requests",
            "100",
            "--keys",
            "5",
        ],
    );
    let load = load(&results);
    assert_eq!(
        (&load["right"], &load["links_opened"]),
        (&100.into(), &7.into())
    );
    assert_eq!(load["restarts"], 0);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn an_open_loop_of_processes_has_the_rate_of_one() {
    let (_, results) = run(
        &emulator(),
        &[
            "--processes",
            "3",
            "--links",
            "3",
            "--rate",
            "100",
            "--duration",
            "1s",
        ],
    );
    assert_eq!(load(&results)["right"], 100);
}

#[test]
fn a_process_that_ends_is_followed_by_another_with_new_links() {
    let (_, results) = run(
        &emulator(),
        &[
            "--processes",
            "2",
            "--links",
            "4",
            "--think",
            "20ms",
            "--duration",
            "2s",
            "--restart-every",
            "500ms",
        ],
    );
    let load = load(&results);
    let restarts = load["restarts"].as_u64().unwrap();
    assert!((2..=7).contains(&restarts), "{load}");
    // The last of them may have come too late to open any.
    let links = load["links_opened"].as_u64().unwrap();
    assert!(
        (2 * restarts..=2 * (restarts + 2)).contains(&links),
        "{load}"
    );
    assert!(links > 4, "more than those of the first: {load}");
}

#[test]
fn a_link_that_thinks_rests_between_its_requests() {
    let (_, results) = run(
        &emulator(),
        &["--links", "10", "--think", "400ms", "--duration", "1s"],
    );
    let right = load(&results)["right"].as_u64().unwrap();
    // One at once, and then one after 200 to 600 ms each.
    assert!((20..=60).contains(&right), "{right}");
}

#[test]
fn what_processes_find_wrong_is_told() {
    let emulator = emulator();
    emulator.set_mode("wrong-resource").unwrap();
    let (output, results) = run(
        &emulator,
        &["--processes", "2", "--links", "2", "--requests", "20"],
    );
    assert_eq!(results["loads"][0]["wrong"]["audience"], 20);
    assert_eq!(output.status.code(), Some(3));
}
