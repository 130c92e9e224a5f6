//! The load driver, which shares no code with Foretoken, at the built program before the emulator.

use std::time::Duration;

use foretoken_emulator::Emulator;
use foretoken_load::{
    Around, Client, Keep, Length, Pace, Plan, Report, Scenario, Source, Target, measure,
};

use crate::support::emulator_settings;
use crate::support::process::{Served, write_config};

const KEYS: usize = 10;
const REQUESTS: u64 = 200;

struct Place {
    emulator: Emulator,
    served: Served,
    folder: tempfile::TempDir,
}

impl Place {
    fn start() -> Self {
        let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("imds.sock");
        let listener = format!("[[listener]]\naddress = \"unix:{}\"\n", socket.display());
        let config = write_config(folder.path(), emulator.address(), &listener);
        let served = Served::start(&config, folder.path());
        Self {
            emulator,
            served,
            folder,
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            links: 4,
            keys: KEYS,
            skew: 1.0,
            clients: Client::all().map(|client| (client, 1)).collect(),
            length: Length::Requests(REQUESTS),
            ..Plan::new(Target::Tcp(self.served.address))
        }
    }

    fn measure(&self, loads: &[(String, Plan)], idle: usize) -> Report {
        let around = Around {
            pid: Some(self.served.child.id()),
            upstream: Some(Source::Here(&self.emulator)),
            idle,
            prime: Some(Duration::from_secs(30)),
            ..Around::default()
        };
        measure(loads, &around, |_, _| {}).expect("a report")
    }
}

#[test]
fn whatever_the_links_and_the_client_every_answer_is_right_and_each_key_is_one_call() {
    let place = Place::start();
    let plan = place.plan();
    let socket = Target::Unix(place.folder.path().join("imds.sock"));
    let loads = [
        ("kept", plan.clone()),
        (
            "each",
            Plan {
                keep: Keep::OneRequest,
                ..plan.clone()
            },
        ),
        (
            "pipelined",
            Plan {
                pipeline: 8,
                ..plan.clone()
            },
        ),
        (
            "paced",
            Plan {
                pace: Pace::Open { per_s: 400 },
                threads: 2,
                ..plan.clone()
            },
        ),
        (
            "unix",
            Plan {
                target: socket.clone(),
                ..plan.clone()
            },
        ),
        (
            "unix each",
            Plan {
                target: socket,
                keep: Keep::OneRequest,
                ..plan
            },
        ),
    ]
    .map(|(name, plan)| (name.to_owned(), plan));
    let report = place.measure(&loads, 20);
    for load in &report.loads {
        let counts = &load.counts;
        assert_eq!(
            (counts.right, counts.requests()),
            (REQUESTS, REQUESTS),
            "{}: {counts:?}",
            load.name
        );
        let links = if load.plan.connect_each { REQUESTS } else { 4 };
        assert_eq!(
            (load.links_opened, load.links_closed_idle),
            (links, 0),
            "{}",
            load.name
        );
        assert_eq!(load.latency_us.count, REQUESTS);
    }
    let upstream = report.upstream.expect("an emulator");
    assert_eq!((upstream.calls, upstream.throttled), (KEYS as u64, 0));
    let server = report.server.expect("a process");
    assert!(
        server.cpu_s > 0.0 && server.rss_after_kib > 1_000,
        "{server:?}"
    );
    assert_eq!(report.idle.expect("idle links").links, 20);
}

#[test]
fn a_scenario_plays_with_the_built_program_the_emulators_timeline_and_several_loads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file
    };
    let spoilt = "name = 'spoilt'\n[[phase]]\nname = 'first'\nat = '0s'\n\
                  [[phase.fault]]\nmode = 'status-503'\ntimes = 1\n";
    write("spoilt.toml", spoilt);
    let scenario = write("test.toml", SCENARIO);
    let scenario = Scenario::read(&scenario).expect("a scenario");
    let foretoken = std::path::Path::new(env!("CARGO_BIN_EXE_foretoken"));
    let report = scenario.play(foretoken, |_| |_, _| {}).expect("a report");
    assert_eq!((&*report.name, report.wrong()), ("test", 0));
    let [kept, each] = &report.loads[..] else {
        panic!("{:?}", report.loads);
    };
    assert_eq!(
        (&*kept.name, kept.counts.right, kept.requests),
        ("kept", 100, 100)
    );
    assert_eq!(
        (&*each.name, each.counts.right, each.requests),
        ("each", 50, 50)
    );
    assert_eq!((each.links_opened, kept.links_opened), (50, 2));
    let upstream = report.upstream.expect("an emulator");
    assert_eq!(
        (upstream.calls, upstream.faulted),
        (5 + 1, 1),
        "each key, and the spoilt one"
    );
    assert!(report.server.is_some());
}

const SCENARIO: &str = r#"
name = "test"
prime = "30s"
duration = "1s"
[emulator]
limits = { requests_per_s = 0, at_once = 0 }
timeline_file = "spoilt.toml"
[server]
command = ["foretoken", "serve", "--config", "{config}"]
config = """
[[listener]]
address = "{target}"
[admin]
address = "127.0.0.1:0"
socket = "off"
[upstream]
endpoint = "http://{upstream}"
[log]
level = "warn"
"""
[[load]]
name = "kept"
rate = 100
links = 2
keys = 5
clients = { python-azure-identity = 1, go-autorest = 1 }
[[load]]
name = "each"
rate = 50
links = 2
connect_each = true
keys = 5
"#;
