//! Every case of `tests/golden/http`, byte for byte: the expected answer and no other, no upstream
//! call, and a server that goes on serving.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foretoken::server::Address;
use foretoken_emulator::Emulator;
use rustix::process::Signal;

use crate::support::corpus::{Case, Closes, Seen, load, play};
use crate::support::jwt::audience_of;
use crate::support::process::{Served, command, write_config};
use crate::support::{House, emulator_settings, http};

/// The default listeners' dialects that need no secret, and Cloud Shell on a listener of its own,
/// beside the one that every house has.
const LISTENERS: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
    dialects = [\"imds\", \"vm-extension\"]\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\ndialects = [\"cloud-shell\"]\n";
/// A server that has not answered by then does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
const HOUSES: usize = 8;

/// A house whose cache holds `r`, so that good requests call nobody.
pub struct Target {
    pub house: House,
    default: SocketAddr,
    cloud_shell: SocketAddr,
}

impl Target {
    pub fn start() -> Self {
        let house = House::start_with(emulator_settings(), LISTENERS);
        let addresses: Vec<_> = house
            .app
            .addresses()
            .iter()
            .map(|address| match address {
                Address::Tcp(address) => *address,
                Address::Unix(path) => panic!("{}", path.display()),
            })
            .collect();
        let [_, default, cloud_shell] = addresses[..] else {
            panic!("{addresses:?}");
        };
        assert_eq!(audience_of(&http::token(default, "r")), "r");
        Self {
            house,
            default,
            cloud_shell,
        }
    }

    /// Where a case is played.
    pub fn address(&self, case: &Case) -> SocketAddr {
        match &*case.listener {
            "default" => self.default,
            "cloud-shell" => self.cloud_shell,
            other => panic!("{}: no listener {other}", case.name),
        }
    }

    /// A good request for this listener.
    fn good(&self, case: &Case, resource: &str) -> Vec<u8> {
        if self.address(case) == self.default {
            return http::token_request(resource);
        }
        let body = format!("resource={resource}");
        let length = body.len();
        format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nMetadata: true\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// What is wrong with the answers to a case.
    fn complaints(&self, case: &Case) -> Vec<String> {
        let calls = self.house.emulator.counts().total;
        let mut complaints = self.verdict(case).err().into_iter().collect::<Vec<_>>();
        let after = self.house.emulator.counts();
        if after.total != calls {
            complaints.push(format!("upstream calls: {:?}", after.calls));
        }
        let next = http::send(self.default, &http::token_request("r"));
        if !next.is_ok_and(|answer| answer.status == 200) {
            complaints.push("the next request is not served".to_owned());
        }
        complaints
    }

    fn verdict(&self, case: &Case) -> Result<(), String> {
        let address = self.address(case);
        let send = |more: &[u8], enough| {
            let bytes = [&case.bytes, more].concat();
            play(address, &bytes, case.ends, enough, PATIENCE).map_err(|e| e.to_string())
        };
        let last = case.before + 1;
        match case.closes {
            Closes::Yes => {
                ends_with(case, &send(b"", usize::MAX)?)?;
                if !case.alone {
                    let seen = send(&self.good(case, "smuggled"), usize::MAX)?;
                    ends_with(case, &seen)
                        .map_err(|e| format!("with a good one behind it, {e}"))?;
                }
                Ok(())
            }
            Closes::No => {
                let seen = send(&self.good(case, "r"), last + 1)?;
                begins_with(case, &seen)?;
                goes_on(&seen, last)
            }
            Closes::Either => {
                let seen = send(&self.good(case, "r"), last + 1)?;
                begins_with(case, &seen)?;
                if seen.closed && seen.answers.len() == last {
                    return Ok(());
                }
                goes_on(&seen, last)
            }
        }
    }
}

/// The answers that are due, and their statuses.
fn begins_with(case: &Case, seen: &Seen) -> Result<(), String> {
    let statuses = seen.statuses();
    let good = statuses.iter().take(case.before).all(|s| *s == 200);
    let last = statuses.get(case.before);
    let fits = last.map_or(case.silent, |status| case.status.contains(status));
    if good && fits && statuses.len() >= case.before {
        return Ok(());
    }
    let (before, wanted) = (case.before, &case.status);
    Err(format!(
        "{statuses:?} instead of {before} × 200, then {wanted:?}"
    ))
}

/// Those, no other, and the end.
fn ends_with(case: &Case, seen: &Seen) -> Result<(), String> {
    begins_with(case, seen)?;
    let statuses = seen.statuses();
    if statuses.len() > case.before + 1 {
        return Err(format!("{statuses:?}: an answer too many"));
    }
    if seen.closed {
        Ok(())
    } else {
        Err(format!("{statuses:?}, and the connection stays open"))
    }
}

/// The good request behind the case was answered with its own token.
fn goes_on(seen: &Seen, at: usize) -> Result<(), String> {
    match seen.answers.get(at) {
        Some((200, body)) if body.windows(12).any(|w| w == b"access_token") => Ok(()),
        _ => Err(format!("{:?}: the next request is lost", seen.statuses())),
    }
}

#[test]
fn every_case_gets_its_verdict_and_costs_no_upstream_call() {
    let cases = load();
    assert!(cases.len() >= 120, "{}", cases.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let target = Target::start();
        let mut complaints = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = target.complaints(case).into_iter();
            complaints.extend(found.map(|complaint| format!("{}: {complaint}", case.name)));
        }
        complaints
    };
    let mut complaints: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..HOUSES).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    complaints.sort();
    let (wrong, all) = (complaints.len(), cases.len());
    assert!(
        wrong == 0,
        "{wrong} of {all} cases:\n{}",
        complaints.join("\n")
    );
}

