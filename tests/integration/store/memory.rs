//! What of the secrets is in the process's memory (C-5, C-6). It takes root to look: the process
//! forbids it to its own user.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use foretoken_emulator::Emulator;
use rustix::process::geteuid;

use crate::support::emulator_settings;
use crate::support::http;
use crate::support::jwt::token_of;
use crate::support::privilege::not_run;
use crate::support::process::{Served, run, write_config};

const RESOURCES: usize = 5;
/// Enough of a token to be sure of it.
const PIECE: usize = 64;

/// A part of the process's memory.
struct Mapping {
    start: u64,
    end: u64,
    is_locked: bool,
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("root may");
    let mut found: Vec<Mapping> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let mapping = found.last_mut().expect("its head came first");
            mapping.is_locked = flags.split_whitespace().any(|flag| flag == "lo");
        } else if let Some((start, end)) = first.split_once('-') {
            let number = |text| u64::from_str_radix(text, 16);
            if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                let readable = words.next().is_some_and(|rights| rights.starts_with('r'));
                found.push(Mapping {
                    start,
                    end: if readable { end } else { start },
                    is_locked: false,
                });
            }
        }
    }
    found
}

/// Where the bytes lie: in locked memory, and elsewhere.
fn places(pid: u32, wanted: &[Vec<u8>]) -> Vec<(usize, usize)> {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may");
    let mut found = vec![(0, 0); wanted.len()];
    for mapping in mappings(pid) {
        let len = usize::try_from(mapping.end - mapping.start).expect("it fits");
        let mut bytes = vec![0; len];
        // What the kernel keeps for itself cannot be read.
        if len == 0 || memory.read_exact_at(&mut bytes, mapping.start).is_err() {
            continue;
        }
        for (wanted, (locked, open)) in wanted.iter().zip(&mut found) {
            let count = memchr::memmem::find_iter(&bytes, wanted).count();
            *if mapping.is_locked { locked } else { open } += count;
        }
    }
    found
}

#[test]
fn the_master_key_lies_in_locked_memory_alone_and_cannot_be_read_by_the_same_user() {
    if !geteuid().is_root() {
        let why = "it takes root to read the memory of a process that forbids it";
        not_run("the master key in memory", why);
        return;
    }
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = write_config(folder.path(), emulator.address(), "");
    let served = Served::start(&config, folder.path());
    let ask = |number| {
        let resource = format!("https://{number}.example");
        token_of(&http::token(served.address, &resource)).into_bytes()
    };
    let tokens: Vec<_> = (0..RESOURCES).map(ask).collect();
    let pid = served.child.id();

    let key = fs::read(folder.path().join("foretoken.key")).expect("the key file");
    assert_eq!(places(pid, &[key]), [(1, 0)], "locked, and elsewhere");

    // The end of a token is its signature: no two have the same.
    let pieces: Vec<_> = tokens
        .iter()
        .map(|token| token[token.len() - PIECE..].to_vec())
        .collect();
    let held = places(pid, &pieces);
    assert!(
        held.iter().all(|(_, open)| *open > 0),
        "they are served from there"
    );
    let words = [
        "purge",
        "--all",
        "--config",
        config.to_str().expect("plain"),
    ];
    assert!(run(folder.path(), &words).status.success());
    std::thread::sleep(Duration::from_secs(2));
    let left: usize = places(pid, &pieces).iter().map(|(_, open)| open).sum();
    let before: usize = held.iter().map(|(_, open)| open).sum();
    println!("copies of {RESOURCES} tokens in memory: {before} while held, {left} after the purge");
    // Buffers of clients' sockets and of the upstream's answers are wiped as tokens are.
    assert!(left * 4 <= before, "{left} of {before}");
}
