//! `foretoken-load compare`, in its smoke run: what it measures, and what it says of what it does not.
//! Of speed nothing is asserted.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const README: &str = include_str!("../README.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_foretoken-load");

/// Servers that are always here, and one that may be.
const ONLY: &str = "limit,hyper,nginx-return,nginx-cache";

fn compare(folder: &Path, arguments: &[&str]) -> (Output, Value) {
    let out = folder.join("compare.json");
    let output = Command::new(PROGRAM)
        .args([
            "compare",
            "--quick",
            "--foretoken",
            "/nonexistent/foretoken",
        ])
        .args(arguments)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    let results = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    (output, results)
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let list = list.as_array().unwrap();
    let found = list.iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_smoke_run_measures_every_server_that_is_here_and_names_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (output, results) = compare(folder.path(), &["--only", ONLY]);
    assert_eq!(
        (&results["schema"], &results["name"]),
        (&1.into(), &"compare".into())
    );
    let missing = |name: &str| named(&results["servers"], name)["missing"].as_str();
    assert_eq!(
        missing("foretoken"),
        Some("there is no program /nonexistent/foretoken")
    );
    assert!(missing("varnish").is_some(), "it was not asked for");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("not measured: there is no program /nonexistent/foretoken"));

    let measured: Vec<_> = ONLY
        .split(',')
        .filter(|name| missing(name).is_none())
        .collect();
    assert!(
        measured.contains(&"limit") && measured.contains(&"hyper"),
        "{measured:?}"
    );
    let workloads = results["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), 13);
    for workload in workloads {
        assert_eq!(workload["quick"], true);
        for name in &measured {
            if let Some(why) = workload["left_out"].get(*name) {
                let known = ["it is no cache", "it is Foretoken's own"];
                assert!(known.contains(&why.as_str().unwrap()), "{name}: {workload}");
                continue;
            }
            let server = named(&workload["servers"], name);
            assert_eq!(server["rounds"].as_array().unwrap().len(), 1);
            let wrong = server["answers"]["wrong"].as_object().unwrap();
            // What repeats an answer repeats its `expires_in`, and may repeat it past the token's end.
            let known = |kind: &String| ["expires_in", "expired"].contains(&kind.as_str());
            assert!(wrong.keys().all(known), "{server}");
        }
    }
    for name in [
        "keepalive",
        "unix",
        "open",
        "connect-each",
        "pipelined",
        "dense",
        "lopsided",
    ] {
        for server in ["limit", "hyper"] {
            let server = named(&named(&results["workloads"], name)["servers"], server);
            assert!(
                server["rounds"][0]["answers_per_s"].as_f64() > Some(0.0),
                "{name}: {server}"
            );
            assert_eq!(server["answers"]["failed"], serde_json::json!({}), "{name}");
        }
    }
    if measured.contains(&"nginx-cache") {
        let herd = named(
            &named(&results["workloads"], "herd")["servers"],
            "nginx-cache",
        );
        assert_eq!(herd["figures"]["upstream_calls"]["max"], 1.0, "its lock");
        let outage = named(
            &named(&results["workloads"], "outage")["servers"],
            "nginx-cache",
        );
        assert!(
            outage["figures"]["dead"]["min"].as_f64() > Some(0.0),
            "{outage}"
        );
    }
    let goals = results["goals"].as_array().unwrap();
    assert_eq!(goals.len(), 13);
    assert!(goals.iter().all(|goal| goal["verdict"] == "not_measured"));
    let mut names = Vec::new();
    collect(&results, &mut names);
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(
            README.contains(&format!("`{name}`")),
            "`{name}` is not in the README"
        );
    }
}

#[test]
fn results_can_be_gathered_piece_by_piece() {
    let folder = tempfile::tempdir().unwrap();
    for (server, workload) in [
        ("limit", "keepalive"),
        ("hyper", "pipelined"),
        ("hyper", "keepalive"),
    ] {
        let piece = ["--only", server, "--add", "--workload", workload];
        let (_, results) = compare(folder.path(), &piece);
        let limit = named(&results["servers"], "limit");
        assert_eq!(limit["missing"], Value::Null, "measured once");
        let workloads = results["workloads"].as_array().unwrap();
        let names: Vec<_> = workloads.iter().map(|it| &it["name"]).collect();
        assert_eq!(names[0], "keepalive");
        assert!(names.len() <= 2, "one in the place of the last: {names:?}");
    }
}

/// The names of members, without those that are names of servers, figures and statuses.
fn collect(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                names.push(name.clone());
                match name.as_str() {
                    "left_out" | "by_status" | "wrong" | "failed" => {}
                    // One step down are names of figures, or of servers.
                    "figures" | "ratios" => {
                        for (name, value) in value.as_object().into_iter().flatten() {
                            names.push(name.clone());
                            collect(value, names);
                        }
                    }
                    _ => collect(value, names),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
        _ => {}
    }
}
