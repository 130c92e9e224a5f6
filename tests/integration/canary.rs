//! No token leaves by any way but the answer to whoever asked for it.
//!
//! The emulator's tokens all carry a canary. The built program is driven through everything it
//! does, at its most talkative, and killed; then all that it wrote is searched for pieces of
//! tokens in every form in which one could hide.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use foretoken_emulator::{Emulator, Fault, FaultKind, Settings};
use ring::digest::{SHA256, digest};
use rustix::process::{Resource, Signal, getrlimit, setrlimit};

use crate::support::http;
use crate::support::jwt::token_of;
use crate::support::process::{Served, command, write_client_config, write_file};
use crate::support::{config_text, emulator_settings};

const CANARY: &str = "canary-that-no-log-and-no-file-may-ever-show";
const CLIENT_ID: &str = "c0ffee00-0000-4000-8000-00000000cafe";
const RESOURCES: [&str; 3] = [
    "https://first-canary-resource.example",
    "https://second-canary-resource.example",
    "https://third-canary-resource.example",
];

/// Shorter pieces could occur by chance, longer ones could be missed.
const PIECE: usize = 24;
/// Any leak of a few more bytes than a piece holds a whole piece.
const STEP: usize = 4;

/// Pieces of secrets, and whether they are in some bytes.
#[derive(Default)]
struct Search(HashSet<Vec<u8>>);

impl Search {
    /// Looks for a secret as it is, encoded once more, and by its hash.
    fn add(&mut self, secret: &[u8]) {
        self.add_pieces(secret);
        for shift in 0..3 {
            let shifted = secret.get(shift..).unwrap_or_default();
            self.add_pieces(STANDARD.encode(shifted).as_bytes());
            self.add_pieces(URL_SAFE.encode(shifted).as_bytes());
        }
        self.add_pieces(hex(secret).as_bytes());
        let hash = digest(&SHA256, secret);
        self.add_pieces(hash.as_ref());
        self.add_pieces(hex(hash.as_ref()).as_bytes());
        self.add_pieces(STANDARD.encode(hash.as_ref()).as_bytes());
    }

    fn add_pieces(&mut self, text: &[u8]) {
        let pieces = text.windows(PIECE).step_by(STEP);
        self.0.extend(pieces.map(<[u8]>::to_vec));
    }

    fn find<'h>(&self, bytes: &'h [u8]) -> Option<&'h [u8]> {
        bytes.windows(PIECE).find(|window| self.0.contains(*window))
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).expect("four bits");
    let digits = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
    bytes.iter().flat_map(digits).collect()
}

/// Everything that was written, each with where it was.
#[derive(Default)]
struct Written(Vec<(String, Vec<u8>)>);

impl Written {
    fn add(&mut self, place: &str, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.to_owned(), bytes.into()));
    }

    /// An answer that may not hold a token.
    fn add_answer(&mut self, place: &str, answer: &http::Answer) {
        self.add(place, format!("{:?}", answer.headers));
        self.add(place, answer.body.clone());
    }

    /// Every file below a folder, and the names of all.
    fn add_files(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let place = path.display().to_string();
            if path.is_dir() {
                self.add_files(&path);
            } else if path.is_file() {
                self.add(&place, fs::read(&path).expect("a file of ours"));
            }
            self.add("the name of a file", place);
        }
    }

    fn assert_without(&self, search: &Search) {
        for (place, bytes) in &self.0 {
            if let Some(piece) = search.find(bytes) {
                panic!("{place} shows {:?}", String::from_utf8_lossy(piece));
            }
        }
    }
}

/// Asks for tokens in every way that ends well, and returns the answers.
fn good_answers(served: &Served) -> Vec<http::Answer> {
    let mut answers = Vec::new();
    for resource in RESOURCES {
        for selector in ["", &format!("&client_id={CLIENT_ID}")] {
            // Once cold and once warm.
            for _ in 0..2 {
                answers.push(http::token(
                    served.address,
                    &format!("{resource}{selector}"),
                ));
            }
        }
    }
    answers
}

/// Provokes every kind of error answer.
fn provoke(served: &Served, emulator: &Emulator, written: &mut Written) {
    let good = String::from_utf8(http::token_request(RESOURCES[0])).expect("text");
    for bad in [
        "\u{16}\u{3}garbage\r\n\r\n".to_owned(),
        good.replace("Metadata: true\r\n", ""),
        good.replace("169.254.169.254", "evil.example"),
        good.replace("GET", "POST"),
        good.replace("resource=", "nothing="),
        good.replace("GET /", "GET /elsewhere/"),
        good.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"),
    ] {
        let mut stream = http::connect(served.address).expect("it serves");
        stream.write_all(bad.as_bytes()).expect("open");
        let answer = http::read_answer(&mut stream).expect("an answer");
        assert!(answer.status >= 400, "{bad}");
        written.add_answer("a refusal", &answer);
    }
    let other = "https://another-canary-resource.example".to_owned();
    let kinds = [
        FaultKind::Status {
            status: 500,
            retry_after_s: None,
        },
        FaultKind::Status {
            status: 400,
            retry_after_s: None,
        },
        FaultKind::Reset,
        FaultKind::Html,
        // Enough to hold most of a token.
        FaultKind::Truncate { send_bytes: 1000 },
        FaultKind::OtherResource { resource: other },
        FaultKind::OtherClient {
            client_id: "ffffffff-0000-4000-8000-000000000000".to_owned(),
        },
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        emulator.set_fault(Some(Fault::times(kind.clone(), 1)));
        let question = format!("{}&client_id={CLIENT_ID}&n={number}", RESOURCES[0]);
        let answer = http::token(served.address, &question);
        assert!(answer.status >= 400, "{kind:?}");
        written.add_answer("a refusal", &answer);
    }
    assert_eq!(emulator.counts().faulted, 7);
}

