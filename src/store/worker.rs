//! The store thread: the only one that waits for the disk.
//!
//! Owns the waiting changes and the store's health. Promises that callers only ever take a short
//! lock; that changes are written at most once a second, removals and the last ones at once; and
//! that one warning is written when storing stops working and one line when it works again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::disk::{Disk, Loaded, Trouble};
use super::folder::FolderError;
use super::machine::Machine;
use super::queue::Queue;
use super::report::KeyFacts;
use super::{Health, OpenError, Settings, Unanswered};
use crate::clock::{Boot, Clock, UnixMs};

/// Changes are gathered this long before the next flush.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// A database that does not open, though nothing says that it is damaged, is tried so often before
/// a new one is begun.
const PATIENT_TRIES: u32 = 3;
/// A disk that takes so long for one turn is told as one that does not answer. Longer than a
/// database may take: that has reasons of its own to tell.
const STUCK_AFTER_MS: u64 = 15_000;
/// The pause after the first failure; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// And stays below the 30 s within which a store recovers once its disk does.
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// The store's end of the thread. Dropping it stops the thread once everything is written.
pub struct Handle(Arc<Shared>);

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    changed: Condvar,
}

/// Something that is asked of the opened store.
type Question = Box<dyn FnOnce(&mut Disk, UnixMs) + Send>;

struct State {
    queue: Queue,
    questions: Vec<Question>,
    key_facts: Option<KeyFacts>,
    health: Health,
    stop: bool,
    /// The thread has ended.
    done: bool,
    /// The start ran out of patience: what is loaded from now on is handed to nobody.
    late: bool,
    /// Changes queued so far, and how many of them are on disk.
    queued: u64,
    written: u64,
    /// When the thread began what it is at.
    busy_since: Option<Boot>,
}

/// Starts the thread and waits at most `patience` for it to load what is stored.
pub fn start(
    settings: &Settings,
    machine: &Machine,
    clock: &Clock,
    patience: Duration,
) -> Result<(Handle, Loaded), OpenError> {
    let shared = Arc::new(Shared {
        clock: clock.clone(),
        state: Mutex::new(State {
            queue: Queue::default(),
            questions: Vec::new(),
            key_facts: None,
            health: Health::Ok,
            stop: false,
            done: false,
            late: false,
            queued: 0,
            written: 0,
            busy_since: None,
        }),
        changed: Condvar::new(),
    });
    // Without room in the channel, a load that nobody waits for any more is noticed as such.
    let (loaded, arrival) = sync_channel(0);
    let worker = Worker {
        shared: Arc::clone(&shared),
        settings: settings.clone(),
        machine: machine.clone(),
        clock: clock.clone(),
        disk: None,
        failures: 0,
    };
    let spawned = thread::Builder::new()
        .name("store".into())
        .spawn(move || worker.run(&loaded));
    if let Err(error) = spawned {
        shared.end(&format!("the store thread could not be started: {error}"));
        return Ok((Handle(shared), Loaded::default()));
    }
    let loaded = match arrival.recv_timeout(patience) {
        Ok(Some(loaded)) => loaded,
        Ok(None) => {
            let path = settings.path.clone();
            return Err(OpenError::InUse { path });
        }
        Err(RecvTimeoutError::Timeout) => {
            shared.degrade("the disk did not answer in time");
            shared.lock().late = true;
            Loaded::default()
        }
        Err(RecvTimeoutError::Disconnected) => Loaded::default(),
    };
    Ok((Handle(shared), loaded))
}

impl Handle {
    /// Changes the queue and wakes the thread.
    pub fn queue(&self, change: impl FnOnce(&mut Queue)) {
        let mut state = self.0.lock();
        if !state.done {
            change(&mut state.queue);
            state.queued += 1;
            drop(state);
            self.0.changed.notify_all();
        }
    }

