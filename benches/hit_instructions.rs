//! How many instructions does a hit take, from the bytes of its head to the bytes of its answer?
//!
//! Not a matter of time: `./recipes instructions` runs this under callgrind and compares with
//! `instructions.toml`, so that a slower hit is seen in CI, where nothing can be timed. What is
//! played is the connection loop itself, on a pipe in memory with one request after the other. Each
//! case is played N and 2N times, and the difference counts, so that the first ones do not.

mod house;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, ExitCode};
use std::{env, fs};

use foretoken::protocol::Dialect;
use foretoken::server::rehearsal;
use house::{House, caller, gate, hit, longest, of_dialect, python_sdk};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

/// So many hits at least, and twice as many.
const HITS: usize = 2_000;
/// Rewrites the table.
const BLESS: &str = "FORETOKEN_BLESS";
/// More than the table says by this share fails.
const ALLOWED: f64 = 0.03;
/// So much less, and the table is out of date.
const OUTDATED: f64 = 0.10;
/// How often a case is counted until it fits.
const TRIES: usize = 3;
/// More than an answer, so that nobody waits for room.
const PIPE_BYTES: usize = 64 * 1024;

struct Case {
    name: &'static str,
    dialect: Dialect,
    head: fn(usize) -> Vec<u8>,
    keys: usize,
}

const CASES: [Case; 4] = [
    Case {
        name: "imds_keepalive_python_sdk",
        dialect: Dialect::Imds,
        head: python_sdk,
        keys: 1,
    },
    Case {
        name: "imds_keepalive_longest_head",
        dialect: Dialect::Imds,
        head: longest,
        keys: 1,
    },
    Case {
        name: "app_service_keepalive_secret",
        dialect: Dialect::AppService,
        head: |number| of_dialect(Dialect::AppService, number),
        keys: 1,
    },
    Case {
        name: "imds_keepalive_python_sdk_10000_keys",
        dialect: Dialect::Imds,
        head: python_sdk,
        keys: 10_000,
    },
];

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    // cargo adds flags of its own.
    let words = words.iter().filter(|word| !word.starts_with("--"));
    let words: Vec<_> = words.map(String::as_str).collect();
    match words[..] {
        ["gate"] => return gate_all(),
        ["play", name, hits] => {
            let case = CASES.iter().find(|case| case.name == name);
            play(case.expect("a known case"), hits.parse().expect("a number"));
        }
        // By `cargo bench`, which looks whether it runs.
        _ => CASES.iter().for_each(|case| play(case, 10)),
    }
    ExitCode::SUCCESS
}

/// Answers the case's requests, of one key after the other, on one connection.
fn play(case: &Case, hits: usize) {
    let house = House::default();
    let gate = gate(case.dialect);
    let requests: Vec<_> = (0..case.keys).map(case.head).collect();
    requests
        .iter()
        .for_each(|request| house.warm(&gate, request));
    let mut worker = house.worker();
    // What a worker sees for the first time it parses and remembers.
    for request in &requests {
        hit(&mut worker, &gate, request);
    }
    let clock = house.stop();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
    let asking = async {
        client.write_all(&requests[0]).await.expect("a pipe");
        let mut answer = vec![0; PIPE_BYTES];
        // All answers are as long as the first one: they differ in digits.
        let length = client.read(&mut answer).await.expect("a pipe");
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        for hit in 0..hits {
            let request = &requests[hit % requests.len()];
            client.write_all(request).await.expect("a pipe");
            let read = client.read_exact(&mut answer[..length]).await;
            assert_eq!(read.expect("a whole answer"), length);
        }
    };
    // Not ended in there: that would give the whole cache back.
    let serving = pin!(rehearsal::serve(server, caller(), worker, gate, clock));
    counted(&runtime, async {
        tokio::select! {
            biased;
            () = asking => {}
            () = serving => panic!("the connection goes on"),
        }
    });
}

/// Only what happens in here is counted: to fill a cache takes more or less by chance.
#[inline(never)]
fn counted(runtime: &Runtime, playing: impl Future<Output = ()>) {
    runtime.block_on(playing);
}

fn gate_all() -> ExitCode {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.toml");
    let table = fs::read_to_string(&path).expect("the table");
    let header: String = table
        .lines()
        .take_while(|line| line.starts_with('#') || line.is_empty())
        .map(|line| line.to_owned() + "\n")
        .collect();
    let table: BTreeMap<String, u64> = toml::from_str(&table).expect("names and numbers");
    let (mut blessed, mut wrong) = (header, 0);
    for case in &CASES {
        let known = table.get(case.name);
        let mut hit = count(case);
        // What the allocator finds free differs by chance, by up to 2 %: the least counts.
        for _ in 1..TRIES {
            if known.is_none_or(|known| judge(hit, *known).is_err()) {
                hit = hit.min(count(case));
            }
        }
        writeln!(blessed, "{} = {hit}", case.name).expect("a string takes it");
        let verdict = match known {
            None => Err("which is not in the table".to_owned()),
            Some(known) => judge(hit, *known),
        };
        let (Ok(told) | Err(told)) = &verdict;
        println!("{}: {hit} instructions, {told}", case.name);
        wrong += usize::from(verdict.is_err());
    }
    if env::var_os(BLESS).is_some() {
        fs::write(&path, blessed).expect("the table");
        println!("written to {}", path.display());
        return ExitCode::SUCCESS;
    }
    if table.len() != CASES.len() {
        println!(
            "the table has {} rows for {} cases",
            table.len(),
            CASES.len()
        );
        wrong += 1;
    }
    if wrong > 0 {
        println!("if that is meant so: {BLESS}=1 ./recipes instructions");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions of one hit.
fn count(case: &Case) -> u64 {
    // Each key as often as the others.
    let hits = HITS.max(case.keys);
    let spent = |hits| instructions(case.name, hits);
    (spent(2 * hits) - spent(hits)) / hits as u64
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn judge(hit: u64, known: u64) -> Result<String, String> {
    let change = hit as f64 / known as f64 - 1.0;
    let told = format!("{:+.1} % against {known}", change * 100.0);
    match change {
        change if change > ALLOWED => Err(format!("{told}: too many")),
        change if change < -OUTDATED => Err(format!("{told}: the table is out of date")),
        _ => Ok(told),
    }
}

/// The instructions of so many hits, in user space.
fn instructions(name: &str, hits: usize) -> u64 {
    let program: PathBuf = env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=hit_instructions::counted*")
        .arg(program)
        .args(["play", name, &hits.to_string()])
        .output()
        .expect("valgrind is installed");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let line = told.lines().find(|line| line.contains("Collected : "));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no count in: {told}"))
}
