//! What the tests of the store ask of an emulator and the program in front of it.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::emulator_settings;
use crate::support::http::{self, Answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::process::Served;
pub use crate::support::site::Site;

/// As many calls as the tests like, and two workers.
const MORE: &str = "max_in_flight = 16\nmax_per_second = 1000\n[server]\nworkers = 2\n";

pub fn site() -> Site {
    site_with(emulator_settings())
}

pub fn site_with(settings: foretoken_emulator::Settings) -> Site {
    Site::with(settings, MORE)
}

impl Site {
    /// Asks for these tokens and stops, so that all of them are on disk.
    pub fn fill(&self, resources: &[String]) {
        let mut served = self.serve();
        for resource in resources {
            right(&http::token(served.address, resource), resource);
        }
        assert_eq!(served.end(Signal::TERM).code(), Some(0));
    }

    /// How many records there are at rest, all of which open.
    pub fn verified(&self, context: &str) -> usize {
        let output = self.run("store verify");
        let told = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{context}: {told}{wrong}");
        let counts = told.strip_suffix(" records open\n");
        let counts = counts.and_then(|told| told.split_once(" of "));
        let (open, all) = counts.unwrap_or_else(|| panic!("{context}: {told}"));
        assert_eq!(open, all, "{context}");
        all.parse().expect("a number")
    }

    /// What is stored, kept apart, to begin from again and again.
    pub fn keep(&self) -> Kept {
        let kept = tempfile::tempdir().expect("a temporary folder");
        copy(&self.store(), &kept.path().join("store"));
        fs::copy(self.key(), kept.path().join("key")).expect("the key file");
        Kept(kept)
    }

    pub fn put_back(&self, kept: &Kept) {
        for entry in fs::read_dir(self.folder.path()).expect("ours").flatten() {
            let name = entry.file_name();
            if name == "store" {
                fs::remove_dir_all(entry.path()).expect("ours");
            } else if name.to_string_lossy().starts_with("foretoken.key") {
                let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
            }
        }
        copy(&kept.0.path().join("store"), &self.store());
        fs::copy(kept.0.path().join("key"), self.key()).expect("the key file");
    }
}

/// A store at rest and its key.
pub struct Kept(TempDir);

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("our folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a file");
        }
    }
}

/// Resources of that name.
pub fn resources(name: &str, count: usize) -> Vec<String> {
    let name = |number| format!("https://{name}-{number}.example");
    (0..count).map(name).collect()
}

/// The token in an answer, which is for what was asked.
pub fn right(answer: &Answer, resource: &str) -> String {
    assert_eq!(audience_of(answer), resource);
    token_of(answer)
}

/// Whether the process tells that it cannot keep tokens, as probes and as metrics are told.
pub fn is_degraded(served: &Served) -> bool {
    let ready = http::get(served.admin, "/readyz");
    assert_eq!(ready.status, 200, "it serves all the same");
    let told = String::from_utf8_lossy(&ready.body).contains("degraded: store: ");
    let gauge = sum(&scrape(served.admin), "foretoken_store_degraded", None);
    // Read one after the other: in between it may have changed.
    told && gauge == 1
}

pub fn outcomes(served: &Served, outcome: &str) -> u64 {
    let samples = scrape(served.admin);
    sum(&samples, "foretoken_requests_total", Some(outcome))
}

/// Runs `job` for each of `0..count`, some at a time.
pub fn in_chains(count: u64, chains: u64, job: impl Fn(u64, &mut dyn Iterator<Item = u64>) + Sync) {
    let next = Mutex::new(0..count);
    std::thread::scope(|scope| {
        for chain in 0..chains {
            let (next, job) = (&next, &job);
            scope.spawn(move || {
                let mut turns = std::iter::from_fn(|| next.lock().expect("no panic").next());
                job(chain, &mut turns);
            });
        }
    });
}
