//! The built program, as an operator and a supervisor meet it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use foretoken_emulator::{Emulator, Fault, FaultKind};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::emulator_settings;
use crate::support::http;
use crate::support::jwt::{claims_of, token_of};
use crate::support::nobody::Nobody;
use crate::support::process::{
    Served, command, run, write_client_config, write_config, write_file,
};
use crate::support::wait::until;

/// An emulator and a program in front of it.
struct Site {
    emulator: Emulator,
    served: Served,
    folder: TempDir,
}

impl Site {
    fn start() -> Self {
        let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
        let folder = folder();
        let config = write_config(folder.path(), emulator.address(), "");
        let served = Served::start(&config, folder.path());
        Self {
            emulator,
            served,
            folder,
        }
    }

    /// Runs a command that asks the running program.
    fn ask(&self, arguments: &[&str]) -> Output {
        let folder = folder();
        let config = write_client_config(folder.path(), &self.served);
        let config = config.to_str().expect("a plain path");
        run(folder.path(), &[arguments, &["--config", config]].concat())
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Runs `serve` with a configuration with which it must end, and returns its one sentence.
fn refused_start(folder: &Path, text: &str, code: i32) -> String {
    let config = write_file(folder, text);
    let config = config.to_str().expect("a plain path");
    let output = run(folder, &["serve", "--config", config]);
    let errors = err(&output);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(out(&output), "");
    assert!(!errors.contains("panicked"), "{errors}");
    let mut sentences = errors
        .lines()
        .filter(|line| line.starts_with("foretoken: "));
    let sentence = sentences.next().expect("a sentence").to_owned();
    assert_eq!(sentences.next(), None, "{errors}");
    sentence
}

#[test]
fn check_prints_what_a_good_file_means() {
    let folder = folder();
    let config = write_file(folder.path(), "[upstream]\nmax_in_flight = 3\n");
    let config = config.to_str().expect("a plain path");
    let output = run(folder.path(), &["check", "--config", config]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(err(&output), "");
    let text = out(&output);
    let line = text
        .lines()
        .find(|line| line.starts_with("upstream.max_in_flight = 3 "));
    assert!(
        line.is_some_and(|line| line.ends_with("foretoken.toml:2")),
        "{text}"
    );
}

#[test]
fn check_names_the_place_of_each_mistake_in_a_bad_file() {
    let folder = folder();
    let text = "[upstream]\nmax_in_flight = 0\nendpiont = \"http://10.0.0.1\"\n";
    let config = write_file(folder.path(), text);
    let config = config.to_str().expect("a plain path");
    for command in ["check", "serve", "status"] {
        let output = run(folder.path(), &[command, "--config", config]);
        let errors = err(&output);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert_eq!(out(&output), "");
        assert!(errors.contains(&format!("{config}:2:17: ")), "{errors}");
        assert!(errors.contains(&format!("{config}:3:1: ")), "{errors}");
    }
}

#[test]
fn a_taken_port_ends_the_start_with_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address));
    let (_holder, address) = taken.expect("its address");
    let (listener, admin) = ("[[listener]]\naddress", "[admin]\naddress");
    for (ours, other) in [(listener, admin), (admin, listener)] {
        let text = format!("{ours} = \"{address}\"\n{other} = \"127.0.0.1:0\"\n");
        let sentence = refused_start(folder().path(), &text, 3);
        assert!(
            sentence.contains(&format!("{address} is already in use")),
            "{sentence}"
        );
    }
}

#[test]
fn a_second_instance_on_the_same_store_does_not_start_and_disturbs_nobody() {
    let site = Site::start();
    let state = site.folder.path();
    token_of(&http::token(site.served.address, "r"));
    let text = crate::support::config_text(site.emulator.address(), "");
    let sentence = refused_start(state, &text, 4);
    assert!(
        sentence.contains("another instance uses the store folder"),
        "{sentence}"
    );

    token_of(&http::token(site.served.address, "r"));
    assert_eq!(site.emulator.counts().total, 1);
    assert_eq!(
        http::purge(state, "all").status,
        200,
        "its admin socket is there"
    );
}