#[test]
fn more_pipelined_requests_than_may_wait_are_answered_in_order_or_not_at_all() {
    let target = Target::start();
    assert_eq!(audience_of(&http::token(target.default, "q")), "q");
    for count in [17, 100, 1000] {
        let requests: Vec<_> = (0..count)
            .flat_map(|n| http::token_request(["r", "q"][n % 2]))
            .collect();
        let seen = play(target.default, &requests, false, count, PATIENCE).expect("a connection");
        let answered = seen.answers.len();
        assert!(answered >= 16, "{answered} of {count}");
        assert!(
            answered == count || seen.closed,
            "{answered} of {count}, and silence"
        );
        for (n, (status, body)) in seen.answers.iter().enumerate() {
            let resource = format!("\"resource\":\"{}\"", ["r", "q"][n % 2]);
            let body = String::from_utf8_lossy(body);
            assert_eq!(*status, 200, "{n} of {count}: {body}");
            assert!(body.contains(&resource), "{n} of {count}: {body}");
        }
    }
    let counts = target.house.emulator.counts();
    assert_eq!(counts.total, 2, "{:?}", counts.calls);
}

/// Connections that send without end and read nothing, and what each is allowed to cost: a
/// head, an answer, and their share of what the allocator keeps.
const FLOODS: usize = 32;
const MAX_GROWTH_KIB: u64 = 2 * 1024;

#[test]
fn callers_who_flood_and_never_read_cost_no_memory_and_no_time_of_others() {
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A store takes what it takes some time after the start, at about the same time as the floods.
    let without_store = "[store]\nmode = \"off\"\n";
    let config = write_config(folder.path(), emulator.address(), without_store);
    let command: Command = command(folder.path());
    let mut served = Served::start_as(command, &config);
    for _ in 0..100 {
        assert_eq!(audience_of(&http::token(served.address, "r")), "r");
    }
    let before = resident_kib(served.child.id());
    let requests = http::token_request("r").repeat(1000);
    let mut held = Vec::new();
    for _ in 0..FLOODS {
        let mut stream = http::connect(served.address).expect("a connection");
        stream.set_nonblocking(true).expect("a socket");
        // Until the server reads no more, or has closed.
        let mut silent = 0;
        while silent < 20 {
            match stream.write(&requests) {
                Ok(_) => silent = 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    silent += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => break,
            }
        }
        held.push(stream);
    }
    for _ in 0..100 {
        assert_eq!(audience_of(&http::token(served.address, "r")), "r");
    }
    let after = resident_kib(served.child.id());
    let grown = after.saturating_sub(before);
    assert!(grown < MAX_GROWTH_KIB, "{before} KiB, then {after} KiB");
    // Each was answered as far as it let itself be.
    for stream in &mut held {
        let mut start = [0; 12];
        stream.set_nonblocking(false).expect("a socket");
        stream.read_exact(&mut start).expect("an answer");
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    drop(held);
    assert!(served.end(Signal::TERM).success());
    assert_eq!(emulator.counts().total, 1);
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("resident memory")
}
