//! The thread that sleeps, listens and asks the upstream; everything it decides is the writer's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;

use super::worker::LastResult;
use super::writer::{Status, Work, Writer};
use crate::cache::{KeyId, Leader, PurgeTicket, Slot};
use crate::clock::{Clock, UnixMs};
use crate::store::Restored;
use crate::telemetry::pulse::Pulse;
use crate::token::{AccessToken, TokenKey};
use crate::upstream::{Class, FetchError, TokenSource};

/// The longest sleep. Timers stand still while the machine is suspended, the clock does not: due
/// keys, and a step of the wall clock, are found at most this long after a resume.
const MAX_SLEEP_MS: u64 = 1000;

/// Names and files are looked up beside the thread; one that hangs takes a place until it ends, and
/// calls that find none free end by their deadline.
const MAX_BLOCKING_THREADS: usize = 8;

type Answer = (Id, Result<AccessToken, FetchError>);

/// Picks keys.
pub type Which = Box<dyn Fn(&TokenKey) -> bool + Send>;

/// How an operator's wish for another token of a key came out.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// The key.
    pub key: TokenKey,
    /// How.
    pub outcome: Outcome,
}

/// See [`Renewal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its call has not ended; it is queued, or under way.
    Waiting,
    /// Its call has ended.
    Ended(LastResult),
    /// It holds no token to renew, or does no more.
    NotHeld,
}

/// A wish whose calls have not all ended.
struct Wish {
    open: HashMap<KeyId, TokenKey>,
    reply: mpsc::UnboundedSender<Renewal>,
}

enum Message {
    Demanded(Arc<Slot>, Leader),
    Used(Vec<(KeyId, UnixMs)>),
    Status(oneshot::Sender<Status>),
    Renew(Option<Which>, mpsc::UnboundedSender<Renewal>),
    Purge(Option<Which>, oneshot::Sender<(usize, PurgeTicket)>),
    Stop,
}

/// The refresh thread has ended; the process cannot go on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the refresh thread has stopped")]
pub struct Stopped;

/// How other threads talk to the refresh thread. Cheap to clone; sending never waits. What is
/// queued is bounded by the keys (one demand per flight) and the workers (one tick a second).
#[derive(Clone)]
pub struct Handle(mpsc::UnboundedSender<Message>);

impl Handle {
    /// Hands a flight that callers wait on to the refresh thread. If that has ended, dropping the
    /// leader lands the flight as lost.
    pub fn demand(&self, slot: Arc<Slot>, leader: Leader) {
        let _ = self.0.send(Message::Demanded(slot, leader));
    }

    /// Reports keys that were hit, and when last.
    pub fn used(&self, used: Vec<(KeyId, UnixMs)>) {
        if !used.is_empty() {
            let _ = self.0.send(Message::Used(used));
        }
    }

    /// Calls for the keys that `which` picks, or for all, within the budget and after everybody
    /// else, and waits for the ends of the calls, but not longer than `patience`. A call that was
    /// under way counts. In the order of the keys.
    ///
    /// # Errors
    /// The refresh thread has ended.
    pub async fn renew(
        &self,
        which: Option<Which>,
        patience: Duration,
    ) -> Result<Vec<Renewal>, Stopped> {
        let (reply, mut answers) = mpsc::unbounded_channel();
        self.0
            .send(Message::Renew(which, reply))
            .map_err(|_| Stopped)?;
        // Each key is told as waiting first, and then how it ended.
        let mut all = BTreeMap::new();
        let collected = timeout(patience, async {
            while let Some(Renewal { key, outcome }) = answers.recv().await {
                all.insert(key, outcome);
            }
        });
        let _ = collected.await;
        let all = all.into_iter();
        Ok(all.map(|(key, outcome)| Renewal { key, outcome }).collect())
    }

    /// Every key as operators see it.
    ///
    /// # Errors
    /// The refresh thread has ended.
    pub async fn status(&self) -> Result<Status, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Message::Status(reply)).map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Purges the keys that `which` picks, or everything; says how many were held, with the ticket
    /// to wait for.
    ///
    /// # Errors
    /// The refresh thread has ended.
    pub async fn purge(&self, which: Option<Which>) -> Result<(usize, PurgeTicket), Stopped> {
        let (reply, answer) = oneshot::channel();
        self.0
            .send(Message::Purge(which, reply))
            .map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// The running refresh thread.
pub struct Driver {
    handle: Handle,
    thread: JoinHandle<()>,
    pulse: Pulse,
}

impl Driver {
    /// Starts the thread: restored tokens are in the cache when this returns.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start<S: TokenSource>(
        mut writer: Writer,
        source: S,
        clock: Clock,
        restored: Vec<Restored>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_BLOCKING_THREADS)
            .build()?;
        let (sender, inbox) = mpsc::unbounded_channel();
        let received = restored.iter().map(|it| it.token.lifetime.received_at);
        if let Some(newest) = received.max() {
            clock.remember(newest);
        }
        let seen = clock.observe();
        let mut work = writer.restore_seen(&seen, restored);
        writer.survey(seen.now, &mut work);
        let pulse = Pulse::new("refresh");
        let turns = pulse.clone();
        let thread = std::thread::Builder::new()
            .name("refresh".into())
            .spawn(move || {
                runtime.block_on(run(writer, source, clock, inbox, work, turns));
                // A look-up of a name, or a file on a disk that hangs, does not hold up the end.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle: Handle(sender),
            thread,
            pulse,
        })
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Beats as often as the thread looks at what has happened, which is at least once a second.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Whether the thread has ended, which it does by itself only after a panic.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the thread; calls under way are dropped and their flights land as lost.
    pub fn stop(self) {
        let _ = self.handle.0.send(Message::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the refresh thread had panicked");
        }
    }
}

