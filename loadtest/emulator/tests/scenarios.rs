//! The scenarios that are shipped: each can be read and played to its end, and the compressed ones
//! have a configuration of Foretoken beside them that is made for the same scale.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use foretoken_emulator::{Emulator, Limits, Scenario, Settings};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

/// Name and scenario of every file.
fn shipped() -> Vec<(String, Scenario)> {
    let names = fs::read_dir(folder()).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.into_string().unwrap()
    });
    let scenarios: Vec<_> = names
        .filter_map(|name| Some(name.strip_suffix(".toml")?.to_owned()))
        .filter(|name| !name.ends_with(".foretoken"))
        .map(|name| {
            let text = fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap();
            let scenario = Scenario::from_toml(&text);
            let scenario = scenario.unwrap_or_else(|error| panic!("{name}.toml:{error}"));
            (name, scenario)
        })
        .collect();
    assert!(scenarios.len() >= 9, "the folder holds scenarios");
    scenarios
}

#[test]
fn every_scenario_is_called_like_its_file_and_ends() {
    for (name, scenario) in shipped() {
        assert_eq!(scenario.name, name);
        assert!(!scenario.about.is_empty(), "{name}");
        assert!(scenario.length().is_some(), "{name}");
        let last = scenario.phases.last().unwrap();
        assert!(
            last.faults.is_empty() && last.pressure.is_none(),
            "{name} ends well"
        );
    }
}

#[test]
fn tokens_fall_due_while_something_is_wrong() {
    for (name, scenario) in shipped() {
        // Half of its life after it was issued, by the custom of clients.
        let Some(due) = scenario.lifetime.map(|life| life / 2) else {
            continue;
        };
        let wrong = scenario.phases.iter().any(|phase| {
            let end = phase.at + phase.length.unwrap_or_default();
            let goes_wrong = !phase.faults.is_empty() || phase.pressure.is_some();
            goes_wrong && phase.at <= due && due <= end
        });
        // There it is not the age of a token that makes clients ask.
        assert!(wrong || name == "revocation", "{name}");
    }
}

#[test]
fn every_scenario_can_be_played_to_its_end() {
    for (name, scenario) in shipped() {
        let emulator = Emulator::start(Settings {
            limits: Limits::NONE,
            ..Settings::default()
        })
        .unwrap();
        let scale = scenario.length().unwrap().as_secs_f64() * 5.0;
        let phases = scenario.phases.len();
        emulator.play(scenario.at_scale(scale));
        // A fifth of a second long; this is far beyond it.
        for _ in 0..2000 {
            thread::sleep(Duration::from_millis(10));
            if emulator.scenario().unwrap().ended {
                break;
            }
        }
        let state = emulator.scenario().unwrap();
        assert_eq!(
            (state.phases_begun, state.phases),
            (phases, phases),
            "{name}"
        );
        assert_eq!(emulator.active_modes(), [], "{name}");
    }
}

#[test]
fn every_compressed_scenario_has_a_configuration_of_the_same_scale() {
    for (name, scenario) in shipped() {
        let text = fs::read_to_string(folder().join(format!("{name}.foretoken.toml")));
        assert_eq!(text.is_ok(), scenario.scale > 1.0, "{name}");
        let Ok(text) = text else { continue };
        let first = format!("# For {name}.toml at its scale of {}", scenario.scale);
        assert!(
            text.starts_with(&first),
            "{name}: {:?} is not {first:?}",
            text.lines().next()
        );
        let configuration: toml::Table = text.parse().unwrap();
        let endpoint = configuration["upstream"]["endpoint"].as_str();
        assert_eq!(endpoint, Some("http://127.0.0.1:16924"), "{name}");
    }
}