    /// Waits until everything queued so far is on disk; false if that takes longer.
    pub fn settle(&self, deadline: Duration) -> bool {
        let state = self.0.lock();
        let queued = state.queued;
        let (state, _) = self
            .0
            .changed
            .wait_timeout_while(state, deadline, |state| {
                !state.done && state.written < queued
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.written >= queued
    }

    /// Asks the opened store something, on its own thread. What that changes is written after the
    /// answer: [`settle`](Self::settle) waits for it.
    pub fn ask<T: Send + 'static>(
        &self,
        deadline: Duration,
        question: impl FnOnce(&mut Disk, UnixMs) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        // With room, so that an answer that nobody waits for any more holds nothing up.
        let (sender, answer) = sync_channel(1);
        let mut state = self.0.lock();
        if !state.done {
            state.questions.push(Box::new(move |disk, now| {
                let _ = sender.send(question(disk, now));
            }));
            state.queued += 1;
        }
        drop(state);
        self.0.changed.notify_all();
        let answer = answer.recv_timeout(deadline);
        answer.map_err(|_| self.unanswered())
    }

    pub fn unanswered(&self) -> Unanswered {
        Unanswered::Degraded(match self.health() {
            Health::Degraded(reason) => reason,
            _ => "it takes too long".to_owned(),
        })
    }

    pub fn key_facts(&self) -> Option<KeyFacts> {
        self.0.lock().key_facts.clone()
    }

    pub fn health(&self) -> Health {
        let mut state = self.0.lock();
        let now = self.0.clock.boot();
        let is_stuck = |since: Boot| now.0 > since.0 + STUCK_AFTER_MS;
        if state.busy_since.is_some_and(is_stuck) {
            state.degrade("the disk does not answer");
        }
        state.health.clone()
    }

    pub fn close(&self, deadline: Duration) -> bool {
        let mut state = self.0.lock();
        state.stop = true;
        self.0.changed.notify_all();
        let (state, _) = self
            .0
            .changed
            .wait_timeout_while(state, deadline, |state| !state.done)
            .unwrap_or_else(PoisonError::into_inner);
        state.done && state.health == Health::Ok
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

impl State {
    fn degrade(&mut self, reason: &str) {
        if self.health == Health::Ok {
            tracing::warn!(reason, "tokens are not being stored");
        }
        self.health = Health::Degraded(reason.to_owned());
    }
}

impl Shared {
    /// A panic under the lock cannot leave the state torn: each change of it is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn degrade(&self, reason: &str) {
        self.lock().degrade(reason);
    }

    fn recover(&self) {
        let mut state = self.lock();
        if state.health != Health::Ok {
            tracing::info!(
                "tokens are being stored again; those from before serve after a restart"
            );
        }
        state.health = Health::Ok;
    }

    fn end(&self, trouble: &str) {
        self.degrade(trouble);
        self.finish();
    }

    fn finish(&self) {
        let mut state = self.lock();
        state.done = true;
        // Whoever waits for an answer is told that there is none.
        state.questions.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// Sleeps until the state is as wanted, or for `limit`; says whether the store is closing.
    fn wait(&self, limit: Option<Duration>, wanted: impl Fn(&State) -> bool) -> bool {
        let asleep = |state: &mut State| !state.stop && !wanted(state);
        let state = self.lock();
        let state = match limit {
            None => self.changed.wait_while(state, asleep),
            Some(limit) => self
                .changed
                .wait_timeout_while(state, limit, asleep)
                .map(|(state, _)| state)
                .map_err(|poisoned| PoisonError::new(poisoned.into_inner().0)),
        };
        state.unwrap_or_else(PoisonError::into_inner).stop
    }
}

struct Worker {
    shared: Arc<Shared>,
    settings: Settings,
    machine: Machine,
    clock: Clock,
    /// None until folder and key could be opened.
    disk: Option<Disk>,
    failures: u32,
}

impl Worker {
    /// `loaded` gets `None` if another instance holds the folder.
    fn run(mut self, loaded: &SyncSender<Option<Loaded>>) {
        let shared = Arc::clone(&self.shared);
        let ended = catch_unwind(AssertUnwindSafe(move || {
            if !self.first_turn(loaded) {
                return;
            }
            while !self.pause() {
                self.turn();
            }
            self.turn();
        }));
        match ended {
            Ok(()) => shared.finish(),
            Err(_) => shared.end("the store thread panicked"),
        }
    }

    /// Loads and reports; says whether there is a folder to go on with.
    fn first_turn(&mut self, loaded: &SyncSender<Option<Loaded>>) -> bool {
        let opened = self.open();
        let is_open = opened.is_ok();
        let found = match opened {
            Ok(found) => found,
            Err(Trouble::Folder(FolderError::InUse)) => {
                let _ = loaded.send(None);
                return false;
            }
            Err(trouble) => {
                self.failed(&trouble);
                Loaded::default()
            }
        };
        if loaded.send(Some(found)).is_err()
            && let Some(disk) = &mut self.disk
        {
            disk.forget_generations();
        }
        // After the start has what there was: a first write may take its time.
        if is_open {
            self.turn();
        }
        true
    }

    fn open(&mut self) -> Result<Loaded, Trouble> {
        let (disk, loaded) = Disk::open(
            &self.settings,
            &self.machine,
            self.clock.now(),
            self.failures >= PATIENT_TRIES,
        )?;
        self.disk = Some(disk);
        loaded.refused.tell();
        Ok(loaded)
    }

    /// Waits for something to do; says whether the store is closing.
    fn pause(&self) -> bool {
        if let Some(doublings) = self.failures.checked_sub(1) {
            let backoff = FIRST_BACKOFF * (1 << doublings.min(8));
            let backoff = backoff.min(MAX_BACKOFF);
            let asked = |state: &State| !state.questions.is_empty();
            return self.shared.wait(Some(backoff), asked);
        }
        let at_once = |state: &State| state.queue.urgent || !state.questions.is_empty();
        let something = |state: &State| !state.queue.is_empty() || !state.questions.is_empty();
        self.shared.wait(Some(FLUSH_EVERY), at_once) || self.shared.wait(None, something)
    }

    fn turn(&mut self) {
        self.shared.lock().busy_since = Some(self.clock.boot());
        let turned = self.try_turn();
        self.shared.lock().busy_since = None;
        match turned {
            Ok(()) => {
                self.failures = 0;
                self.shared.recover();
            }
            Err(trouble) => self.failed(&trouble),
        }
    }

    fn try_turn(&mut self) -> Result<(), Trouble> {
        if self.disk.is_none() {
            self.open()?;
            // The start went on without them, too.
            self.disk.as_mut().map(Disk::forget_generations);
        }
        let Some(disk) = &mut self.disk else {
            return Ok(());
        };
        let (queue, questions, queued) = {
            let mut state = self.shared.lock();
            if std::mem::take(&mut state.late) {
                disk.forget_generations();
            }
            let queue = std::mem::take(&mut state.queue);
            (queue, std::mem::take(&mut state.questions), state.queued)
        };
        if queue.dropped > 0 {
            tracing::warn!(
                count = queue.dropped,
                "more tokens than the store can queue"
            );
        }
        disk.apply(queue, self.clock.earliest());
        // Only a disk that is as memory says is looked at, and changed by more than a queue can.
        if let Err(trouble) = disk.save() {
            self.shared.lock().questions.extend(questions);
            return Err(trouble);
        }
        if !questions.is_empty() {
            for question in questions {
                question(disk, self.clock.now());
            }
            disk.save()?;
        }
        let mut state = self.shared.lock();
        state.key_facts = Some(disk.key_facts());
        state.written = queued;
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    fn failed(&mut self, trouble: &Trouble) {
        self.failures = self.failures.saturating_add(1);
        self.shared.degrade(&trouble.to_string());
        // Whoever asks is told why there is no answer, and nothing is done behind their back later.
        self.shared.lock().questions.clear();
    }
}
