//! The README's examples are these files, and they work.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use foretoken_emulator::Scenario;

const README: &str = include_str!("../README.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_foretoken-emulator");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    for example in [
        include_str!("../examples/test_client.py"),
        include_str!("../examples/loop.sh"),
        include_str!("client.rs"),
    ] {
        assert!(
            README.contains(example),
            "{}",
            example.lines().next().unwrap_or_default()
        );
    }
}

#[test]
fn the_scenario_in_the_readme_can_be_read() {
    let from = README.find("name = \"outage\"").unwrap();
    let (text, _) = README[from..].split_once("```").unwrap();
    let scenario = Scenario::from_toml(text);
    assert_eq!(scenario.map(|it| it.phases.len()), Ok(2));
}

#[test]
fn the_python_example_passes() {
    let ran = Command::new("python3")
        .arg(folder().join("test_client.py"))
        .env("EMULATOR", PROGRAM)
        .env("no_proxy", "127.0.0.1")
        .output()
        .expect("python3");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success() && told.contains("Ran 2 tests"),
        "{told}"
    );
}

#[test]
fn the_shell_example_tells_what_curl_makes_of_each_fault() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = free.local_addr().unwrap().to_string();
    drop(free);
    let ran = Command::new("sh")
        .arg(folder().join("loop.sh"))
        .env("EMULATOR", PROGRAM)
        .env("AT", at)
        .env("no_proxy", "127.0.0.1")
        .output()
        .expect("sh");
    let told = String::from_utf8_lossy(&ran.stdout);
    let wanted = "set-cookie: a token\nstatus-429: no token\nhalf-body: no token\n\
                  html: no token\nhang: no token\n";
    assert!(
        told.starts_with(wanted),
        "{told}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(told.contains("\"set-cookie\": 1"), "{told}");
}
