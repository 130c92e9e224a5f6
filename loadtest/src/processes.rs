//! Clients that are processes of their own, as those of a dense machine are.
//!
//! Each is this program again, with the hidden command `client`. It reads its order and prepares
//! itself, says that it is ready, is told when the load began, and asks. What it says is JSON, a line
//! for each word; its last word is all that it counted. A process that is to be restarted ends when its
//! time is over and what it asked is answered; only then its successor is started, which opens links of
//! its own. What was due meanwhile nobody asks: it is the client that is away.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::clock::{Now, steady};
use crate::driver::{Driven, HEAD_START, Moment, Part, Shared, drive_part, join_all};
use crate::plan::Plan;
use crate::process::{Usage, allow_many_files};

/// The command under which this program is a client.
pub const COMMAND: &str = "client";

/// To a client: which of the plan's threads it has.
#[derive(Serialize, Deserialize)]
struct Order {
    plan: Plan,
    first: usize,
}

/// To a client that is ready: when the load began, and from when until when the client is there.
#[derive(Serialize, Deserialize)]
struct Go {
    start_unix_us: u64,
    from: Duration,
    until: Option<Duration>,
}

/// From a client.
#[derive(Serialize, Deserialize)]
enum Word {
    Ready,
    /// So many requests are done.
    Done(u64),
    Ended(Box<Driven>),
}

/// Carries a plan of several processes out, as [`crate::drive`] does.
pub(crate) fn drive(plan: &Plan, watch: impl FnMut(Moment)) -> anyhow::Result<Driven> {
    let first = (0..plan.processes).map(|number| Client::start(plan, number));
    let mut first = first.collect::<anyhow::Result<Vec<_>>>()?;
    for client in &mut first {
        client.wait_until_ready()?;
    }
    let start = steady() + HEAD_START;
    let done: Arc<[AtomicU64]> = (0..plan.processes).map(|_| AtomicU64::new(0)).collect();
    let places = first.into_iter().enumerate().map(|(number, client)| {
        let (plan, done) = (plan.clone(), Arc::clone(&done));
        let thread = thread::Builder::new().name(format!("client-{number}"));
        thread.spawn(move || {
            let place = Place {
                plan: &plan,
                number,
                start,
                done: &done[number],
            };
            Ok((place.fill(client)?, start))
        })
    });
    let places = places.collect::<Result<Vec<_>, _>>();
    let places = places.context("cannot start a thread")?;
    join_all(plan, start, places, &done, watch)
}

/// The processes that follow each other in one place.
struct Place<'a> {
    plan: &'a Plan,
    number: usize,
    start: Instant,
    done: &'a AtomicU64,
}

impl Place<'_> {
    fn fill(&self, mut client: Client) -> anyhow::Result<Driven> {
        let mut driven = Driven::new(self.plan);
        let (mut from, mut until) = (Duration::ZERO, self.first_end());
        let mut before = 0;
        loop {
            client.go(self.start, from, until)?;
            let life = client.ended(|done| self.done.store(before + done, Ordering::Relaxed))?;
            driven.merge(&life);
            driven.took = driven.took.max(life.took);
            before = self.done.load(Ordering::Relaxed);
            let is_over = |at| self.plan.lasts().is_none_or(|ends| at >= ends);
            let Some(every) = self
                .plan
                .restart_every
                .filter(|_| !until.is_some_and(is_over))
            else {
                return Ok(driven);
            };
            client = Client::start(self.plan, self.number)?;
            client.wait_until_ready()?;
            from = steady().saturating_duration_since(self.start);
            if is_over(from) {
                return Ok(driven);
            }
            until = Some(from + every);
            driven.restarts += 1;
        }
    }

    /// The first ends are spread, so that at any time about as many processes are young as old.
    fn first_end(&self) -> Option<Duration> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let every = self.plan.restart_every?;
        Some(every * (count(self.number) + 1) / count(self.plan.processes))
    }
}

/// One process. Dropping it ends it.
struct Client {
    process: Child,
    orders: ChildStdin,
    words: BufReader<ChildStdout>,
}

impl Client {
    fn start(plan: &Plan, number: usize) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program has no file any more")?;
        let mut command = Command::new(program);
        command.arg(COMMAND);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start a client process")?;
        let (orders, words) = (process.stdin.take(), process.stdout.take());
        let mut client = Self {
            orders: orders.context("a pipe to the client")?,
            words: BufReader::new(words.context("a pipe from the client")?),
            process,
        };
        client.tell(&Order {
            plan: plan.clone(),
            first: number * plan.threads,
        })?;
        Ok(client)
    }

    fn tell(&mut self, order: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        let told = self.orders.write_all(line.as_bytes());
        told.context("a client process takes no orders")
    }

    fn hear(&mut self) -> anyhow::Result<Word> {
        let mut line = String::new();
        if self.words.read_line(&mut line)? == 0 {
            bail!("a client process has ended: {}", self.process.wait()?);
        }
        serde_json::from_str(&line).context("a client process says nothing that is known")
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        match self.hear()? {
            Word::Ready => Ok(()),
            _ => bail!("a client process began by itself"),
        }
    }

    fn go(
        &mut self,
        start: Instant,
        from: Duration,
        until: Option<Duration>,
    ) -> anyhow::Result<()> {
        let start_unix_us = Now::read().unix_us_of(start);
        self.tell(&Go {
            start_unix_us,
            from,
            until,
        })
    }

    fn ended(&mut self, done: impl Fn(u64)) -> anyhow::Result<Driven> {
        loop {
            match self.hear()? {
                Word::Ready => bail!("a client process began anew"),
                Word::Done(requests) => done(requests),
                Word::Ended(driven) => {
                    done(driven.counts.requests() + driven.warm_up.requests());
                    self.process.wait()?;
                    return Ok(*driven);
                }
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It has ended already, unless something went wrong.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the program does as a client: standard input has the orders, standard output gets the words.
///
/// # Errors
/// As [`crate::drive`]; and if nobody gives orders or listens.
pub fn client() -> anyhow::Result<()> {
    let mut orders = std::io::stdin().lines();
    let order: Order = serde_json::from_str(&orders.next().context("no order came")??)?;
    allow_many_files();
    let mut shared = Shared::new(&order.plan);
    say(&Word::Ready)?;
    let go: Go = serde_json::from_str(&orders.next().context("no start came")??)?;
    let start = Now::read().at_unix_us(go.start_unix_us);
    let start = start.context("the load began before this machine")?;
    shared.part = Part {
        start,
        first: order.first,
        from: go.from,
        until: go.until,
    };
    let mut measured_from_us = None;
    let mut unheard = false;
    let mut driven = drive_part(shared, |moment| match moment {
        Moment::Measured => measured_from_us = Usage::own_cpu_us().ok(),
        Moment::Progress { requests, .. } => unheard |= say(&Word::Done(requests)).is_err(),
    })?;
    if unheard {
        bail!("nobody listens any more");
    }
    let used_us = Usage::own_cpu_us()?;
    driven.elsewhere_cpu_us = used_us.saturating_sub(measured_from_us.unwrap_or(used_us));
    say(&Word::Ended(Box::new(driven)))
}

fn say(word: &Word) -> anyhow::Result<()> {
    let line = serde_json::to_string(word)? + "\n";
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}
