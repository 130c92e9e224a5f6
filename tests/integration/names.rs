//! The name of the source: unknown, known, elsewhere, and asked for in vain.
//!
//! Entra is the one source that has a name. The built program looks this one up at a name server of
//! the test's own, to which a mount namespace of its own leads it. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use foretoken::upstream::Kind;
use foretoken_emulator::Emulator;
use rustix::process::Signal;

use crate::support::http::{self, Answer};
use crate::support::jwt::{audience_of, token_of};
use crate::support::metrics::{scrape, sum};
use crate::support::privilege::not_run;
use crate::support::process::{Served, command, run, write_client_config, write_file};
use crate::support::source::played;
use crate::support::{emulator_settings, wait::until};

/// What the emulator's certificate is for.
const NAME: &str = "login.emulator.test";
/// Nobody listens there.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 54, 0, 1);
/// Renewed at half of it, which leaves time to look on while that fails.
const LIFE_S: u64 = 24;
const HELD: &str = "https://held.example";
const COLD: &str = "https://cold.example";
const UNREACHABLE: &str = "The upstream gave no token: unreachable";

/// What the name server says of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// There is no such name.
    Unknown,
    /// The server is out of order.
    Failing,
    At(Ipv4Addr),
    Nothing,
}

/// A name server. Of other names than ours there are none.
struct Dns {
    said: Arc<Mutex<Said>>,
    /// The names that were asked for, in lower case, and what was said.
    asked: Arc<Mutex<Vec<(String, Said)>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    fn start() -> Result<Self, String> {
        let address = Self::address();
        let socket = UdpSocket::bind((address, 53));
        let socket = socket.map_err(|error| format!("no name server at {address}: {error}"))?;
        let step = Some(Duration::from_millis(50));
        socket.set_read_timeout(step).expect("our socket");
        let mut this = Self {
            said: Arc::new(Mutex::new(Said::Unknown)),
            asked: Arc::default(),
            over: Arc::default(),
            thread: None,
        };
        let (said, asked, over) = (this.said.clone(), this.asked.clone(), this.over.clone());
        this.thread = Some(std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let said = *said.lock().expect("no panic");
                let (name, answer) = answer(&buffer[..length], said);
                asked.lock().expect("no panic").push((name, said));
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).expect("our socket");
                }
            }
        }));
        Ok(this)
    }

    /// Nobody else's: of the loopback network nearly all addresses are free.
    fn address() -> Ipv4Addr {
        let [.., high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 53, high, low)
    }

    fn say(&self, said: Said) {
        *self.said.lock().expect("no panic") = said;
    }

    /// Says this from now on, and waits until it was said to somebody.
    fn tell(&self, said: Said, mut meanwhile: impl FnMut()) {
        let before = self.asked().len();
        self.say(said);
        until("the name is looked up", || {
            meanwhile();
            self.asked()[before..].iter().any(|(_, told)| *told == said)
        });
    }

    fn asked(&self) -> Vec<(String, Said)> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The name in a question (RFC 1035), and the answer to it.
fn answer(question: &[u8], said: Said) -> (String, Option<Vec<u8>>) {
    const HEAD: usize = 12;
    const ADDRESS_OF_IP4: [u8; 2] = [0, 1];
    let mut labels = Vec::new();
    let mut at = HEAD;
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
        at = end;
    }
    let name = labels.join(".");
    let (sort, end) = (&question[at + 1..at + 3], at + 5);
    let (code, address) = match said {
        Said::Nothing => return (name, None),
        Said::Failing => (2, None),
        Said::At(address) if name == NAME => (0, Some(address)),
        Said::Unknown | Said::At(_) => (3, None),
    };
    let address = address.filter(|_| sort == ADDRESS_OF_IP4);
    let mut answer = question[..end].to_vec();
    let found = u8::from(address.is_some());
    // An answer, recursion wanted and had; one question, so many answers, nothing more.
    answer[2..HEAD].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, found, 0, 0, 0, 0]);
    if let Some(address) = address {
        // The name as above, of the sort and class asked for, good for no time, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    (name, Some(answer))
}

/// The built program where names are looked up at our server alone, which is waited for longer than
/// anything here takes.
fn led_to_our_server(folder: &Path) -> Command {
    let server = Dns::address();
    let resolver = format!("nameserver {server}\nsearch .\noptions timeout:30 attempts:5\n");
    fs::write(folder.join("resolv.conf"), resolver).expect("our folder");
    fs::write(folder.join("nsswitch.conf"), "hosts: files dns\n").expect("our folder");
    let script = "mount --bind resolv.conf /etc/resolv.conf && \
         { [ ! -e /etc/nsswitch.conf ] || mount --bind nsswitch.conf /etc/nsswitch.conf; } && \
         exec \"$0\" \"$@\"";
    let program = command(folder).get_program().to_owned();
    let mut shell = Command::new("unshare");
    shell
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("STATE_DIRECTORY", folder)
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .args(["--mount", "/bin/sh", "-c", script])
        .arg(program);
    shell
}

/// Whether a namespace can be had, and a name server.
fn name_server(folder: &Path) -> Result<Dns, String> {
    let tried = led_to_our_server(folder).arg("--version").output();
    let tried = tried.map_err(|error| format!("unshare: {error}"))?;
    if !tried.status.success() {
        return Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned());
    }
    Dns::start()
}

