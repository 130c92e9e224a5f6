//! The process under fire: the built program in front of the emulator, with hostile clients, scarce
//! resources and signals around it.
//!
//! Sizes here are for every run of the tests; `./recipes fire` sets the long ones by the environment
//! variables that the modules name. Counts, statuses and liveness are asserted; times and memory are
//! printed (`--nocapture`), and `docs/reliability.md` keeps what was seen.

mod bad_starts;
mod descriptors;
mod many_links;
mod memory;
mod panics;
mod restarts;
mod slow_clients;
mod soak;
mod starvation;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::support::emulator_settings;
use crate::support::http::{self, PATIENCE};
use crate::support::jwt::audience_of;
use crate::support::process::{Served, command};
use crate::support::site::Site;

/// The kernel counts a process's time on the CPU in hundredths of a second.
const TICKS_PER_SECOND: u64 = 100;
/// So that memory and descriptors do not depend on the machine.
const TWO_WORKERS: &str = "[server]\nworkers = 2\n";

/// The size that an environment variable names, else the one for every run.
pub(crate) fn size<T: FromStr>(variable: &str, every_run: T) -> T {
    let set = std::env::var(variable).ok();
    set.map_or(every_run, |text| {
        let parsed = text.parse().ok();
        parsed.unwrap_or_else(|| panic!("{variable} is no number: {text}"))
    })
}

/// An emulator without limits, and a place for a Foretoken that comes and goes.
fn site(more: &str) -> Site {
    site_with(emulator_settings(), more)
}

fn site_with(emulator: foretoken_emulator::Settings, more: &str) -> Site {
    Site::with(emulator, &format!("{more}{TWO_WORKERS}"))
}

impl Site {
    /// As [`serve`](Self::serve), after these commands of the shell in the process that becomes it.
    fn serve_after(&self, script: &str) -> Served {
        self.serve_as(through_shell(self.folder.path(), script))
    }
}

/// The built program, started by a shell that first does something to itself.
fn through_shell(folder: &Path, script: &str) -> Command {
    let program = command(folder).get_program().to_owned();
    let mut shell = Command::new("/bin/sh");
    shell
        .env_clear()
        .env("STATE_DIRECTORY", folder)
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .args(["-c", &format!("{script} && exec \"$0\" \"$@\"")])
        .arg(program);
    shell
}

/// Raises this process's own limit on descriptors as far as it goes; whether that is far enough.
fn descriptors_for(links: usize) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let _ = setrlimit(Resource::Nofile, raised);
    // What the other tests of this binary hold at the same time.
    let needed = links as u64 + 512;
    getrlimit(Resource::Nofile)
        .current
        .is_none_or(|n| n >= needed)
}

/// What the kernel says of a process.
struct Seen(u32);

impl Seen {
    fn of(child: &Child) -> Self {
        Self(child.id())
    }

    /// Time on the CPU since its start, in hundredths of a second.
    fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it runs");
        // The name, in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        let times = rest.split(' ').skip(11).take(2);
        times.map(|text| text.parse::<u64>().expect("ticks")).sum()
    }

    fn rss_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|n| n.parse().ok()).expect("a number")
    }

    /// Open descriptors. The process is not dumpable, so that only root may look.
    fn descriptors(&self) -> Option<usize> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.0)).ok()?;
        Some(open.count())
    }
}

/// Links that a process holds on the address where it listens: those that it accepted and has not
/// closed. What waits in the kernel's queue, or for the end of its time, is nobody's. While links
/// come and go the kernel may leave one out, or show it twice; a second look tells.
fn links_held(address: SocketAddr) -> usize {
    const LISTENS: &str = "0A";
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table of links");
    let held = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let inode = fields.nth(5)?;
        (local.ends_with(&port) && state != LISTENS && inode != "0").then_some(remote)
    });
    held.collect::<BTreeSet<_>>().len()
}

/// Connects from an address of one's own, so that ports do not run out.
fn connect_from(source: [u8; 4], address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks for a token on a link that stays open; whose it is, is compared.
fn ask(stream: &mut TcpStream, resource: &str) {
    stream
        .write_all(&http::token_request(resource))
        .expect("an open link");
    let answer = http::read_answer(stream).expect("an answer");
    assert_eq!(audience_of(&answer), resource);
}

/// The status of an answer as it came.
fn status_of(bytes: &[u8]) -> Option<u16> {
    let text = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a link has nothing to say: no byte and no end.
fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("our socket");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("our socket");
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Tells those who go on until told otherwise, however the scope is left.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Callers that do nothing wrong, on links that stay open and on new ones, until told otherwise.
struct Others {
    over: AtomicBool,
    served: AtomicU64,
}

impl Others {
    const fn new() -> Self {
        Self {
            over: AtomicBool::new(false),
            served: AtomicU64::new(0),
        }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Ends them when dropped, also by a test that fails.
    fn guard(&self) -> End<'_> {
        End(&self.over)
    }

    /// One that keeps its link and one that never does, both asking for what is there.
    fn run(&self, address: SocketAddr, resource: &str) {
        let mut kept = http::connect(address).expect("a link");
        while !self.over.load(Ordering::Relaxed) {
            ask(&mut kept, resource);
            let mut new = http::connect(address).expect("a link");
            ask(&mut new, resource);
            self.served.fetch_add(2, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Reads to the end, whatever the end is.
fn drain(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all
}
