//! The program: its list, its scenarios and its `ctl`, as a shell uses them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_foretoken-emulator");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    let text = str::from_utf8(&output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(
        text.lines()
            .last()
            .filter(|line| line.starts_with('{'))
            .unwrap_or(text),
    )
    .unwrap()
}

/// What it says when it refuses; it ends with 1.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running program; killed when dropped.
struct Running {
    child: Child,
    at: String,
    control: String,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addresses: Vec<String> = lines
            .take(2)
            .map(|line| line.unwrap().rsplit('/').next().unwrap().to_owned())
            .collect();
        Self {
            child,
            at: addresses[0].clone(),
            control: addresses[1].clone(),
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        run(&[&["ctl", "--at", &self.control], arguments].concat())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scenario(name: &str, phases: &str) -> std::path::PathBuf {
    let file = format!("emulator-program-{name}-{}.toml", std::process::id());
    let path = std::env::temp_dir().join(file);
    std::fs::write(&path, format!("name = '{name}'\n{phases}")).unwrap();
    path
}

#[test]
fn the_list_of_faults_is_a_table_or_json() {
    let list = json(&run(&["--list-faults", "--json"]));
    let count = list.as_array().unwrap().len();
    assert_eq!(count, foretoken_emulator::modes().len());
    assert_eq!(list[0]["name"], "status-400");
    let table = String::from_utf8(run(&["--list-faults"]).stdout).unwrap();
    assert_eq!(table, foretoken_emulator::mode_table());
}

#[test]
fn a_scenario_ends_the_program_if_asked_to_and_the_counts_are_told() {
    let path = scenario("ends", "[[phase]]\nname = 'p'\nat = '0s'\nfor = '1s'\n");
    let file = path.to_str().unwrap();
    let listen = [
        "--listen",
        "127.0.0.1:0",
        "--scenario",
        file,
        "--scale",
        "100",
        "--exit",
    ];
    assert_eq!(json(&run(&listen))["token_calls"], 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_mistake_in_a_scenario_is_told_with_file_line_and_column() {
    let path = scenario("bad", "[[phase]]\nname = 'p'\nat = '5'\n");
    let file = path.to_str().unwrap();
    let told = refusal(&run(&["--listen", "127.0.0.1:0", "--scenario", file]));
    let place = format!("foretoken-emulator: {file}:4:6: `5` is not a span of time;");
    assert!(told.starts_with(&place), "{told}");
    std::fs::remove_file(path).unwrap();
    let told = refusal(&run(&["--listen", "127.0.0.1:0", "--fault", "hangs"]));
    assert_eq!(
        told,
        "foretoken-emulator: there is no fault mode `hangs`; did you mean `hang`?\n"
    );
}

#[test]
fn ctl_steers_a_running_emulator() {
    let emulator = Running::start(&["--fault", "status-503"]);
    let other = run(&["ctl", "--at", &emulator.at, "list"]);
    assert_eq!(
        json(&other)[0]["mode"],
        "status-503",
        "the control path is on both addresses"
    );
    let set = [
        "set",
        "reset",
        "--times",
        "3",
        "--share",
        "0.5",
        "--for-ms",
        "60000",
        "--all-requests",
    ];
    let reset = json(&emulator.ctl(&set))[1].clone();
    assert_eq!(
        (&reset["times"], &reset["share"], &reset["all_requests"]),
        (&3.into(), &0.5.into(), &true.into())
    );
    assert_eq!(json(&emulator.ctl(&["clear", "status-503"]))["done"], true);
    assert_eq!(json(&emulator.ctl(&["list"])).as_array().unwrap().len(), 1);
    emulator.ctl(&["clear"]);
    assert_eq!(json(&emulator.ctl(&["list"])), Value::Array(vec![]));
    let told = refusal(&emulator.ctl(&["set", "rest"]));
    assert_eq!(
        told,
        "foretoken-emulator: there is no fault mode `rest`; did you mean `reset`?\n"
    );

    let path = scenario("ctl", "[[phase]]\nname = 'p'\nat = '0s'\n");
    let file = path.to_str().unwrap();
    assert_eq!(
        json(&emulator.ctl(&["play", file, "--scale", "9"]))["scale"],
        9.0
    );
    assert_eq!(json(&emulator.ctl(&["scenario"]))["phase"], "p");
    assert_eq!(json(&emulator.ctl(&["stop"]))["done"], true);
    assert_eq!(json(&emulator.ctl(&["scenario"])), Value::Null);
    std::fs::remove_file(path).unwrap();

    assert_eq!(json(&emulator.ctl(&["counts"]))["total"], 0);
    assert_eq!(json(&emulator.ctl(&["reset"]))["done"], true);
    assert_eq!(json(&emulator.ctl(&["forget-tokens"]))["done"], true);
    let nobody = run(&["ctl", "--at", "127.0.0.1:1", "list"]);
    assert!(refusal(&nobody).contains("no emulator listens on 127.0.0.1:1"));
}