async fn run<S: TokenSource>(
    mut writer: Writer,
    source: S,
    clock: Clock,
    mut inbox: mpsc::UnboundedReceiver<Message>,
    mut work: Work,
    pulse: Pulse,
) {
    let mut calls: JoinSet<Result<AccessToken, FetchError>> = JoinSet::new();
    let mut names: HashMap<Id, KeyId> = HashMap::new();
    let mut wishes: Vec<Wish> = Vec::new();
    loop {
        pulse.beat();
        for job in work.jobs.drain(..) {
            let task = calls.spawn(source.fetch(job.ask));
            names.insert(task.id(), job.id);
        }
        let left = work
            .wake_at
            .map_or(MAX_SLEEP_MS, |at| at.since(clock.now()).min(MAX_SLEEP_MS));
        work = tokio::select! {
            message = inbox.recv() => match message {
                None | Some(Message::Stop) => return,
                Some(message) => at_the_time(&mut writer, &clock, |writer, now| {
                    heed(writer, now, message, &mut wishes)
                }),
            },
            Some(ended) = calls.join_next_with_id() => {
                let (task, answer) = answer_of(ended);
                let id = names.remove(&task);
                at_the_time(&mut writer, &clock, |writer, now| match id {
                    Some(id) => {
                        let work = writer.landed(now, id, answer);
                        wishes.iter_mut().for_each(|wish| wish.ended(id, writer.last(id)));
                        work
                    }
                    None => writer.woken(now),
                })
            }
            () = tokio::time::sleep(Duration::from_millis(left)) => {
                at_the_time(&mut writer, &clock, Writer::woken)
            }
        };
        wishes.retain_mut(|wish| wish.goes_on(&writer));
    }
}

impl Wish {
    fn begin(
        open: HashMap<KeyId, TokenKey>,
        empty: Vec<TokenKey>,
        reply: mpsc::UnboundedSender<Renewal>,
    ) -> Option<Self> {
        let wish = Self { open, reply };
        for key in empty {
            wish.tell(key, Outcome::NotHeld);
        }
        for key in wish.open.values() {
            wish.tell(key.clone(), Outcome::Waiting);
        }
        (!wish.open.is_empty()).then_some(wish)
    }

    fn ended(&mut self, id: KeyId, last: Option<LastResult>) {
        if let Some(key) = self.open.remove(&id) {
            self.tell(key, last.map_or(Outcome::NotHeld, Outcome::Ended));
        }
    }

    /// Whether there is something left to wait for, and somebody who does. Keys that were purged
    /// meanwhile are told.
    fn goes_on(&mut self, writer: &Writer) -> bool {
        let gone = self.open.extract_if(|id, _| writer.last(*id).is_none());
        let gone: Vec<_> = gone.collect();
        for (_, key) in gone {
            self.tell(key, Outcome::NotHeld);
        }
        !self.open.is_empty() && !self.reply.is_closed()
    }

    fn tell(&self, key: TokenKey, outcome: Outcome) {
        let _ = self.reply.send(Renewal { key, outcome });
    }
}

/// Tells the writer what has become of the clocks before what has happened: the one may be the
/// reason for which the other looks late.
fn at_the_time(
    writer: &mut Writer,
    clock: &Clock,
    event: impl FnOnce(&mut Writer, UnixMs) -> Work,
) -> Work {
    let seen = clock.observe();
    let mut work = writer.clock(&seen);
    work.add(event(writer, seen.now));
    writer.survey(seen.now, &mut work);
    work
}

fn heed(writer: &mut Writer, now: UnixMs, message: Message, wishes: &mut Vec<Wish>) -> Work {
    match message {
        Message::Demanded(slot, leader) => writer.demanded(now, slot, leader),
        Message::Used(used) => writer.used(now, &used),
        Message::Status(reply) => {
            let _ = reply.send(writer.status());
            writer.woken(now)
        }
        Message::Purge(which, reply) => {
            let (count, ticket, work) = writer.purge(now, which.as_deref());
            let _ = reply.send((count, ticket));
            work
        }
        Message::Renew(which, reply) => {
            let (open, empty, work) = writer.renew(now, which.as_deref());
            wishes.extend(Wish::begin(open, empty, reply));
            work
        }
        Message::Stop => Work::default(),
    }
}

/// A call that panicked, or was dropped, is a failure like any other.
fn answer_of(ended: Result<Answer, JoinError>) -> Answer {
    ended.unwrap_or_else(|error| (error.id(), Err(FetchError::of(Class::Lost))))
}
