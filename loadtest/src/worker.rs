//! One thread of the driver.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};

use crate::answer::{self, Read};
use crate::check::{Between, Checker};
use crate::clock::{Now, Timer, steady};
use crate::driver::{Driven, Shared};
use crate::link::{Link, OnTheWay};
use crate::outcome::{Failed, Outcome, Wrong};
use crate::pace::Schedule;
use crate::plan::Keep;
use crate::timeline::Dater;

/// The poll's name for the timer; links have theirs by number.
const TIMER: Token = Token(usize::MAX - 1);
/// Read at once: a hundred answers of a pipeline's, or any one of them.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long a link rests after nobody took its connection, so that a server that is down is not
/// asked a million times a second.
const REST: Duration = Duration::from_millis(10);
/// How often overdue answers are looked for, at most.
const SWEEP: Duration = Duration::from_millis(50);

pub(crate) struct Worker<'a> {
    shared: &'a Shared,
    schedule: Schedule,
    poll: Poll,
    timer: Timer,
    links: Vec<Link>,
    /// Links with room for a request, in the order in which they became so.
    free: VecDeque<usize>,
    is_free: Vec<bool>,
    /// Links that wait after a failure, or to think, and until when; the first to go on is on top.
    resting: BinaryHeap<Reverse<(Instant, usize)>>,
    rests: Vec<bool>,
    checker: Checker,
    random: fastrand::Rng,
    out: Vec<u8>,
    on_the_way: usize,
    driven: Driven,
    dater: Dater,
    ended: Instant,
    done: u64,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(shared: &'a Shared, number: usize) -> anyhow::Result<Self> {
        let (plan, part) = (&shared.plan, &shared.part);
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let workers = plan.workers();
        let links = plan.links / workers + usize::from(number < plan.links % workers);
        Ok(Self {
            schedule: Schedule::new(plan, number, part.start).during(part.from, part.until),
            poll,
            timer,
            links: (0..links).map(|_| Link::default()).collect(),
            free: (0..links).collect(),
            is_free: vec![true; links],
            resting: BinaryHeap::new(),
            rests: vec![false; links],
            checker: Checker::new(shared.resources.clone()),
            random: fastrand::Rng::with_seed(plan.seed.wrapping_add(number as u64)),
            out: Vec::new(),
            on_the_way: 0,
            driven: Driven::new(plan),
            dater: Dater::new(part.start),
            ended: part.start,
            done: 0,
            shared,
        })
    }

    /// Until everything is sent and answered or given up. Returns when that was.
    pub(crate) fn run(mut self, done: &AtomicU64) -> anyhow::Result<(Driven, Instant)> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_BYTES];
        let sweep = SWEEP.min(self.shared.plan.timeout / 4);
        let start = self.shared.part.start;
        let mut next_sweep = start + sweep;
        std::thread::sleep(start.saturating_duration_since(steady()));
        loop {
            let now = steady();
            self.wake_rested(now);
            let due = self.send_due(now);
            if due.is_none() && self.on_the_way == 0 {
                return Ok((self.driven, self.ended));
            }
            if now >= next_sweep {
                self.give_up_overdue(now);
                next_sweep = now + sweep;
            }
            let wait = self.wait(due, now, next_sweep)?;
            if let Err(error) = self.poll.poll(&mut events, Some(wait))
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            // The wall clock is read once for all that has happened; reading clocks is not free.
            let woken = Now::read();
            for event in &events {
                if event.token() != TIMER {
                    self.happened(event, woken, &mut buffer);
                }
            }
            done.store(self.done, Ordering::Relaxed);
        }
    }

    /// How long to sleep, the timer set for what is due.
    fn wait(&mut self, due: Option<Instant>, now: Instant, sweep: Instant) -> io::Result<Duration> {
        if let Some(due) = due
            && !self.free.is_empty()
        {
            self.timer.set(due, now)?;
        }
        let rested = self.resting.peek();
        let rested = rested.map_or(sweep, |Reverse((until, _))| *until);
        Ok(sweep.min(rested).saturating_duration_since(now))
    }

    /// Sends what is due while links are free. Returns when the next request is or was due.
    fn send_due(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let due = self.schedule.due(now)?;
            if now.saturating_duration_since(due) > self.shared.plan.timeout {
                // Whoever had meant to send this would have given up.
                self.schedule.begin(due);
                self.count(due, now, Outcome::Failed(Failed::Unsent));
                continue;
            }
            if due > now {
                return Some(due);
            }
            let Some(id) = self.free.pop_front() else {
                return Some(due);
            };
            self.is_free[id] = false;
            self.fill(id);
        }
    }

    /// Sends what is due on this link, as far as it has room, in one piece.
    fn fill(&mut self, id: usize) {
        if self.rests[id] {
            return;
        }
        let plan = &self.shared.plan;
        let now = steady();
        let link = &mut self.links[id];
        self.out.clear();
        while link.on_the_way.len() < plan.pipeline {
            let Some(due) = self.schedule.due(now).filter(|due| *due <= now) else {
                break;
            };
            self.schedule.begin(due);
            let client = self.shared.which_client.draw(&mut self.random);
            let key = self.shared.which_key.draw(&mut self.random);
            self.shared.heads[client][key].append(&mut self.out, &mut self.random);
            link.on_the_way.push_back(OnTheWay {
                key,
                intended: due,
                sent: now,
            });
            self.on_the_way += 1;
        }
        if !self.out.is_empty() {
            let registry = self.poll.registry();
            if !link.is_open() {
                if link.open(&plan.target, registry, Token(id)).is_err() {
                    return self.fail(id, Failed::Connect);
                }
                self.driven.links_opened += 1;
            }
            if let Err(error) = link.send(&self.out, registry, Token(id)) {
                return self.broke(id, &error);
            }
        }
        self.free_if_room(id);
    }

    fn free_if_room(&mut self, id: usize) {
        if !self.is_free[id]
            && !self.rests[id]
            && self.links[id].on_the_way.len() < self.shared.plan.pipeline
        {
            self.is_free[id] = true;
            self.free.push_back(id);
        }
    }

    fn wake_rested(&mut self, now: Instant) {
        while let Some(Reverse((until, id))) = self.resting.peek().copied()
            && until <= now
        {
            self.resting.pop();
            self.rests[id] = false;
            self.free_if_room(id);
        }
    }

    fn happened(&mut self, event: &Event, woken: Now, buffer: &mut [u8]) {
        let (id, before) = (event.token().0, self.on_the_way);
        if event.is_writable()
            && let Err(error) = self.links[id].writable()
        {
            self.broke(id, &error);
        }
        loop {
            match self.links[id].read(buffer) {
                Ok(None) => break,
                Ok(Some(0)) => {
                    self.closed(id);
                    break;
                }
                Ok(Some(read)) => {
                    self.arrived(id, woken.later(), &buffer[..read]);
                    // A short read has emptied the socket; its end comes with an event of its own,
                    // unless this is the one.
                    if read < buffer.len() && !event.is_read_closed() {
                        break;
                    }
                }
                Err(error) => {
                    self.broke(id, &error);
                    break;
                }
            }
        }
        if self.on_the_way < before {
            if let Some(think) = self.shared.plan.think {
                let think = think.mul_f64(0.5 + self.random.f64());
                self.rest(id, think);
            }
            self.fill(id);
        }
    }

    /// Takes the answers in these bytes and in what came before.
    fn arrived(&mut self, id: usize, now: Now, bytes: &[u8]) {
        let mut joined = std::mem::take(&mut self.links[id].part);
        let mut rest = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        while !rest.is_empty() {
            let Some(request) = self.links[id].on_the_way.front().copied() else {
                self.driven.counts.add(Outcome::Wrong(Wrong::Unasked));
                return self.links[id].close();
            };
            let answer = match answer::read(rest) {
                Read::Whole(answer) => answer,
                Read::Part => {
                    self.links[id].part = rest.to_vec();
                    return;
                }
                Read::Bad => return self.fail(id, Failed::NotHttp),
            };
            let when = Between {
                asked_ms: now.unix_ms_at(request.sent),
                arrived_ms: now.unix_ms(),
            };
            let outcome = self
                .checker
                .judge(request.key, answer.status, &answer.body, when);
            if outcome == Outcome::Right
                && self.shared.plan.interval > Duration::ZERO
                && let Some(ends_s) = self.checker.ends_s(request.key)
            {
                let ends_ms = ends_s.saturating_mul(1_000);
                self.driven
                    .lives
                    .record(ends_ms.saturating_sub(when.arrived_ms));
            }
            self.links[id].on_the_way.pop_front();
            self.finish(request, now.steady, outcome);
            rest = &rest[answer.length..];
            if rest.is_empty() && (answer.last || self.shared.plan.keep == Keep::OneRequest) {
                return self.end(id);
            }
        }
    }

    fn finish(&mut self, request: OnTheWay, now: Instant, outcome: Outcome) {
        self.on_the_way -= 1;
        if request.intended >= self.schedule.measured_from {
            self.driven
                .service
                .record(now.saturating_duration_since(request.sent));
        }
        self.count(request.intended, now, outcome);
    }

    fn count(&mut self, intended: Instant, now: Instant, outcome: Outcome) {
        self.done += 1;
        self.ended = now;
        if intended < self.schedule.measured_from {
            self.driven.warm_up.add(outcome);
        } else {
            let wait = now.saturating_duration_since(intended);
            self.driven.counts.add(outcome);
            self.driven.latency.record(wait);
            let due_ms = self.dater.unix_ms(intended);
            self.driven.timeline.add(due_ms, wait, outcome);
        }
    }

    /// The server has closed the link.
    fn closed(&mut self, id: usize) {
        let link = &mut self.links[id];
        if link.on_the_way.is_empty() {
            self.driven.closed_idle += u64::from(link.is_open());
            link.close();
        } else {
            let started = !link.part.is_empty();
            self.fail(id, if started { Failed::Cut } else { Failed::Closed });
        }
    }

    /// The socket has failed.
    fn broke(&mut self, id: usize, error: &io::Error) {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
        match error.kind() {
            ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut => {
                self.fail(id, Failed::Connect);
            }
            _ => self.closed(id),
        }
    }

    /// Ends a link after its last answer; what was sent after that stays unanswered.
    fn end(&mut self, id: usize) {
        if self.links[id].on_the_way.is_empty() {
            self.links[id].close();
        } else {
            self.fail(id, Failed::Closed);
        }
    }

    /// Ends a link on which something is on its way. What is behind the first of it has failed
    /// with it.
    fn fail(&mut self, id: usize, first: Failed) {
        let (now, mut why) = (steady(), first);
        while let Some(request) = self.links[id].on_the_way.pop_front() {
            self.finish(request, now, Outcome::Failed(why));
            if matches!(first, Failed::Cut | Failed::NotHttp) {
                why = Failed::Closed;
            }
        }
        self.links[id].close();
        self.rest(id, REST);
    }

    /// Leaves a link alone for so long.
    fn rest(&mut self, id: usize, time: Duration) {
        if !self.rests[id] {
            self.rests[id] = true;
            self.resting.push(Reverse((steady() + time, id)));
        }
    }

    fn give_up_overdue(&mut self, now: Instant) {
        for id in 0..self.links.len() {
            let first = self.links[id].on_the_way.front();
            let waits = first.map(|first| now.saturating_duration_since(first.sent));
            if waits.is_some_and(|waits| waits > self.shared.plan.timeout) {
                self.fail(id, Failed::TimedOut);
            }
        }
    }
}