/// Looks at everything an operator can look at.
fn look(served: &Served, state: &Path, written: &mut Written) {
    for target in ["/livez", "/readyz", "/metrics", "/status", "/nothing"] {
        written.add_answer(target, &http::get(served.admin, target));
    }
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let config = write_client_config(elsewhere.path(), served);
    for arguments in [
        &["status"][..],
        &["check"],
        &["token", "--claims", "--resource", RESOURCES[0]],
    ] {
        let output = command(elsewhere.path())
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{arguments:?}");
        assert!(!output.stdout.is_empty());
        written.add(&format!("{arguments:?}"), output.stdout);
        written.add(&format!("{arguments:?}"), output.stderr);
    }
    // The folder of the server itself: its admin socket is there.
    let config = state.join("foretoken.toml");
    for words in [
        &["store", "inspect"],
        &["store", "verify"],
        &["key", "rotate"],
    ] {
        let mut command = command(state);
        let output = command.args(words).arg("--config").arg(&config).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{words:?}");
        assert!(!output.stdout.is_empty());
        written.add(&format!("{words:?}"), output.stdout);
        written.add(&format!("{words:?}"), output.stderr);
    }
    let which = format!("resource={}", RESOURCES[2]);
    let answer = http::purge(state, &which);
    assert_eq!(answer.status, 200);
    written.add_answer("the purge", &answer);
}

/// What the program wrote to its standard streams, once it has ended.
fn add_streams(served: &mut Served, written: &mut Written) {
    written.add("the log", served.log());
    let mut stdout = Vec::new();
    let stream = served.child.stdout.as_mut().expect("piped");
    stream.read_to_end(&mut stdout).expect("an ended stream");
    written.add("standard output", stdout);
}

#[test]
fn no_token_is_in_anything_but_the_answers_to_its_callers() {
    // So that it is Foretoken, and not our own limits, that keeps core files away.
    let mut core = getrlimit(Resource::Core);
    core.current = core.maximum;
    setrlimit(Resource::Core, core).expect("the soft limit is ours");

    let emulator = Emulator::start(Settings {
        canary: Some(CANARY.to_owned()),
        ..emulator_settings()
    });
    let emulator = emulator.expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = "[log]\nlevel = \"trace\"\nformat = \"json\"\n";
    let config = write_file(folder.path(), &config_text(emulator.address(), log));

    let mut written = Written::default();
    let mut served = Served::start(&config, folder.path());
    let answers = good_answers(&served);
    provoke(&served, &emulator, &mut written);
    // The store gathers changes for a second.
    std::thread::sleep(Duration::from_millis(2500));
    written.add_files(folder.path());
    look(&served, folder.path(), &mut written);
    let status = served.end(Signal::ABORT);
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped());
    add_streams(&mut served, &mut written);
    let cores = fs::read_dir(folder.path()).expect("its folder");
    let names = cores.map(|entry| entry.expect("an entry").file_name());
    for name in names {
        assert!(!name.to_string_lossy().starts_with("core"), "{name:?}");
    }

    // What it left is read again, once as it is and once with a key that does not fit.
    let calls = emulator.counts().total;
    let mut served = Served::start(&config, folder.path());
    token_of(&http::token(served.address, RESOURCES[0]));
    assert_eq!(emulator.counts().total, calls, "it was stored");
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    add_streams(&mut served, &mut written);
    fs::write(folder.path().join("foretoken.key"), [7; 32]).expect("the key file is ours");
    let mut served = Served::start(&config, folder.path());
    token_of(&http::token(served.address, RESOURCES[1]));
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    add_streams(&mut served, &mut written);
    written.add_files(folder.path());

    let mut search = Search::default();
    let literal = emulator.canary_in_tokens().expect("a canary");
    search.add(literal.as_bytes());
    for answer in &answers {
        let token = token_of(answer);
        assert!(token.contains(&literal));
        search.add(token.as_bytes());
        for part in token.split('.') {
            search.add(part.as_bytes());
        }
    }
    assert_bites(&search, &answers);
    written.assert_without(&search);

    // In the store not even who asked for what can be read.
    let mut names = Search::default();
    for name in [&RESOURCES[..], &[CLIENT_ID]].concat() {
        names.add(name.as_bytes());
    }
    let mut stored = Written::default();
    stored.add_files(&folder.path().join("store"));
    assert!(stored.0.iter().any(|(_, bytes)| bytes.len() > 1000));
    stored.assert_without(&names);
    assert!(names.find(RESOURCES[1].as_bytes()).is_some());
}

/// The search finds what it is for, where it is known to be.
fn assert_bites(search: &Search, answers: &[http::Answer]) {
    for answer in answers {
        let body = &answer.body;
        assert!(search.find(body).is_some());
        let token = token_of(answer);
        let signature = token.rsplit('.').next().expect("three parts");
        for shown in [
            format!("token={token}"),
            format!("…{}…", &signature[40..80]),
            STANDARD.encode(format!("Bearer {token}")),
            hex(token.as_bytes()),
            hex(digest(&SHA256, token.as_bytes()).as_ref()),
        ] {
            assert!(search.find(shown.as_bytes()).is_some(), "{shown}");
        }
        assert!(search.find(&token.as_bytes()[..PIECE - 1]).is_none());
    }
}
