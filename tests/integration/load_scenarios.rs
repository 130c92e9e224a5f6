//! The load driver's scenarios that are short, at the built program. All of them are played as they
//! are by `./recipes loads`.

use std::path::{Path, PathBuf};

use foretoken_load::{Report, Scenario};

/// Plays the scenario of this name with some of its text changed, and says what came of it.
fn played(name: &str, changes: &[(&str, &str)]) -> Report {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("loadtest/loads");
    let file = folder.join(name).with_extension("toml");
    let mut text = std::fs::read_to_string(file).expect("a scenario");
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("changed.toml");
    std::fs::write(&file, text).expect("a file");
    let foretoken = Path::new(env!("CARGO_BIN_EXE_foretoken"));
    let scenario = Scenario::read(&file).expect("a scenario");
    scenario.play(foretoken, |_| |_, _| {}).expect("a report")
}

fn all_kept(report: &Report) {
    let broken: Vec<_> = report.broken().collect();
    assert!(broken.is_empty(), "{}: {broken:?}", report.name);
    assert!(!report.expected.is_empty(), "{}", report.name);
}

#[test]
fn a_herd_on_a_cold_key_is_one_call() {
    all_kept(&played("herd", &[]));
}

#[test]
fn a_dense_machine_makes_a_call_for_each_key() {
    let changes = [
        ("\"15s\"", "\"6s\""),
        // These would be this program again, which is a test here.
        ("processes = 20\n", ""),
        ("restart_every = \"3s\"\n", ""),
        ("restarts = { at_least = 20 }", "restarts = 0"),
    ];
    all_kept(&played("dense-vm", &changes));
}

#[test]
fn a_restart_makes_no_call_for_what_is_stored() {
    let changes = [
        ("\"5s\"", "\"1s\""),
        ("keys = 200", "keys = 20"),
        ("rate = 2000", "rate = 200"),
    ];
    let report = played("warm-restart", &changes);
    all_kept(&report);
    assert!(report.restart_ms.is_some());
}

#[test]
fn a_load_does_not_notice_slow_clients() {
    let changes = [
        ("\"20s\"", "\"8s\""),
        ("rate = 2000", "rate = 200"),
        ("links = 60", "links = 20"),
        ("links = 100", "links = 10"),
        ("links = 40", "links = 4"),
        (
            "slow_right = { at_least = 60 }",
            "slow_right = { at_least = 10 }",
        ),
    ];
    let report = played("slow-clients", &changes);
    all_kept(&report);
    assert_eq!(report.slow.len(), 3);
}

#[test]
fn refreshes_are_seen_with_their_lag_and_their_calls() {
    let changes = [
        ("\"40s\"", "\"8s\""),
        ("\"20s\"", "\"4s\""),
        ("rate = 2000", "rate = 100"),
        (
            "{ at_least = 10, at_most = 16 }",
            "{ at_least = 1, at_most = 16 }",
        ),
        ("renewed = { at_least = 10 }", "renewed = { at_least = 1 }"),
    ];
    let report = played("refresh-latency", &changes);
    all_kept(&report);
    let refreshes = report.refreshes.expect("an emulator");
    let names: Vec<_> = refreshes.phases.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["all", "20 ms", "500 ms"]);
    let slow = &refreshes.phases[2];
    let lag = slow.lag.expect("a renewal");
    assert!(lag.min_ms >= 500.0, "the upstream took so long: {lag:?}");
    assert!(slow.around.count > 0 && slow.steady.count > 0, "{slow:?}");
    let lives = report.loads[0].life_left_s.expect("answers");
    assert!(lives.min > 0.0 && lives.min < 4.0, "{lives:?}");
}

#[test]
fn what_is_not_kept_is_named() {
    let changes = [
        ("right = 1000", "right = 999"),
        ("upstream_calls = 1", "upstream_calls = 0"),
    ];
    let report = played("herd", &changes);
    let names: Vec<_> = report.broken().map(|it| &*it.name).collect();
    assert_eq!(names, ["right", "upstream_calls"]);
}