fn config(emulator: &Emulator, folder: &Path) -> std::path::PathBuf {
    let authority = emulator.ca_pem().expect("a certificate authority");
    fs::write(folder.join("ca.pem"), authority).expect("our folder");
    // Pauses and probes are a tenth, so that a name that is back is found at once.
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nkind = \"workload-identity\"\nauthority = \"https://{NAME}:{}\"\n\
         ca_file = \"ca.pem\"\n[refresh]\ntime_scale = 10\n[store]\nmode = \"off\"\n\
         [log]\nformat = \"json\"\n",
        emulator.address().port()
    );
    write_file(folder, &text)
}

/// Holds a refusal of one who has no token against what it has to be.
fn refused(answer: &Answer, words: &str) {
    assert_eq!(answer.status, 503);
    let wait_s = answer.header("Retry-After").map(str::parse::<u64>);
    assert!(matches!(wait_s, Some(Ok(1..=120))), "{wait_s:?}");
    assert_eq!(answer.json()["error_description"], words);
}

fn calls(served: &Served, result: &str) -> u64 {
    let samples = scrape(served.admin);
    sum(&samples, "foretoken_upstream_calls_total", Some(result))
}

/// What `foretoken status` says was the last result of a key.
fn last_result(folder: &Path, resource: &str) -> String {
    let output = run(folder, &["status", "--config", "foretoken.toml"]);
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("text");
    let row = table.lines().find(|line| line.contains(resource));
    row.unwrap_or_else(|| panic!("no {resource}: {table}"))
        .to_owned()
}

#[test]
fn a_name_that_is_unknown_elsewhere_or_never_told_costs_nobody_a_token_that_is_held() {
    const TEST: &str = "a name that is unknown, elsewhere or never told";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dns = match name_server(folder.path()) {
        Ok(dns) => dns,
        Err(why) => return not_run(TEST, &why),
    };
    let mut settings = emulator_settings();
    settings.kind = played(Kind::WorkloadIdentity, folder.path());
    settings.lifetime_s = LIFE_S;
    let emulator = Emulator::start(settings).expect("the emulator starts");
    let mut program = led_to_our_server(folder.path());
    program.envs(emulator.environment());
    let mut served = Served::start_as(program, &config(&emulator, folder.path()));
    write_client_config(folder.path(), &served);
    let ask = |resource| http::token(served.address, resource);

    // Nobody has a token yet.
    for said in [Said::Unknown, Said::Failing, Said::At(ELSEWHERE)] {
        dns.tell(said, || refused(&ask(HELD), UNREACHABLE));
        refused(&ask(HELD), UNREACHABLE);
    }
    assert!(last_result(folder.path(), HELD).contains(" unreachable "));
    assert!(calls(&served, "unreachable") >= 3);
    assert_eq!(emulator.counts().total, 0);

    dns.say(Said::At(Ipv4Addr::LOCALHOST));
    until("the name is found", || ask(HELD).status == 200);
    let held = ask(HELD);
    assert_eq!(audience_of(&held), HELD);
    let held = token_of(&held);

    // It is gone again, and then leads elsewhere, while the token falls due.
    dns.say(Said::Unknown);
    refused(&ask(COLD), UNREACHABLE);
    let before = emulator.counts().total;
    let is_hit = || assert_eq!(token_of(&ask(HELD)), held);
    until("a renewal fails", || {
        is_hit();
        last_result(folder.path(), HELD).contains(" unreachable ")
    });
    dns.tell(Said::At(ELSEWHERE), is_hit);
    refused(&ask(COLD), UNREACHABLE);
    is_hit();
    assert_eq!(emulator.counts().total, before);

    dns.say(Said::At(Ipv4Addr::LOCALHOST));
    until("the token is renewed", || token_of(&ask(HELD)) != held);
    until("the other is there", || ask(COLD).status == 200);
    let renewed = token_of(&ask(HELD));
    let cold = token_of(&ask(COLD));

    // The name server says nothing for longer than the end of the process may take.
    dns.say(Said::Nothing);
    let late = ask("https://late.example");
    refused(&late, "The upstream gave no token: timeout");
    assert_eq!(token_of(&ask(COLD)), cold);
    assert!(calls(&served, "timeout") >= 1);
    assert_eq!(served.end(Signal::TERM).code(), Some(0));

    // No other name was ever looked up.
    assert!(dns.asked().iter().all(|(name, _)| name == NAME));
    let log = served.log();
    let federated = fs::read_to_string(folder.path().join("federated")).expect("our file");
    for secret in [&held, &renewed, &cold, federated.trim()] {
        assert!(!log.contains(secret), "it is in the log");
    }
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let of = |message: &str| {
        let said = lines.iter().map(|line| &line["fields"]);
        let said = said.filter(|fields| fields["message"] == message);
        said.map(|fields| fields["class"].as_str().unwrap_or_default())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        of("upstream calls fail"),
        BTreeSet::from(["timeout", "unreachable"])
    );
    assert_eq!(of("upstream calls succeed again").len(), 1);
    println!(
        "{} questions, {} calls arrived",
        dns.asked().len(),
        emulator.counts().total
    );
}
