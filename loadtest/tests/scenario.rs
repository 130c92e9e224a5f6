//! Scenarios as the program plays them, with a server that hands everything on to the emulator.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const SCENARIO: &str = r#"
name = "handed-on"
duration = "3s"
prime = "10s"

[expect]
wrong = 0
upstream_calls = { at_least = 300 }
faulted = 0

[emulator]
limits = { requests_per_s = 0, at_once = 0 }
timeline = """
name = "spoilt"
[[phase]]
name = "well"
at = "0s"
[[phase]]
name = "ill"
at = "1h"
[[phase.fault]]
mode = "status-503"
"""

[server]
command = ["python3", "{config}"]
config = """
import socket, threading

def place(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)

def hand(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

door = socket.create_server(place("{target}"), backlog=64)
while True:
    caller, _ = door.accept()
    emulator = socket.create_connection(place("{upstream}"))
    threading.Thread(target=hand, args=(caller, emulator), daemon=True).start()
    threading.Thread(target=hand, args=(emulator, caller), daemon=True).start()
"""

[[load]]
name = "steady"
rate = 100
links = 4
[load.expect]
right = 300

[[load]]
name = "processes"
processes = 2
links = 4
think = "50ms"
after = "300ms"
keys = 3
[load.expect]
right = { at_least = 4 }

[[slow]]
name = "slow"
at = "sending"
links = 2
pause = "1ms"
"#;

fn play(folder: &Path, text: &str) -> (Output, Value) {
    std::fs::write(folder.join("scenario.toml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_foretoken-load"))
        .args(["scenario", "scenario.toml"])
        .current_dir(folder)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let results = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"));
    (output, results)
}

#[test]
fn a_scenario_ends_with_4_and_names_what_is_not_as_expected() {
    let folder = tempfile::tempdir().unwrap();
    let (output, results) = play(folder.path(), SCENARIO);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let expected = results["expected"].as_array().unwrap();
    assert_eq!(expected.len(), 5);
    assert!(expected.iter().all(|it| it["kept"] == true), "{expected:?}");

    let other = SCENARIO
        .replace("right = 300", "right = 299")
        .replace("faulted = 0", "faulted = 1");
    let (output, _) = play(folder.path(), &other);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{told}");
    let names = "not as expected: faulted, steady: right\n";
    assert!(told.ends_with(names), "{told}");
}

#[test]
fn a_load_that_comes_later_asks_no_sooner() {
    let folder = tempfile::tempdir().unwrap();
    let (_, results) = play(folder.path(), SCENARIO);
    let columns = &results["loads"][1]["timeline"];
    let first = columns["at_s"][0].as_f64().unwrap();
    assert!(
        first >= 0.2,
        "an interval of 100 ms after 300 ms at most: {columns}"
    );
    assert_eq!(results["story"]["phases"][1]["faults"][0], "status-503");
    assert!(
        results["slow"][0]["right"].as_u64() >= Some(1),
        "{}",
        results["slow"]
    );
}

#[test]
fn an_unknown_count_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scenario.toml");
    std::fs::write(&file, SCENARIO.replace("faulted = 0", "p99 = 0")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_foretoken-load"))
        .args(["scenario", "scenario.toml"])
        .current_dir(&folder)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("nothing is counted as `p99`"), "{told}");
    assert_eq!(output.status.code(), Some(1));
}
