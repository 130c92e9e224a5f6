//! The page: it holds what the results hold, asks nobody for anything, and its plots have something
//! in them. `tests/browser/report` looks at it in a browser.

use std::path::Path;
use std::process::Command;

use foretoken_emulator::{Emulator, Limits, Settings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_foretoken-load");
/// Results of `compare`, cut short.
const COMPARED: &str = include_str!("compared.json");

fn run(arguments: &[&str], folder: &Path) {
    let output = Command::new(PROGRAM)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
}

fn page_of_a_run_and_a_comparison() -> String {
    let settings = Settings {
        limits: Limits::NONE,
        ..Settings::default()
    };
    let emulator = Emulator::start(settings).unwrap();
    let at = emulator.address().to_string();
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "run",
        "--to",
        &at,
        "--emulator",
        &at,
        "--rate",
        "300",
        "--links",
        "4",
    ];
    let more = ["--duration", "2s", "--out", "run.json"];
    run(&[&arguments[..], &more].concat(), folder.path());
    std::fs::write(folder.path().join("compared.json"), COMPARED).unwrap();
    let arguments = ["html", "run.json", "compared.json", "--out", "report.html"];
    run(&arguments, folder.path());
    std::fs::read_to_string(folder.path().join("report.html")).unwrap()
}

/// The plots, each with its name.
fn plots(page: &str) -> Vec<(&str, &str)> {
    let svgs = page.split("<svg ").skip(1);
    let svgs = svgs.filter_map(|rest| rest.split("</svg>").next());
    svgs.map(|svg| {
        let name = svg
            .split("<title>")
            .nth(1)
            .and_then(|rest| rest.split("</title>").next());
        (name.expect("a plot has a title"), svg)
    })
    .collect()
}

#[test]
fn the_page_holds_plots_with_content_and_all_figures_as_text() {
    let page = page_of_a_run_and_a_comparison();
    let plots = plots(&page);
    let names: Vec<_> = plots.iter().map(|(name, _)| *name).collect();
    let wanted = [
        "run: latency over time",
        "Percentiles of latency",
        "Calls upstream in each second",
        "keepalive: ratios",
    ];
    assert_eq!(names, wanted);
    for (name, svg) in &plots {
        let marks = svg.matches("<rect ").count() + svg.matches("<path ").count();
        assert!(marks > 10, "{name} has {marks} marks");
        assert!(svg.matches("<text ").count() > 8, "{name} has words");
        assert!(
            svg.contains("role=\"img\"") && svg.contains("<desc>"),
            "{name}"
        );
        assert!(
            !svg.contains("NaN") && !svg.contains("inf"),
            "{name}: {svg}"
        );
    }
    let line = plots[0].1.split("class=\"line one\" d=\"").nth(1).unwrap();
    let line = line.split('"').next().unwrap();
    assert!(line.matches('L').count() >= 5, "two seconds of it: {line}");
    for text in [
        ">600<",
        "CPU for each request, nginx <code>return 200</code> = 1",
        "✗ missed",
        "✓ goal reached",
        "nginx-return = 1.",
        "haproxy (it failed: &lt;no port&gt;)",
        ">8.86<",
        ">5.2<small>5–5.7</small>",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let page = page_of_a_run_and_a_comparison();
    for means in [
        "<script", "src=", "@import", "url(", "http:", "https:", "<iframe", "<object", "<img",
        "srcset", "<form", "onload",
    ] {
        assert!(!page.contains(means), "{means}");
    }
    assert!(
        page.contains("default-src 'none'"),
        "a policy says so to the browser"
    );
    let links: Vec<_> = page
        .match_indices("href=\"")
        .map(|(at, _)| &page[at + 6..at + 11])
        .collect();
    assert_eq!(links, ["data:", "#part", "#part"]);
}

#[test]
fn what_is_no_result_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (text, told) in [
        ("{}", "other.json has no results of this program"),
        ("{\"loads\": []}", "other.json is of another version"),
        ("[", "in other.json"),
    ] {
        std::fs::write(folder.path().join("other.json"), text).unwrap();
        let output = Command::new(PROGRAM)
            .args(["html", "other.json"])
            .current_dir(&folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(told) && output.status.code() == Some(1),
            "{said}"
        );
        assert!(!folder.path().join("report.html").exists());
    }
}
