//! Every recorded request of a real client, byte for byte, to a Foretoken in front of the emulator.
//!
//! `tests/golden/recordings` holds one file for each client, version and case. Only the requests
//! matter here, where they went, and which of them shared a connection; what the recording server
//! answered, often spoilt on purpose, does not.

use std::fs;
use std::path::Path;

use crate::support::replay::Replay;

/// What the folder holds, by kind; a recording that is lost or not replayed fails the test.
const RECORDINGS: [(&str, usize); 8] = [
    ("aml", 47),
    ("appservice", 43),
    ("arc", 34),
    ("cloudshell", 18),
    ("imds", 115),
    ("pod", 31),
    ("sf", 21),
    ("vmext", 6),
];
/// Their requests, by dialect and sort.
const REQUESTS: [(&str, usize); 10] = [
    ("app-service token", 44),
    ("app-service-2017 token", 51),
    ("arc challenge", 32),
    ("arc token", 24),
    ("cloud-shell token", 18),
    ("imds no query", 8),
    ("imds probe", 30),
    ("imds token", 240),
    ("service-fabric token", 23),
    ("vm-extension token", 7),
];
/// Asks for the table in the document to be written.
const WRITE_TABLE: &str = "FORETOKEN_WRITE_TABLE";
const DOCUMENT: &str = "docs/protocols.md";
const TABLE_STARTS: &str = "<!-- recorded clients: begin, written by the test -->\n";
const TABLE_ENDS: &str = "<!-- recorded clients: end -->";

#[test]
fn every_recorded_client_gets_the_answer_that_it_needs() {
    let replay = Replay::run();
    assert!(
        replay.complaints.is_empty(),
        "{} of {} requests were not answered as their client needs:\n{}",
        replay.complaints.len(),
        replay.asked.values().sum::<usize>(),
        replay.complaints.join("\n"),
    );
    let counts = |of: &[(&str, usize)]| of.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
    assert_eq!(replay.recordings, counts(&RECORDINGS), "recordings by kind");
    assert_eq!(replay.asked, counts(&REQUESTS), "requests by sort");
}

#[test]
fn all_recorded_clients_together_cost_one_upstream_call_for_each_token_key() {
    let replay = Replay::run();
    let counts = replay.house.emulator.counts();
    assert!(replay.keys.len() > 10, "{:?}", replay.keys);
    assert_eq!(counts.token_calls, replay.keys.len() as u64, "{counts:?}");
    for key in &replay.keys {
        // The emulator ignores unknown parameters, so it counts such keys with those without.
        let twins = replay.keys.iter();
        let twins = twins.filter(|twin| (&twin.0, &twin.1) == (&key.0, &key.1));
        assert_eq!(
            counts.calls_for(&key.0, &key.1),
            twins.count() as u64,
            "{key:?}"
        );
    }
    assert_eq!(counts.refused, 0, "probes are answered here, not upstream");
}

#[test]
fn the_table_of_recorded_clients_is_up_to_date() {
    let table = Replay::run().table();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let document = fs::read_to_string(&path).expect("the document");
    let (before, rest) = document.split_once(TABLE_STARTS).expect("its first marker");
    let (written, after) = rest.split_once(TABLE_ENDS).expect("its second marker");
    if std::env::var_os(WRITE_TABLE).is_some() {
        let document = format!("{before}{TABLE_STARTS}{table}{TABLE_ENDS}{after}");
        fs::write(&path, document).expect("a table");
    } else {
        assert!(
            written == table,
            "{DOCUMENT} is stale: run this test with {WRITE_TABLE}=1"
        );
    }
}
