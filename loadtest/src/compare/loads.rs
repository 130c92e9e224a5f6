//! Loads on a warm server: kept links, a Unix socket, a fixed rate, a link for each request, pipelines,
//! many client processes.

use std::time::Duration;

use super::peer::Setup;
use super::workload::{Bench, Round, Rounds, Running, Sizes, Workload, for_all};
use crate::measure::{Around, measure};
use crate::plan::{Keep, Length, Pace, Plan, Target};
use crate::report::Report;

/// By when a server that has just been started must have its token.
const PRIME: Duration = Duration::from_secs(10);
const RATE: u32 = 20_000;

pub(super) const KEEP_ALIVE: Workload = Workload {
    name: "keepalive",
    about: |_| "64 kept links, closed loop, server on one CPU, driver on another".to_owned(),
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin: |bench| {
        begin(
            bench,
            Shape {
                links: 64,
                ..Shape::PLAIN
            },
        )
    },
};

pub(super) const UNIX: Workload = Workload {
    name: "unix",
    about: |_| "the same over a Unix socket".to_owned(),
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin: |bench| {
        begin(
            bench,
            Shape {
                links: 64,
                unix: true,
                ..Shape::PLAIN
            },
        )
    },
};

pub(super) const OPEN: Workload = Workload {
    name: "open",
    about: |_| {
        format!(
            "{RATE} requests a second on 64 kept links, latency from when each was to be sent, server and driver on the same CPU"
        )
    },
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin: |bench| {
        begin(
            bench,
            Shape {
                links: 64,
                per_s: Some(RATE),
                cpus: Cpus::Same,
                ..Shape::PLAIN
            },
        )
    },
};

pub(super) const CONNECT_EACH: Workload = Workload {
    name: "connect-each",
    about: |_| {
        "a link for each request, 16 at once, server on one CPU, driver on another".to_owned()
    },
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin: |bench| {
        begin(
            bench,
            Shape {
                links: 16,
                connect_each: true,
                ..Shape::PLAIN
            },
        )
    },
};

pub(super) const PIPELINED: Workload = Workload {
    name: "pipelined",
    about: |_| {
        "16 kept links, 16 requests on the way on each, server on one CPU, driver on another"
            .to_owned()
    },
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin: |bench| {
        begin(
            bench,
            Shape {
                links: 16,
                pipeline: 16,
                ..Shape::PLAIN
            },
        )
    },
};

pub(super) const DENSE: Workload = Workload {
    name: "dense",
    about: |sizes| {
        format!(
            "{} client processes with 2 kept links each, closed loop, one worker for each CPU, nothing bound from outside",
            sizes.processes
        )
    },
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin: |bench| {
        begin(
            bench,
            Shape {
                links: 2 * bench.sizes.processes,
                processes: bench.sizes.processes,
                cpus: Cpus::All,
                ..Shape::PLAIN
            },
        )
    },
};

pub(super) const LOPSIDED: Workload = Workload {
    name: "lopsided",
    about: |_| "64 kept links, closed loop, all from one CPU, one worker for each CPU".to_owned(),
    leaves_out: for_all,
    most_rounds: usize::MAX,
    begin: |bench| {
        begin(
            bench,
            Shape {
                links: 64,
                cpus: Cpus::AllForServer,
                ..Shape::PLAIN
            },
        )
    },
};

/// Who may use which.
#[derive(Clone, Copy)]
enum Cpus {
    /// Server and driver one each.
    Apart,
    /// Both the same.
    Same,
    /// The driver one, the server all, with a worker for each.
    AllForServer,
    /// Both all.
    All,
}

#[derive(Clone, Copy)]
struct Shape {
    unix: bool,
    cpus: Cpus,
    processes: usize,
    links: usize,
    per_s: Option<u32>,
    connect_each: bool,
    pipeline: usize,
}

impl Shape {
    const PLAIN: Self = Self {
        unix: false,
        cpus: Cpus::Apart,
        processes: 0,
        links: 1,
        per_s: None,
        connect_each: false,
        pipeline: 1,
    };

    fn plan(self, target: &Target, sizes: &Sizes, cpus: Vec<usize>) -> Plan {
        Plan {
            pace: Pace::at(self.per_s),
            keep: Keep::of(self.connect_each),
            links: self.links,
            pipeline: self.pipeline,
            warm_up: sizes.warm_up,
            length: Length::For(sizes.round),
            processes: self.processes,
            cpus,
            ..Plan::new(target.clone())
        }
    }
}

fn begin(bench: &Bench, shape: Shape) -> anyhow::Result<Rounds> {
    let (server_cpu, other_cpu) = bench.cpus;
    let (server_cpus, driver_cpus) = match shape.cpus {
        Cpus::Apart => (vec![server_cpu], vec![other_cpu]),
        Cpus::Same => (vec![server_cpu], vec![server_cpu]),
        Cpus::AllForServer => (Vec::new(), vec![other_cpu]),
        Cpus::All => (Vec::new(), Vec::new()),
    };
    let running = Running::start(bench, |setup| Setup {
        unix: shape.unix,
        workers: if server_cpus.is_empty() {
            bench.all_cpus
        } else {
            setup.workers
        },
        cpus: server_cpus,
        ..setup
    })?;
    let plan = shape.plan(&running.ready.target, &bench.sizes, driver_cpus);
    Ok(Box::new(move || {
        let running = &running;
        let around = Around {
            pid: Some(running.server.pid()),
            prime: Some(PRIME),
            ..Around::default()
        };
        let loads = [("round".to_owned(), plan.clone())];
        Ok(round(&measure(&loads, &around, |_, _| ())?))
    }))
}

/// The figures of one load at one server.
fn round(report: &Report) -> Round {
    let (load, server) = (&report.loads[0], report.server);
    let figures = [
        ("answers_per_s", load.answers_per_s),
        ("p50_us", load.latency_us.p50),
        ("p99_us", load.latency_us.p99),
        ("p99_9_us", load.latency_us.p99_9),
        ("max_us", load.latency_us.max),
        ("driver_us_per_request", report.client.cpu_us_per_request),
        (
            "cpu_us_per_request",
            server.map_or(0.0, |server| server.cpu_us_per_request),
        ),
    ];
    Round {
        figures: figures.into(),
        counts: load.counts.clone(),
    }
}
