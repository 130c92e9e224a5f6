//! What an operator changes, and what an operator is told: purge, refresh, runway.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use foretoken_emulator::{Emulator, Fault, FaultKind};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::emulator_settings;
use crate::support::http::{self, connect, read_answer};
use crate::support::jwt::token_of;
use crate::support::metrics::{scrape, sum};
use crate::support::process::{Served, run, write_config};
use crate::support::wait::until;

const KEY: &str = "https://vault.azure.net";

/// An emulator that repeats no token, and a program in front of it.
struct Site {
    emulator: Emulator,
    served: Served,
    folder: TempDir,
    config: PathBuf,
}

impl Site {
    fn start(more: &str) -> Self {
        let emulator = Emulator::start(foretoken_emulator::Settings {
            reissue_below: 1.0,
            ..emulator_settings()
        });
        let emulator = emulator.expect("the emulator starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = write_config(folder.path(), emulator.address(), more);
        let served = Served::start(&config, folder.path());
        Self {
            emulator,
            served,
            folder,
            config,
        }
    }

    fn ask(&self, resource: &str) -> String {
        token_of(&http::token(self.served.address, resource))
    }

    /// From now on the emulator hands out the token that it gave last, whatever it is told.
    fn repeat(&self, resource: &str) {
        self.emulator.set_reissue_below(0.0);
        let again = http::token(self.emulator.address(), resource);
        let fault = FaultKind::Body {
            status: 200,
            text: String::from_utf8(again.body).expect("text"),
            content_type: None,
        };
        self.emulator.set_fault(Some(Fault::always(fault)));
    }

    /// Runs a command with the server's own configuration.
    fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config.to_str().expect("a plain path");
        run(
            self.folder.path(),
            &[arguments, &["--config", config]].concat(),
        )
    }

    fn keys(&self) -> serde_json::Value {
        let mut status = http::get(self.served.admin, "/status").json();
        status["keys"].take()
    }
}

/// The exit code, and what was written to either stream.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_purge_during_a_flight_discards_its_answer_and_no_worker_serves_the_old_one() {
    let site = Site::start("[server]\nworkers = 2\n");
    let address = site.served.address;
    let old = site.ask(KEY);
    // The emulator issues at the end of this time: the flight's token is a new one too.
    site.emulator.set_latency_ms(4000);

    let (purged, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (before, after) = (AtomicU64::new(0), AtomicU64::new(0));
    let later = Mutex::new(BTreeSet::new());
    scope(|scope| {
        // The flight: a caller who has no use for the token that is there.
        let bypass = format!("{KEY}&bypass_cache=true");
        let forced = scope.spawn(move || token_of(&http::token(address, &bypass)));
        until("the flight", || site.emulator.counts().in_progress == 1);
        // Clients on connections of their own, on both workers, all the time.
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = connect(address).expect("a connection");
                while !over.load(Ordering::SeqCst) {
                    let late = purged.load(Ordering::SeqCst);
                    stream.write_all(&http::token_request(KEY)).expect("open");
                    let token = token_of(&read_answer(&mut stream).expect("an answer"));
                    assert!(!late || token != old, "the old one after the purge");
                    let count = if late { &after } else { &before };
                    count.fetch_add(1, Ordering::Relaxed);
                    if token != old {
                        later.lock().expect("no panic").insert(token);
                    }
                }
            });
        }
        until("hits", || before.load(Ordering::Relaxed) > 100);
        let answer = http::purge(site.folder.path(), "all");
        purged.store(true, Ordering::SeqCst);
        assert_eq!(answer.status, 200);
        let progress = site.emulator.counts().in_progress;
        assert_eq!(progress, 2, "the first flight hangs, another has begun");
        until("both have landed", || {
            site.emulator.counts().in_progress == 0 && after.load(Ordering::Relaxed) > 200
        });
        over.store(true, Ordering::SeqCst);
        let forced = forced.join().expect("an answer");
        later.lock().expect("no panic").insert(forced);
    });
    assert_eq!(site.emulator.counts().total, 3);
    // Two were issued since; what the first flight brought, nobody got.
    assert_eq!(later.lock().expect("no panic").len(), 1);
}

