//! The program: its exit codes, its results and the README's words for them.

use std::path::Path;
use std::process::{Command, Output};

use foretoken_emulator::{Emulator, Limits, Settings};
use foretoken_load::{Client, Failed, Wrong};
use serde_json::Value;

const README: &str = include_str!("../README.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_foretoken-load");

fn emulator() -> (Emulator, String) {
    let settings = Settings {
        limits: Limits::NONE,
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).unwrap();
    let at = emulator.address().to_string();
    (emulator, at)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn results(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(output)))
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_readme_shows_the_example_as_it_is_and_it_works() {
    assert!(README.contains(include_str!("../examples/first.sh")));
    let (_emulator, at) = emulator();
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/first.sh"))
        .current_dir(&folder)
        .env("LOAD", PROGRAM)
        .env("AT", at)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(said, "400 right, 0 wrong\n", "{}", told(&ran));
}

#[test]
fn every_member_of_the_results_is_in_the_readme() {
    let (_emulator, at) = emulator();
    let own = std::process::id().to_string();
    let output = run(&[
        "run",
        "--to",
        &at,
        "--emulator",
        &at,
        "--requests",
        "50",
        "--links",
        "2",
        "--pid",
        &own,
        "--idle",
        "2",
    ]);
    let results = results(&output);
    // What only a scenario has: told here as it is there.
    assert!(results["refreshes"]["phases"][0]["lag"].is_null());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(results["loads"][0]["right"], 50);
    // One for each idle link, and one before them.
    assert_eq!(results["upstream"]["calls"], 50 + 3);
    let mut names = Vec::new();
    collect(&results, &mut names);
    names.extend(Wrong::ALL.iter().map(|wrong| wrong.as_str().to_owned()));
    names.extend(Failed::ALL.iter().map(|failed| failed.as_str().to_owned()));
    names.extend(Client::all().map(|client| client.name().to_owned()));
    assert!(names.len() > 60, "{names:?}");
    for name in names {
        assert!(
            README.contains(&format!("`{name}`")),
            "`{name}` is not in the README"
        );
    }
}

fn collect(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                names.push(name.clone());
                // These two have names that are data.
                if !["clients", "by_status"].contains(&name.as_str()) {
                    collect(value, names);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
        _ => {}
    }
}

#[test]
fn wrong_answers_are_counted_and_make_the_exit_code() {
    let (emulator, at) = emulator();
    let arguments = ["run", "--to", &at, "--requests", "20", "--links", "1"];
    emulator.set_mode("wrong-resource").unwrap();
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(results(&output)["loads"][0]["wrong"]["audience"], 20);
    assert!(told(&output).contains("audience: 20"), "{}", told(&output));

    emulator.clear_modes();
    emulator.set_mode("status-503").unwrap();
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(0), "a refusal breaks no promise");
    assert_eq!(results(&output)["loads"][0]["by_status"]["503"], 20);
}

#[test]
fn the_emulators_spoilt_answers_are_each_found() {
    let (emulator, at) = emulator();
    for (mode, kind, name) in [
        ("resource-renamed", "wrong", "resource"),
        ("expired-token", "wrong", "expired"),
        ("expires-in-stale", "wrong", "expires_in"),
        ("no-expires-on", "wrong", "malformed"),
        ("html", "wrong", "malformed"),
        ("half-body", "failed", "cut"),
        ("reset", "failed", "closed"),
        ("hang", "failed", "timed_out"),
    ] {
        emulator.clear_modes();
        emulator.set_mode(mode).unwrap();
        let output = run(&[
            "run",
            "--to",
            &at,
            "--requests",
            "3",
            "--links",
            "1",
            "--timeout",
            "1s",
        ]);
        let load = &results(&output)["loads"][0];
        assert_eq!(load[kind][name], 3, "{mode}: {load}");
    }
}

#[test]
fn tokens_are_in_neither_results_nor_messages() {
    let emulator = Emulator::start(Settings {
        limits: Limits::NONE,
        canary: Some("load-canary".to_owned()),
        ..Settings::default()
    });
    let emulator = emulator.unwrap();
    let canary = emulator.canary_in_tokens().unwrap();
    let at = emulator.address().to_string();
    for mode in [
        None,
        Some("wrong-resource"),
        Some("expires-on-words"),
        Some("half-body"),
    ] {
        emulator.clear_modes();
        if let Some(mode) = mode {
            emulator.set_mode(mode).unwrap();
        }
        let output = run(&["run", "--to", &at, "--requests", "5", "--links", "1"]);
        for text in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(text).contains(&canary), "{mode:?}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    for (arguments, code, said) in [
        (
            &["run", "--links", "0"][..],
            1,
            "foretoken-load: links must be 1 to 28000\n",
        ),
        (
            &["run", "--idle", "1", "--requests", "1"],
            1,
            "foretoken-load: idle links are measured at a server whose process is known\n",
        ),
        (
            &["run", "--emulator", "127.0.0.1:1"],
            1,
            "foretoken-load: no emulator tells its counts on 127.0.0.1:1: cannot connect to 127.0.0.1:1: ",
        ),
        (
            &["compare", "--only", "apache"],
            1,
            "foretoken-load: there is no `apache`, but limit, hyper, nginx-return, ",
        ),
        (
            &["compare", "--workload", "sleep"],
            1,
            "foretoken-load: there is no `sleep`, but keepalive, unix, ",
        ),
        (
            &["run", "--client", "curl"],
            2,
            "error: invalid value 'curl' for '--client ",
        ),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code));
        assert!(told(&output).starts_with(said), "{}", told(&output));
    }
}
