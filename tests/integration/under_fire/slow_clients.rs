//! Slow clients: heads and forms that never end, answers that nobody takes.
//!
//! `FORETOKEN_FIRE_SLOW` sets how many links there are of each sort.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Others, Seen, ask, descriptors_for, drain, links_held, site, size, status_of};
use crate::support::http::{self, PATIENCE, token_request};
use crate::support::jwt::audience_of;
use crate::support::metrics::{scrape, sum};
use crate::support::privilege::not_run;
use crate::support::process::Served;
use crate::support::wait::until;

const SLOW: &str = "FORETOKEN_FIRE_SLOW";
const EVERY_RUN: usize = 150;
const CLOUD_SHELL: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\ndialects = [\"cloud-shell\"]\n";
/// Between two bytes of a client that is slow.
const PAUSE: Duration = Duration::from_millis(300);
/// More than the buffers between the two processes hold answers for.
const UNREAD: usize = 400;
/// What a second round may take beside a quarter of what the first did: what others were given
/// meanwhile, and pages that are counted late.
const MARGIN_KIB: u64 = 4096;
/// The links of [`Others`], which come and go.
const OF_OTHERS: usize = 2;

/// Something that is sent byte by byte and never whole.
struct Slow {
    stream: TcpStream,
    rest: std::vec::IntoIter<u8>,
    answer: Vec<u8>,
    over: bool,
}

impl Slow {
    fn begin(address: SocketAddr, bytes: Vec<u8>) -> Self {
        let stream = http::connect(address).expect("a link");
        stream.set_nonblocking(true).expect("our socket");
        Self {
            stream,
            rest: bytes.into_iter(),
            answer: Vec::new(),
            over: false,
        }
    }

    /// One byte more, unless there is an answer or an end.
    fn go_on(&mut self) {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.over = true,
                Ok(count) => {
                    self.answer.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.over = true,
            }
            break;
        }
        if self.over {
            return;
        }
        let byte = self.rest.next().expect("it takes longer than is allowed");
        if self.answer.is_empty() {
            let _ = self.stream.write_all(&[byte]);
        }
    }
}

/// A head without an end, or a form that is shorter than it says.
fn head() -> Vec<u8> {
    let mut head = token_request("r");
    head.truncate(head.len() - 2);
    head.extend_from_slice(format!("A: {}", "b".repeat(200)).as_bytes());
    head
}

fn form() -> Vec<u8> {
    let body = format!("resource=r&x={}", "y".repeat(200));
    format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nMetadata: true\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len() + 1
    )
    .into_bytes()
}

/// Asks for much and takes nothing. Small segments keep the kernel's buffers small.
fn unread(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_tcp_mss(536).expect("our socket");
    socket.set_recv_buffer_size(4096).expect("our socket");
    socket.connect(&address.into()).expect("a link");
    socket.set_read_timeout(Some(PATIENCE)).expect("our socket");
    socket.set_nonblocking(true).expect("our socket");
    let mut stream = TcpStream::from(socket);
    // As much of it as the other side takes.
    let _ = stream.write_all(&token_request("r").repeat(UNREAD));
    stream
}

fn cloud_shell(served: &Served) -> SocketAddr {
    let mut lines = served
        .start
        .iter()
        .filter(|line| line.contains("serving tokens"));
    let last = lines.next_back().expect("two listeners");
    let line: serde_json::Value = serde_json::from_str(last).expect("JSON");
    let address = line["fields"]["address"].as_str().expect("an address");
    address.parse().expect("an address")
}