#[test]
fn a_purge_during_a_flight_leaves_nothing_on_disk() {
    let mut site = Site::start("");
    site.ask(KEY);
    site.ask("https://other.example");
    site.emulator.set_latency_ms(3000);
    // A flight for nobody: no caller asks for the key again when it is gone.
    let socket = site.folder.path().join("admin.sock");
    let wish = b"POST /refresh?all HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let wished = std::thread::spawn(move || http::send_unix(&socket, wish));
    until("the flights", || site.emulator.counts().in_progress == 2);
    let answer = http::purge(site.folder.path(), "all");
    assert_eq!(answer.status, 200);
    assert_eq!(site.emulator.counts().in_progress, 2, "they still fly");
    let wished = wished.join().expect("a thread").expect("an answer").json();
    let results = wished["keys"].as_array().expect("keys").iter();
    assert!(results.map(|key| &key["result"]).all(|it| it == "not held"));
    until("they land", || site.emulator.counts().in_progress == 0);
    // Longer than the store gathers changes.
    sleep(Duration::from_millis(2500));
    site.served.end(Signal::KILL);
    assert_eq!(site.emulator.counts().total, 4);
    site.emulator.set_latency_ms(0);
    site.emulator
        .set_fault(Some(Fault::always(FaultKind::Reset)));
    let served = Served::start(&site.config, site.folder.path());
    let status = http::get(served.admin, "/status").json();
    assert_eq!(status["keys"], serde_json::json!([]));
    assert_eq!(http::token(served.address, KEY).status, 503);
}

#[test]
fn purge_ends_the_keys_it_names_and_says_how_many() {
    let site = Site::start("");
    let one = "client_id=00000000-0000-4000-8000-000000000001";
    let mine = format!("{KEY}&{one}");
    let both = [site.ask(KEY), site.ask(&mine)];
    site.ask("https://other.example");

    let (code, out, err) = told(&site.command(&["purge", KEY, "--identity", one]));
    assert_eq!((code, out.as_str()), (Some(0), "purged 1 keys\n"), "{err}");
    assert_eq!(site.ask(KEY), both[0]);
    assert_ne!(site.ask(&mine), both[1]);

    let (code, out, _) = told(&site.command(&["purge", KEY]));
    assert_eq!((code, out.as_str()), (Some(0), "purged 2 keys\n"));
    let (code, out, _) = told(&site.command(&["purge", "--identity", "SYSTEM"]));
    assert_eq!((code, out.as_str()), (Some(0), "purged 1 keys\n"));

    let (code, out, err) = told(&site.command(&["purge", "https://vault.azure.net/"]));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(err, "foretoken: no key matches; nothing was purged\n");
    let (code, out, _) = told(&site.command(&["purge", "--all"]));
    assert_eq!((code, out.as_str()), (Some(0), "purged 0 keys\n"));
    for wrong in [&["purge"][..], &["purge", KEY, "--all"], &["refresh"]] {
        let (code, out, _) = told(&site.command(wrong));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{wrong:?}");
    }
}

#[test]
fn refresh_says_of_each_key_how_its_call_ended() {
    let site = Site::start("");
    let old = site.ask(KEY);
    site.ask("b");
    let (code, out, err) = told(&site.command(&["refresh", KEY]));
    let line = format!("system  {KEY}  renewed\n");
    assert_eq!((code, out), (Some(0), line), "{err}");
    assert_ne!(site.ask(KEY), old);
    assert_eq!(site.emulator.counts().calls_for("system", "b"), 1);
    let asked = site.emulator.requests();
    let wish = b"bypass_cache=true";
    let wishes = asked
        .iter()
        .filter(|it| it.windows(wish.len()).any(|at| at == wish));
    assert_eq!(wishes.count(), 1, "the source is told, once");

    // The same token again, whatever was told: reported, and not asked for once more.
    let held = site.ask(KEY);
    site.repeat(KEY);
    let calls = site.emulator.counts().total;
    let (code, out, _) = told(&site.command(&["refresh", KEY]));
    let line = format!("system  {KEY}  unchanged\n");
    assert_eq!((code, out), (Some(0), line));
    assert_eq!(site.emulator.counts().total, calls + 1);

    let failing = Fault::always(FaultKind::Status {
        status: 500,
        retry_after_s: None,
    });
    site.emulator.set_fault(Some(failing));
    let (code, out, err) = told(&site.command(&["refresh", KEY]));
    let line = format!("system  {KEY}  server_error\n");
    assert_eq!((code, out), (Some(1), line));
    assert_eq!(err, "foretoken: 1 key was not refreshed\n");
    assert_eq!(site.ask(KEY), held, "what is held stays");

    let (code, out, err) = told(&site.command(&["refresh", "https://nobody.example"]));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(err, "foretoken: no key matches; nothing was refreshed\n");
}

#[test]
fn a_refresh_during_a_purge_ends_with_it() {
    let site = Site::start("");
    site.ask(KEY);
    site.emulator.set_latency_ms(60_000);
    let (folder, config) = (site.folder.path(), site.config.to_str());
    let config = config.expect("a plain path");
    scope(|scope| {
        let refreshed = scope.spawn(|| run(folder, &["refresh", KEY, "--config", config]));
        until("the call", || site.emulator.counts().in_progress == 1);
        assert_eq!(http::purge(site.folder.path(), "all").status, 200);
        let (code, out, _) = told(&refreshed.join().expect("a command"));
        assert_eq!((code, out), (Some(1), format!("system  {KEY}  not held\n")));
    });
}

