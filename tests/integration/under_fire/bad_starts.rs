//! Everything is bad at the start: it starts where it can, serves what it can, and says what is
//! wrong in one line each.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::thread;

use foretoken_emulator::{Emulator, Fault, FaultKind};
use rustix::process::Signal;
use tempfile::TempDir;

use super::TWO_WORKERS;
use crate::support::http::{self, Answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::nobody::Nobody;
use crate::support::privilege::not_run;
use crate::support::process::{Served, command, write_config, write_file};
use crate::support::{emulator_settings, wait::until};

const STORED: &str = "https://stored.example";
const NEW: &str = "https://new.example";
/// Tokens outlive a clock that is off by a day.
const LIFETIME_S: u64 = 2 * 86_400;
/// The user and group of nobody.
const NOBODY: u32 = 65534;

/// What has become of the disk since the last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Fine,
    /// There never was a last run.
    Empty,
    /// A file stands where the store should be.
    FileInTheWay,
    /// Every file of the database is overwritten.
    Garbage,
    /// The key file has five bytes.
    ShortKey,
    /// Everybody may read the key file.
    OpenKey,
    /// It is another key.
    OtherKey,
    /// It is gone.
    NoKey,
}
use Disk::{Empty, FileInTheWay, Fine, Garbage, NoKey, OpenKey, OtherKey, ShortKey};

const DISKS: [Disk; 8] = [
    Fine,
    Empty,
    FileInTheWay,
    Garbage,
    ShortKey,
    OpenKey,
    OtherKey,
    NoKey,
];

impl Disk {
    fn spoil(self, folder: &Path) {
        let (store, key) = (folder.join("store"), folder.join("foretoken.key"));
        match self {
            Fine | Empty => {}
            FileInTheWay => {
                fs::remove_dir_all(&store).expect("a store");
                fs::write(&store, "precious").expect("our folder");
            }
            Garbage => overwrite(&store),
            ShortKey => fs::write(&key, "short").expect("our file"),
            OpenKey => {
                let open = fs::Permissions::from_mode(0o644);
                fs::set_permissions(&key, open).expect("our file");
            }
            OtherKey => fs::write(&key, [7; 32]).expect("our file"),
            NoKey => fs::remove_file(&key).expect("our file"),
        }
    }

    /// Whether tokens of the last run can be had.
    fn brings_tokens(self) -> bool {
        self == Fine
    }

    /// Whether tokens cannot be kept, which the admin endpoints say as long as it lasts.
    fn is_degraded(self) -> bool {
        matches!(self, FileInTheWay | ShortKey | OpenKey)
    }

    /// The line that says so.
    fn said(self) -> Option<&'static str> {
        match self {
            Fine | Empty => None,
            FileInTheWay | ShortKey | OpenKey => Some("tokens are not being stored"),
            Garbage => Some("stored tokens are damaged, starting a new database"),
            OtherKey | NoKey => Some(
                "stored tokens do not open with the keys that are here, or as this user; they are \
                 kept for two days",
            ),
        }
    }
}

fn overwrite(folder: &Path) {
    for entry in fs::read_dir(folder)
        .expect("a folder")
        .map_while(Result::ok)
    {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            overwrite(&path);
        } else if name != "lock" && name != "current" {
            let length = fs::metadata(&path).expect("a file").len();
            let length = usize::try_from(length).expect("a small file");
            fs::write(&path, vec![0xa5; length]).expect("our file");
        }
    }
}

/// What the upstream is like. A clock that is wrong is one whose upstream says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Well,
    Dead,
    Throttling,
    ADayAhead,
    ADayBehind,
    FiveMinutesAhead,
}
use Source::{ADayAhead, ADayBehind, Dead, FiveMinutesAhead, Throttling, Well};

const SOURCES: [Source; 6] = [
    Well,
    Dead,
    Throttling,
    ADayAhead,
    ADayBehind,
    FiveMinutesAhead,
];

impl Source {
    /// The status for a caller without a token, and the lines that say what is wrong.
    fn outcome(self) -> (u16, Option<&'static str>) {
        match self {
            Well => (200, None),
            Dead => (503, Some("upstream calls fail")),
            Throttling => (429, Some("upstream calls fail")),
            ADayAhead | ADayBehind => (200, Some("this machine's wall clock is wrong")),
            FiveMinutesAhead => (
                200,
                Some("the upstream's clock differs from this machine's"),
            ),
        }
    }
}

/// Warnings and errors by their message, and how often each was written.
fn warnings(lines: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        if line["level"] != "INFO" {
            let message = line["fields"]["message"].as_str().expect("a message");
            *found.entry(message.to_owned()).or_default() += 1;
        }
    }
    found
}

fn ask(served: &Served, resource: &str) -> Answer {
    http::token(served.address, resource)
}