#[test]
fn an_upstream_that_is_foretoken_itself_is_refused() {
    let own = free_address();
    let (listener, admin) = ("[[listener]]\naddress", "[admin]\naddress");
    for (ours, other) in [(listener, admin), (admin, listener)] {
        let text = format!(
            "{ours} = \"{own}\"\n{other} = \"127.0.0.1:0\"\n[upstream]\nendpoint = \"http://{own}\"\n"
        );
        refused_start(folder().path(), &text, 2);
    }
}

#[test]
fn token_prints_what_a_client_would_get() {
    let site = Site::start();
    let resource = "https://vault.example/a b";
    let output = site.ask(&["token", "--resource", resource]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let body: serde_json::Value = serde_json::from_str(&out(&output)).expect("JSON");
    let token = body["access_token"].as_str().expect("a token");
    assert_eq!(claims_of(token)["aud"], resource);

    let id = "00000000-0000-4000-8000-000000000001";
    let output = site.ask(&["token", "--resource", resource, "--client-id", id]);
    let body: serde_json::Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!(body["client_id"], id);
    let calls = site.emulator.counts().calls;
    assert_eq!(calls.len(), 2);
}

#[test]
fn token_claims_shows_what_a_token_says_and_nothing_to_use_it_by() {
    let site = Site::start();
    let token = token_of(&http::token(site.served.address, "r"));
    let output = site.ask(&["token", "--resource", "r", "--claims"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let claims: serde_json::Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!(claims, claims_of(&token));
    for part in token.split('.') {
        assert!(!out(&output).contains(part) && !err(&output).contains(part));
    }
}

#[test]
fn token_passes_a_refusal_on_and_fails() {
    let site = Site::start();
    site.emulator
        .set_fault(Some(Fault::always(FaultKind::Reset)));
    let output = site.ask(&["token", "--resource", "r"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(out(&output), "");
    assert!(err(&output).contains("status 503"), "{}", err(&output));
}

#[test]
fn token_takes_one_selector() {
    let arguments = [
        "token",
        "--resource",
        "r",
        "--client-id",
        "a",
        "--object-id",
        "b",
    ];
    let output = run(folder().path(), &arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err(&output).contains("cannot be used with"),
        "{}",
        err(&output)
    );
    let output = run(folder().path(), &["token"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("--resource"), "{}", err(&output));
}

#[test]
fn status_prints_the_keys_as_a_table() {
    let site = Site::start();
    token_of(&http::token(site.served.address, "https://vault.example"));
    let output = site.ask(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 2, "{text}");
    assert_eq!(rows[0][..3], ["IDENTITY", "RESOURCE", "LEFT"]);
    assert_eq!(rows[1][..3], ["system", "https://vault.example", "23h"]);
    assert!(rows[1].contains(&"renewed"), "{text}");
}

#[test]
fn commands_that_ask_say_so_when_nobody_answers() {
    let folder = folder();
    let (here, there) = (Nobody::new(), Nobody::new());
    let nobody = here.address();
    let text = format!(
        "[[listener]]\naddress = \"{nobody}\"\n[admin]\naddress = \"{}\"\n",
        there.address()
    );
    let config = write_file(folder.path(), &text);
    let config = config.to_str().expect("a plain path");
    for command in [&["status"][..], &["token", "--resource", "r"]] {
        let output = run(folder.path(), &[command, &["--config", config]].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err(&output).contains("no Foretoken answers on 127.0.0.1"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn no_variable_of_the_environment_chooses_the_upstream() {
    let decoy = TcpListener::bind("127.0.0.1:0").expect("a free port");
    decoy.set_nonblocking(true).expect("our socket");
    let decoy_url = format!("http://{}", decoy.local_addr().expect("its address"));
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = folder();
    let config = write_config(folder.path(), emulator.address(), "");
    let mut command = command(folder.path());
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "IDENTITY_ENDPOINT",
        "IMDS_ENDPOINT",
        "MSI_ENDPOINT",
        "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        "AZURE_AUTHORITY_HOST",
    ] {
        command.env(name, &decoy_url);
    }
    command.envs([("IDENTITY_HEADER", "secret"), ("MSI_SECRET", "secret")]);
    let mut served = Served::start_as(command, &config);
    token_of(&http::token(served.address, "r"));
    token_of(&http::token(
        served.address,
        "s&client_id=00000000-0000-4000-8000-000000000001",
    ));
    assert_eq!(emulator.counts().total, 2);
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    let called = decoy.accept().map_err(|error| error.kind());
    assert_eq!(called.err(), Some(ErrorKind::WouldBlock));
}

/// What became of one request.
enum Ended {
    Whole,
    /// Not one byte of an answer.
    Closed,
}

fn exchange(stream: &mut TcpStream) -> Ended {
    if stream.write_all(&http::token_request("r")).is_err() {
        return Ended::Closed;
    }
    match stream.peek(&mut [0]) {
        Ok(1) => {
            let answer = http::read_answer(stream).expect("an answer that began is whole");
            token_of(&answer);
            Ended::Whole
        }
        Ok(_) => Ended::Closed,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            Ended::Closed
        }
    }
}

#[test]
fn a_stop_under_load_breaks_no_answer() {
    const CALLERS: usize = 4;
    let mut site = Site::start();
    let address = site.served.address;
    token_of(&http::token(address, "r"));
    let whole = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            // Each goes on, as a client does, until nobody takes its connection any more.
            scope.spawn(|| {
                let mut connections = 0;
                while let Ok(mut stream) = http::connect(address) {
                    connections += 1;
                    while let Ended::Whole = exchange(&mut stream) {
                        whole.fetch_add(1, Ordering::Relaxed);
                    }
                }
                assert!(connections >= 1);
            });
        }
        until("requests flow", || whole.load(Ordering::Relaxed) > 2000);
        site.served.signal(Signal::TERM);
    });
    assert_eq!(site.served.ended().code(), Some(0));
    assert!(TcpStream::connect(address).is_err());
    assert!(site.served.log().contains("stopped"));
}

#[test]
fn a_stop_that_comes_during_the_start_is_clean_too() {
    let (folder, admin) = (folder(), free_address());
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"{admin}\"\n\
         [store]\npath = \"state\"\n"
    );
    let config = write_file(folder.path(), &text);
    let mut command = command(folder.path());
    let mut child = command
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Admin answers first: the store is yet to be opened, for the first time here.
    until("admin answers", || TcpStream::connect(admin).is_ok());
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("the process is there");
    let mut log = String::new();
    let stream = child.stderr.as_mut().expect("piped");
    stream.read_to_string(&mut log).expect("text");
    let status = child.wait().expect("our child");
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn a_caller_that_waits_is_told_when_the_process_stops() {
    let mut site = Site::start();
    site.emulator
        .set_fault(Some(Fault::always(FaultKind::Hang)));
    let mut stream = http::connect(site.served.address).expect("it serves");
    stream.write_all(&http::token_request("r")).expect("open");
    until("the call hangs", || site.emulator.counts().in_progress == 1);
    site.served.signal(Signal::TERM);
    let answer = http::read_answer(&mut stream).expect("an answer");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(site.served.ended().code(), Some(0));
}

#[test]
fn env_prints_assignments_to_one_stream_and_says_what_was_chosen_on_the_other() {
    let folder = folder();
    let listener = |port: u16, dialect: &str| {
        format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\ndialects = [\"{dialect}\"]\n")
    };
    let text = listener(7001, "vm-extension") + &listener(7002, "vm-extension");
    let config = write_file(folder.path(), &text);
    let config = config.to_str().expect("a plain path");
    let env = |more: &[&str]| {
        let all = [
            &["env", "--dialect", "vm-extension", "--config", config],
            more,
        ]
        .concat();
        run(folder.path(), &all)
    };
    let err = |output: &Output| String::from_utf8(output.stderr.clone()).expect("text");
    let line = |port| format!("export MSI_ENDPOINT='http://127.0.0.1:{port}/oauth2/token'\n");

    let first = env(&[]);
    assert_eq!(first.status.code(), Some(0));
    assert_eq!(out(&first), line(7001));
    let said = err(&first);
    for words in [
        "msrestazure",
        "127.0.0.1:7001, 127.0.0.1:7002",
        "--listener",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }

    let second = env(&["--listener", "127.0.0.1:7002"]);
    assert_eq!(out(&second), line(7002));
    assert!(!err(&second).contains("--listener"), "{}", err(&second));

    let wrong = env(&["--listener", "127.0.0.1:7003"]);
    assert_eq!((wrong.status.code(), out(&wrong)), (Some(1), String::new()));
    assert!(err(&wrong).contains("127.0.0.1:7001, 127.0.0.1:7002"));
}