#[test]
fn changes_need_the_admin_socket() {
    let site = Site::start("");
    let old = site.ask(KEY);
    let request = "POST /refresh?all HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = http::send(site.served.admin, request.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 403);
    assert_eq!(http::get(site.served.admin, "/refresh?all").status, 405);
    assert_eq!(site.ask(KEY), old);
    assert_eq!(site.emulator.counts().total, 1);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, _, err) = told(&run(folder.path(), &["purge", "--all"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("no Foretoken answers on "), "{err}");
    let off = crate::support::process::write_file(folder.path(), "[admin]\nsocket = \"off\"\n");
    let off = off.to_str().expect("a plain path");
    let (code, _, err) = told(&run(folder.path(), &["refresh", "--all", "--config", off]));
    assert_eq!(code, Some(1));
    assert!(err.contains("`admin.socket` is off"), "{err}");
}

/// The log's warnings about the runway.
fn warnings(log: &str) -> Vec<serde_json::Value> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let fields = lines.map(|mut line: serde_json::Value| line["fields"].take());
    let about = |fields: &serde_json::Value| {
        let message = fields["message"].as_str().unwrap_or_default();
        message.contains("outage to survive")
    };
    fields.filter(about).collect()
}

#[test]
fn a_life_below_the_floor_is_told_once_by_its_key_and_shown_as_it_is() {
    let mut site = Site::start("[refresh]\noutage_to_survive = \"6h\"\n");
    site.emulator.set_lifetime_s(3600);
    site.ask(KEY);
    site.command(&["refresh", KEY]);
    until("the gauges", || {
        let samples = scrape(site.served.admin);
        sum(&samples, "foretoken_keys_below_floor", None) == 1
    });
    let samples = scrape(site.served.admin);
    let runway = sum(&samples, "foretoken_runway_seconds", None);
    assert!((3500..=3585).contains(&runway), "{runway}");
    assert_eq!(sum(&samples, "foretoken_breaker_state", None), 0);
    let shown = site.keys()[0]["runway_s"].as_u64().expect("seconds");
    assert!(shown.abs_diff(runway) <= 3);
    let (_, out, _) = told(&run(
        site.folder.path(),
        &[
            "status",
            "--config",
            &admin_config(&site.served, &site.folder),
        ],
    ));
    assert!(out.ends_with("runway: 1 of 1 keys below 6h 0m\n"), "{out}");

    site.served.end(Signal::TERM);
    let warnings = warnings(&site.served.log());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(
        (&warnings[0]["identity"], &warnings[0]["resource"]),
        (&"system".into(), &KEY.into())
    );
    let message = warnings[0]["message"].as_str().expect("a message");
    assert!(message.contains("whole life"), "{message}");
    assert!(warnings[0]["left_s"].as_u64().is_some_and(|s| s < 3600));
    assert_eq!(warnings[0]["wanted_s"], 21_600);
}

#[test]
fn a_repeated_token_below_the_floor_is_told_once_by_its_key() {
    let mut site = Site::start("[refresh]\noutage_to_survive = \"1h\"\n");
    // Less the margin of 15 s, three seconds above the floor.
    site.emulator.set_lifetime_s(3618);
    site.ask(KEY);
    site.repeat(KEY);
    let (code, _, _) = told(&site.command(&["refresh", KEY]));
    assert_eq!(code, Some(0));
    sleep(Duration::from_secs(5));
    for _ in 0..2 {
        let (_, out, _) = told(&site.command(&["refresh", KEY]));
        assert!(out.contains("unchanged"), "{out}");
    }
    site.served.end(Signal::TERM);
    let warnings = warnings(&site.served.log());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let message = warnings[0]["message"].as_str().expect("a message");
    assert!(message.contains("repeats a token"), "{message}");
    assert_eq!(warnings[0]["resource"], KEY);
}

#[test]
fn an_open_breaker_is_shown() {
    let site = Site::start("");
    site.emulator
        .set_fault(Some(Fault::always(FaultKind::Reset)));
    until("five troubles", || {
        let question = format!("https://{}.example", site.emulator.counts().total);
        http::token(site.served.address, &question);
        let status = http::get(site.served.admin, "/status").json();
        status["breaker"] != "closed"
    });
    until("the gauge", || {
        let samples = scrape(site.served.admin);
        sum(&samples, "foretoken_breaker_state", None) > 0
    });
    let failure = || http::get(site.served.admin, "/status").json()["failure"]["class"].clone();
    assert_eq!(failure(), "unreachable");
    site.emulator.set_fault(None);
    until("the upstream is heard", || {
        http::token(site.served.address, KEY).status == 200
    });
    until("no call is left that fails", || failure().is_null());
}

/// A configuration that leads to the served process's TCP admin address.
fn admin_config(served: &Served, folder: &TempDir) -> String {
    let path = folder.path().join("client.toml");
    let text = format!("[admin]\naddress = \"{}\"\n", served.admin);
    std::fs::write(&path, text).expect("a configuration file");
    path.to_str().expect("a plain path").to_owned()
}