/// So many of each sort, until all were told or cut. Gives the most memory that was seen, in KiB.
fn all_at_once(count: usize, imds: SocketAddr, shell: SocketAddr, seen: &Seen) -> u64 {
    let others = Others::new();
    thread::scope(|scope| {
        let _end = others.guard();
        scope.spawn(|| others.run(imds, "r"));
        let mut slow: Vec<_> = (0..count)
            .flat_map(|_| [Slow::begin(imds, head()), Slow::begin(shell, form())])
            .collect();
        let mut unread: Vec<_> = (0..count).map(|_| unread(imds)).collect();
        let (mut most_links, mut most_memory) = (0, 0);
        let mut beside = 0;
        while !slow.iter().all(|slow| slow.over) {
            let so_far = others.served();
            slow.iter_mut().for_each(Slow::go_on);
            thread::sleep(PAUSE);
            let held = links_held(imds) + links_held(shell);
            if held > most_links / 2 {
                beside += others.served() - so_far;
            }
            most_links = most_links.max(held);
            most_memory = most_memory.max(seen.rss_kib());
        }
        assert!(
            most_links >= 3 * count,
            "they were there at once: {most_links}"
        );
        assert!(beside >= 50, "others were served meanwhile: {beside}");
        // They were told so, once, on each link.
        for slow in &slow {
            assert_eq!(status_of(&slow.answer), Some(408));
            assert_eq!(
                slow.answer.windows(9).filter(|w| w == b"HTTP/1.1 ").count(),
                1
            );
        }
        drop(slow);
        until("those who take nothing are cut", || {
            links_held(imds) <= OF_OTHERS && links_held(shell) == 0
        });
        for stream in &mut unread {
            stream.set_nonblocking(false).expect("our socket");
            let answers = drain(stream);
            let answers = answers.windows(9).filter(|w| w == b"HTTP/1.1 ").count();
            assert!(answers < UNREAD, "it was not cut");
        }
        println!(
            "{count} slow heads, {count} slow forms, {count} that read nothing: {most_links} links at \
             once; others were served {beside} times meanwhile; {most_memory} KiB resident at most"
        );
        most_memory
    })
}

#[test]
fn slow_clients_are_cut_and_nobody_else_notices() {
    let count = size(SLOW, EVERY_RUN);
    if !descriptors_for(3 * count) {
        let test = "slow_clients_are_cut_and_nobody_else_notices";
        return not_run(
            test,
            "the limit on descriptors is below the number of links",
        );
    }
    let site = site(CLOUD_SHELL);
    let served = site.serve();
    let seen = Seen::of(&served.child);
    let (imds, shell) = (served.address, cloud_shell(&served));
    ask(&mut http::connect(imds).expect("a link"), "r");
    until("the first link ends", || links_held(imds) == 0);
    let before = seen.rss_kib();
    let descriptors = seen.descriptors();
    println!("{before} KiB before");

    let rounds = [1, 2].map(|round| {
        let most = all_at_once(count, imds, shell, &seen);
        until("every link ends", || {
            links_held(imds) == 0 && links_held(shell) == 0
        });
        until("their descriptors are back", || {
            seen.descriptors() <= descriptors
        });
        println!("round {round}: {} KiB after", seen.rss_kib());
        most
    });
    // What the first took is there for the second.
    let [first, second] = rounds;
    let grown = first.saturating_sub(before);
    assert!(
        second <= first + grown / 4 + MARGIN_KIB,
        "{before} KiB before, then at most {first} and {second}"
    );
    let told = sum(
        &scrape(served.admin),
        "foretoken_refusals_total",
        Some("too_slow"),
    );
    assert_eq!(told, 2 * 2 * count as u64);
    assert_eq!(site.emulator.counts().total, 1);
}

#[test]
fn a_caller_behind_slow_ones_in_every_place_is_served_once_their_time_is_over() {
    const LINKS: usize = 400;
    let site = site("");
    // Half of the descriptors are for callers.
    let served = site.serve_after("ulimit -n 200");
    let mut slow: Vec<_> = (0..LINKS)
        .map(|_| Slow::begin(served.address, head()))
        .collect();
    slow.iter_mut().for_each(Slow::go_on);
    until("every place is taken", || links_held(served.address) == 100);
    // Behind 300 that wait as well, in the queue of one worker or the other.
    let answer = thread::scope(|scope| {
        let caller = scope.spawn(|| http::token(served.address, "r"));
        while !caller.is_finished() {
            slow.iter_mut().for_each(Slow::go_on);
            thread::sleep(PAUSE);
        }
        caller.join().expect("an answer")
    });
    assert_eq!(audience_of(&answer), "r");
}
