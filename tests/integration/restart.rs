//! Tokens outlive the process: a restart while the upstream is dead is a non-event.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use foretoken::clock::Clock;
use rustix::process::Signal;

use crate::support::http::{self, Answer};
use crate::support::jwt::token_of;
use crate::support::metrics::{scrape, sum};
use crate::support::nobody::Nobody;
use crate::support::process::Served;
use crate::support::site::Site;

/// The store gathers changes for a second before it writes them, and this is a busy machine.
const WRITTEN: Duration = Duration::from_millis(2500);

/// Resources with selectors: the system identity, and user-assigned ones by each selector.
fn questions() -> Vec<String> {
    let guid = |n| format!("00000000-0000-4000-8000-00000000000{n}");
    let arm = "/subscriptions/0/resourceGroups/rg/providers/Microsoft.ManagedIdentity/\
               userAssignedIdentities/one";
    let selectors = [
        String::new(),
        format!("&client_id={}", guid(1)),
        format!("&object_id={}", guid(2)),
        format!("&msi_res_id={arm}"),
    ];
    let of = |selector: &String| [1, 2, 3].map(|n| format!("https://r{n}.example{selector}"));
    selectors.iter().flat_map(of).collect()
}

fn ask_all(served: &Served) -> Vec<Answer> {
    let ask = |question: &String| http::token(served.address, question);
    questions().iter().map(ask).collect()
}

fn upstream_calls(served: &Served) -> u64 {
    sum(
        &scrape(served.admin),
        "foretoken_upstream_calls_total",
        None,
    )
}

#[test]
fn every_token_is_back_after_a_kill_while_the_upstream_is_dead() {
    let site = Site::new("");
    let mut served = site.serve();
    let before: Vec<_> = ask_all(&served).iter().map(token_of).collect();
    assert_eq!(site.emulator.counts().total, 12);
    std::thread::sleep(WRITTEN);
    served.end(Signal::KILL);

    let Site {
        emulator,
        folder,
        config,
    } = site;
    let address = emulator.address();
    emulator.stop();
    let _nobody = Nobody::at(address);
    let clock = Clock::system();
    let begun = clock.now();
    let served = Served::start(&config, folder.path());
    let ready = clock.now();
    let first = token_of(&http::token(served.address, &questions()[0]));
    println!(
        "ready {} ms after the start, the first good answer {} ms after that",
        ready.since(begun),
        clock.now().since(ready)
    );
    assert_eq!(first, before[0]);
    let after: Vec<_> = ask_all(&served).iter().map(token_of).collect();
    assert_eq!(before, after);
    assert_eq!(upstream_calls(&served), 0);
    let status = http::get(served.admin, "/status").json();
    for key in status["keys"].as_array().expect("keys") {
        assert_eq!(key["last"], "restored");
    }
}

#[test]
fn a_clean_stop_writes_everything_and_an_expired_token_is_never_served() {
    let site = Site::new("");
    let mut served = site.serve();
    let long = token_of(&http::token(served.address, "https://long.example"));
    site.emulator.set_lifetime_s(2);
    token_of(&http::token(served.address, "https://short.example"));
    // No time to gather changes: the stop writes them.
    let status = served.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    assert!(served.log().contains("stopped"));

    let Site {
        emulator,
        folder,
        config,
    } = site;
    let address = emulator.address();
    emulator.stop();
    let _nobody = Nobody::at(address);
    std::thread::sleep(Duration::from_millis(2500));
    let served = Served::start(&config, folder.path());
    let status = http::get(served.admin, "/status").json();
    let keys = status["keys"].as_array().expect("keys");
    assert_eq!(keys.len(), 1, "{status}");
    assert_eq!(
        token_of(&http::token(served.address, "https://long.example")),
        long
    );
    assert_eq!(upstream_calls(&served), 0);
    let refused = http::token(served.address, "https://short.example");
    assert_eq!(refused.status, 503);
}

#[test]
fn without_a_store_a_restart_is_cold_and_leaves_nothing_behind() {
    let site = Site::new("[store]\nmode = \"off\"\n");
    for calls in [12, 24] {
        let mut served = site.serve();
        for answer in ask_all(&served) {
            token_of(&answer);
        }
        assert_eq!(site.emulator.counts().total, calls);
        assert_eq!(served.end(Signal::TERM).code(), Some(0));
    }
    assert!(!site.folder.path().join("store").exists());
    assert!(!site.folder.path().join("foretoken.key").exists());
}

#[test]
fn a_foreign_key_file_costs_a_cold_start_and_a_warning() {
    let site = Site::new("");
    let mut served = site.serve();
    ask_all(&served);
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    let key = site.folder.path().join("foretoken.key");
    std::fs::write(&key, [7; 32]).expect("the key file is ours");
    let mode = std::fs::metadata(&key).expect("a key file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);

    let mut served = site.serve();
    let warnings: Vec<_> = served
        .start
        .iter()
        .filter(|line| line.contains("\"WARN\""))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("do not open"), "{warnings:?}");
    let cold: Vec<_> = ask_all(&served).iter().map(token_of).collect();
    assert_eq!(site.emulator.counts().total, 24);

    // What was written under the new key is as good as ever.
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    let served = site.serve();
    let warm: Vec<_> = ask_all(&served).iter().map(token_of).collect();
    assert_eq!(cold, warm);
    assert_eq!(site.emulator.counts().total, 24);
}