/// One pair of the matrix.
fn start(disk: Disk, source: Source) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let emulator = Emulator::start(foretoken_emulator::Settings {
        lifetime_s: LIFETIME_S,
        ..emulator_settings()
    });
    let emulator = emulator.expect("the emulator starts");
    let config = write_config(folder.path(), emulator.address(), TWO_WORKERS);
    let mut stored = None;
    if disk != Empty {
        let mut served = Served::start(&config, folder.path());
        stored = Some(token_of(&ask(&served, STORED)));
        assert_eq!(served.end(Signal::TERM).code(), Some(0));
    }
    disk.spoil(folder.path());
    match source {
        Well | Dead => {}
        Throttling => {
            let kind = FaultKind::Status {
                status: 429,
                retry_after_s: None,
            };
            emulator.set_fault(Some(Fault::always(kind)));
        }
        ADayAhead => emulator.set_mode("date-1d-ahead").expect("a mode"),
        ADayBehind => emulator.set_mode("date-1d-behind").expect("a mode"),
        FiveMinutesAhead => emulator.set_mode("date-5m-ahead").expect("a mode"),
    }
    let address = emulator.address();
    let (emulator, _nobody) = if source == Dead {
        emulator.stop();
        (None, Some(Nobody::at(address)))
    } else {
        (Some(emulator), None)
    };

    let pair = format!("{disk:?} × {source:?}");
    let mut served = Served::start(&config, folder.path());
    let ready = http::get(served.admin, "/readyz");
    assert_eq!(ready.status, 200, "{pair}");
    let body = String::from_utf8_lossy(&ready.body);
    assert_eq!(
        body.contains("degraded: store: "),
        disk.is_degraded(),
        "{pair}: {body}"
    );
    let (status, about_source) = source.outcome();
    if disk.brings_tokens() {
        // Before the upstream is asked anything.
        let answer = ask(&served, STORED);
        assert_eq!(Some(token_of(&answer)), stored, "{pair}");
    }
    let answer = ask(&served, NEW);
    assert_eq!(answer.status, status, "{pair}");
    if status == 200 {
        assert_eq!(audience_of(&answer), NEW, "{pair}");
        let held = token_of(&answer);
        assert_eq!(token_of(&ask(&served, NEW)), held, "{pair}");
    }
    let status = served.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{pair}");
    let log = served.log();
    let found = warnings(&log);
    let wanted: BTreeMap<_, _> = [disk.said(), about_source]
        .into_iter()
        .flatten()
        .map(|message| (message.to_owned(), 1))
        .collect();
    println!("{pair}: {found:?}");
    assert_eq!(found, wanted, "{pair}: {log}");
    drop(emulator);
}

#[test]
fn whatever_is_bad_at_the_start_it_starts_and_says_each_trouble_once() {
    let mut failed = Vec::new();
    for disk in DISKS {
        thread::scope(|scope| {
            let pairs: Vec<_> = SOURCES
                .into_iter()
                .map(|source| (source, scope.spawn(move || start(disk, source))))
                .collect();
            for (source, pair) in pairs {
                if pair.join().is_err() {
                    failed.push(format!("{disk:?} × {source:?}"));
                }
            }
        });
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The name of the source is known to nobody, the federated token is missing, and a file stands where
/// the store should be.
#[test]
fn without_names_tokens_or_a_disk_it_starts_and_says_each_trouble_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("store"), "precious").expect("our folder");
    let federated = folder.path().join("federated");
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nkind = \"workload-identity\"\nauthority = \"https://authority.invalid\"\n\
         tenant = \"00000000-0000-4000-8000-000000000009\"\n\
         client_id = \"00000000-0000-4000-8000-000000000001\"\ntoken_file = \"{}\"\n\
         {TWO_WORKERS}[log]\nformat = \"json\"\n",
        federated.display()
    );
    let config = write_file(folder.path(), &text);
    let mut served = Served::start(&config, folder.path());
    assert_eq!(http::get(served.admin, "/readyz").status, 200);
    let refused = ask(&served, NEW);
    assert_eq!(refused.status, 503);
    assert!(
        refused.json()["error_description"]
            .to_string()
            .contains("no_assertion")
    );
    fs::write(&federated, "a.b.c").expect("our folder");
    let words = || {
        let refused = ask(&served, "https://another.example");
        assert_eq!(refused.status, 503);
        refused.json()["error_description"].to_string()
    };
    until("the name is looked up", || words().contains("unreachable"));
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    let found = warnings(&served.log());
    println!("{found:?}");
    assert_eq!(found["tokens are not being stored"], 1);
    // Once for the token and once for the name.
    assert_eq!((found["upstream calls fail"], found.len()), (2, 2));
}

#[test]
fn on_a_read_only_disk_it_serves_from_memory() {
    const TEST: &str = "on_a_read_only_disk_it_serves_from_memory";
    let folder = TempDir::new().expect("a temporary folder");
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let config = write_config(folder.path(), emulator.address(), TWO_WORKERS);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).expect("our folder");
    let mut program = command(folder.path());
    // Root writes wherever it likes, so somebody else is served.
    if rustix::process::geteuid().is_root() {
        let as_nobody = |program: &mut std::process::Command| {
            program.uid(NOBODY).gid(NOBODY);
        };
        let mut tried = command(folder.path());
        as_nobody(&mut tried);
        let tried = tried.arg("--version").output();
        if !tried.is_ok_and(|output| output.status.success()) {
            return not_run(TEST, "nobody else may run the program");
        }
        as_nobody(&mut program);
    }
    let mut served = Served::start_as(program, &config);
    let ready = http::get(served.admin, "/readyz");
    assert_eq!(ready.status, 200);
    assert!(String::from_utf8_lossy(&ready.body).contains("degraded: store: "));
    let first = token_of(&ask(&served, NEW));
    assert_eq!(token_of(&ask(&served, NEW)), first);
    assert_eq!(emulator.counts().total, 1);
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    let found = warnings(&served.log());
    println!("{found:?}");
    assert!(found.values().all(|times| *times == 1), "{found:?}");
    assert!(
        found.contains_key("tokens are not being stored"),
        "{found:?}"
    );
}

#[test]
fn what_it_cannot_do_without_ends_the_start_with_one_sentence() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("store"), "precious").expect("our folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    let text =
        format!("[[listener]]\naddress = \"{address}\"\n[admin]\naddress = \"127.0.0.1:0\"\n");
    let config = write_file(folder.path(), &text);
    let output = command(folder.path())
        .args(["serve", "--config"])
        .arg(&config)
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(3));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        errors
            .lines()
            .filter(|line| line.starts_with("foretoken: "))
            .count(),
        1
    );
}
