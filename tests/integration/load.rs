//! The load driver, which shares no code with Foretoken, at the built program before the emulator.

use std::time::Duration;

use foretoken_emulator::Emulator;
use foretoken_load::{Around, Client, Keep, Length, Pace, Plan, Report, Source, Target, measure};

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
            timeline: None,
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
