//! One thing happens to the files of a store at rest: the built program starts, and serves nothing
//! wrong. `src/store/tests/damage.rs` does the same in great numbers without a process.
//!
//! `FORETOKEN_STORE_DAMAGES` sets how often, `FORETOKEN_SEED` repeats a run's choices.

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use rustix::process::Signal;

use super::site::{resources, right, site};
use crate::support::http;
use crate::under_fire::size;

const DAMAGES: &str = "FORETOKEN_STORE_DAMAGES";
const EVERY_RUN: u64 = 8;
const SEED: &str = "FORETOKEN_SEED";
const KEYS: usize = 12;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
}

fn spoil(file: &Path, rng: &mut Rng) -> &'static str {
    let mut bytes = fs::read(file).expect("our file");
    let at = rng.usize(..bytes.len().max(1));
    match rng.u8(..5) {
        0 if !bytes.is_empty() => {
            bytes[at] ^= 1 << rng.u8(..8);
            fs::write(file, bytes).expect("our file");
            "a bit flipped"
        }
        1 => {
            bytes.truncate(at);
            fs::write(file, bytes).expect("our file");
            "truncated"
        }
        2 => {
            fs::remove_file(file).expect("our file");
            "removed"
        }
        3 => {
            fs::remove_file(file).expect("our file");
            fs::create_dir(file).expect("our folder");
            "a folder in its place"
        }
        _ => {
            let end = bytes.len().min(at + 512);
            bytes[at.min(end)..end].fill(0xa5);
            fs::write(file, bytes).expect("our file");
            "a block overwritten"
        }
    }
}

#[test]
fn whatever_happens_to_a_file_of_the_store_the_program_starts_and_serves_nothing_wrong() {
    let (rounds, seed) = (size(DAMAGES, EVERY_RUN), size(SEED, fastrand::u64(..)));
    println!("{SEED}={seed}");
    let mut rng = Rng::with_seed(seed);
    let site = site();
    let keys = resources("key", KEYS);
    site.fill(&keys);
    let kept = site.keep();
    for round in 0..rounds {
        site.put_back(&kept);
        let mut all = vec![site.key()];
        files(&site.store(), &mut all);
        let file = &all[rng.usize(..all.len())];
        let what = spoil(file, &mut rng);
        let name = file.file_name().expect("a name").to_string_lossy();
        let calls = site.emulator.counts().total;
        let mut served = site.serve();
        assert_eq!(
            http::get(served.admin, "/readyz").status,
            200,
            "{name}: {what}"
        );
        for resource in &keys {
            right(&http::token(served.address, resource), resource);
        }
        let lost = site.emulator.counts().total - calls;
        assert_eq!(
            served.end(Signal::TERM).code(),
            Some(0),
            "{SEED}={seed}, {round}: {name}: {what}"
        );
        println!(
            "{name}: {what}: {} of {KEYS} were there",
            KEYS as u64 - lost
        );
    }
}
