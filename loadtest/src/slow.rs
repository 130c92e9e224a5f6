//! Clients that are slow on purpose: they send their head byte by byte, or ask for much and hardly
//! read. They wait beside a load, which must not notice.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde::{Deserialize, Serialize};

use crate::answer::{self, Read};
use crate::check::{Between, Checker};
use crate::clock::{Now, steady};
use crate::heads::{Client, Head};
use crate::keys::resource;
use crate::outcome::{Counts, Failed, Outcome};
use crate::plan::Target;

/// Requests that a slow reader has on its way: more answers than the kernel keeps for it, which is told
/// to keep little. They are work for a server too, so that there are no more of them.
const UNREAD: usize = 1_000;
const UNREAD_BYTES: usize = 4 * 1024;
/// After so many bytes a slow reader looks whether they are an answer.
const LOOK_BYTES: usize = 256;
/// How long an answer to a head that was sent slowly is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What they are slow at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowAt {
    /// A byte of the head, a pause, the next byte.
    Sending,
    /// A thousand requests at once, and then a byte of the answers, a pause, the next byte.
    Reading,
}

/// Some clients that are slow in the same way.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// What they are called.
    pub name: String,
    /// What they are slow at.
    pub at: SlowAt,
    /// How many there are, each with a link and a thread.
    pub links: usize,
    /// From byte to byte.
    pub pause: Duration,
}

/// What became of them.
#[derive(Debug, Clone, Serialize)]
pub struct SlowUse {
    /// What they are called.
    pub name: String,
    /// What they are slow at.
    pub at: SlowAt,
    /// How many there are.
    pub links: usize,
    /// Seconds from byte to byte.
    pub pause_s: f64,
    /// What they got. Requests that nobody had answered at the end are not among it.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Slow {
    /// One of them, until it is over.
    pub(crate) fn be(&self, target: &Target, over: &AtomicBool) -> anyhow::Result<Counts> {
        let Target::Tcp(address) = target else {
            bail!("{}: slow clients ask over TCP", self.name);
        };
        let asked = resource(0, 1);
        let mut client = One {
            checker: Checker::new(vec![asked.clone()]),
            head: Vec::new(),
            part: Vec::new(),
            asked_at: steady(),
            counts: Counts::default(),
        };
        let head = Head::new(Client::default(), target, &asked);
        head.append(&mut client.head, &mut fastrand::Rng::new());
        while !over.load(Ordering::Relaxed) {
            let Ok(stream) = TcpStream::connect(address) else {
                client.counts.add(Outcome::Failed(Failed::Connect));
                std::thread::sleep(self.pause);
                continue;
            };
            stream.set_nodelay(true)?;
            // The pause is slept: what a socket waits for is counted in coarser ticks.
            stream.set_nonblocking(true)?;
            match self.at {
                SlowAt::Sending => client.send_slowly(&stream, self.pause, over),
                SlowAt::Reading => {
                    set_socket_recv_buffer_size(&stream, UNREAD_BYTES)?;
                    client.read_slowly(&stream, self.pause, over);
                }
            }
        }
        Ok(client.counts)
    }

    pub(crate) fn told(&self, counts: Counts) -> SlowUse {
        SlowUse {
            name: self.name.clone(),
            at: self.at,
            links: self.links,
            pause_s: self.pause.as_secs_f64(),
            counts,
        }
    }
}

/// A client and what it got.
struct One {
    checker: Checker,
    head: Vec<u8>,
    part: Vec<u8>,
    asked_at: Instant,
    counts: Counts,
}

impl One {
    /// One request on a link of its own.
    fn send_slowly(&mut self, mut stream: &TcpStream, pause: Duration, over: &AtomicBool) {
        self.asked_at = steady();
        self.part.clear();
        let mut buffer = [0; 16 * 1024];
        let (mut sent, mut until) = (0, None);
        while !over.load(Ordering::Relaxed) {
            if let Some(byte) = self.head.get(sent..=sent) {
                // What a server says before it closes the link is there to be read.
                let _ = stream.write_all(byte);
                sent += 1;
            } else if steady() > *until.get_or_insert(steady() + PATIENCE) {
                self.counts.add(Outcome::Failed(Failed::TimedOut));
                return;
            }
            std::thread::sleep(pause);
            match stream.read(&mut buffer) {
                Ok(0) => {
                    self.counts.add(Outcome::Failed(Failed::Closed));
                    return;
                }
                Ok(read) => {
                    self.part.extend_from_slice(&buffer[..read]);
                    if self.take().is_none_or(|answers| answers > 0) {
                        return;
                    }
                }
                Err(error) if waits(&error) => {}
                Err(_) => {
                    self.counts.add(Outcome::Failed(Failed::Closed));
                    return;
                }
            }
        }
    }

    /// Until the server closes the link, or it is over.
    fn read_slowly(&mut self, mut stream: &TcpStream, pause: Duration, over: &AtomicBool) {
        self.asked_at = steady();
        self.part.clear();
        let all = self.head.repeat(UNREAD);
        let (mut sent, mut byte) = (0, [0]);
        while !over.load(Ordering::Relaxed) {
            if sent < all.len() {
                match stream.write(&all[sent..]) {
                    Ok(taken) => sent += taken,
                    Err(error) if waits(&error) => {}
                    Err(_) => break,
                }
            }
            std::thread::sleep(pause);
            match stream.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => {
                    self.part.push(byte[0]);
                    let looks = self.part.len().is_multiple_of(LOOK_BYTES);
                    if looks && self.take().is_none() {
                        return;
                    }
                }
                Err(error) if waits(&error) => {}
                Err(_) => break,
            }
        }
        if !over.load(Ordering::Relaxed) {
            self.counts.add(Outcome::Failed(Failed::Closed));
        }
    }

    /// Judges the answers that are whole, and says how many there were; nothing if what came is none.
    fn take(&mut self) -> Option<usize> {
        let mut taken = 0;
        loop {
            let answer = match answer::read(&self.part) {
                Read::Part => return Some(taken),
                Read::Bad => {
                    self.counts.add(Outcome::Failed(Failed::NotHttp));
                    return None;
                }
                Read::Whole(answer) => answer,
            };
            let now = Now::read();
            let when = Between {
                asked_ms: now.unix_ms_at(self.asked_at),
                arrived_ms: now.unix_ms(),
            };
            let outcome = self.checker.judge(0, answer.status, &answer.body, when);
            let length = answer.length;
            self.counts.add(outcome);
            self.part.drain(..length);
            taken += 1;
        }
    }
}

fn waits(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
