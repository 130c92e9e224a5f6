//! Holds the invariants, by books of its own: from what callers, upstream and operators see, never
//! from what the worker says.

use std::collections::VecDeque;

use foretoken::clock::UnixMs;
use foretoken::upstream::{Class, FetchError};

/// What happened, for the last lines of a failure.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "read by people, when it is printed")]
pub enum Note {
    Asked(usize, Wanted),
    Served(usize, u64),
    Held(usize),
    Refused(usize, Class, Option<u16>),
    GivenUp(usize),
    HungUp(usize),
    Call(usize),
    Token(usize, u64),
    Failed(usize, Class, Option<u16>),
    Purged(Option<usize>),
    Restarted,
    Slept(u64),
    Stepped(i64),
}

impl Note {
    fn key(&self) -> Option<usize> {
        match *self {
            Self::Asked(key, _)
            | Self::Served(key, _)
            | Self::Held(key)
            | Self::Refused(key, ..)
            | Self::GivenUp(key)
            | Self::HungUp(key)
            | Self::Call(key)
            | Self::Token(key, _)
            | Self::Failed(key, ..) => Some(key),
            Self::Purged(key) => key,
            Self::Restarted | Self::Slept(_) | Self::Stepped(_) => None,
        }
    }
}

/// What a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Any,
    /// By its hash, the token that is held is of no use.
    NotHeld,
    /// `bypass_cache`.
    Bypass,
}

/// The token that a key has to be answered with.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub number: u64,
    pub ends: UnixMs,
    /// Its end less the margin: by the checker's own sum.
    pub until: UnixMs,
    pub life_ms: u64,
    /// It was over once by a clock that has been put back since: what nobody used may be dropped.
    over: bool,
}

impl Held {
    pub fn new(number: u64, ends: UnixMs, received_at: UnixMs) -> Self {
        let life_ms = ends.since(received_at);
        Self {
            number,
            ends,
            until: ends.minus((life_ms * 2 / 100).min(15_000)),
            life_ms,
            over: false,
        }
    }
}

/// One key's books.
#[derive(Default)]
pub struct Books {
    pub held: Option<Held>,
    pub generation: u64,
    /// Counts what ends the meaning of calls under way: purges and restarts.
    pub epoch: u64,
    pub flying: bool,
    pub last_asked: UnixMs,
    /// It was answered, and asked for often enough since.
    pub in_use: bool,
    /// When a caller last had a call forced.
    forced_at: Option<UnixMs>,
    /// As [`Checker::excused_until`], for failures that are its own.
    excused_until: UnixMs,
    /// The last call's failure.
    pub failed: Option<(UnixMs, Option<u16>)>,
}

/// What was seen in a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Figures {
    pub requests: u64,
    pub hits: u64,
    pub held: u64,
    pub refused: u64,
    pub given_up: u64,
    pub calls: u64,
    pub failures: u64,
    pub tokens: u64,
    pub forced: u64,
    pub restarts: u64,
    pub purges: u64,
}

pub struct Checker {
    pub seed: u64,
    pub now: UnixMs,
    start: UnixMs,
    pub books: Vec<Books>,
    pub figures: Figures,
    pub broken: Option<String>,
    notes: VecDeque<(UnixMs, Note)>,
    starts: VecDeque<UnixMs>,
    pub in_flight: usize,
    /// The upstream's last word: did it answer a question?
    alive: bool,
    /// Until when a 429 asked for silence.
    silence: UnixMs,
    /// When the last 429 came.
    throttled: Option<UnixMs>,
    /// Callers may have to wait until then: the upstream has not been well for long enough.
    pub excused_until: UnixMs,
    /// How far the process takes it to be later than it is.
    pub ahead_ms: u64,
    /// And how far earlier.
    pub behind_ms: u64,
    /// When a call last failed, for any key.
    failed_at: Option<UnixMs>,
    /// When that last changed.
    moved_at: Option<UnixMs>,
    /// When a call was last forced for any key.
    forced_at: Option<UnixMs>,
    /// After this time of health nobody waits for a key in use.
    pub recovery_ms: u64,
}

const MAX_IN_FLIGHT: usize = 4;
const MAX_PER_SECOND: usize = 15;
const MAX_NEGATIVE_MS: u64 = 5000;
const MAX_PAUSE_MS: u64 = 37_500;
pub const MAX_WAIT_MS: u64 = 20_000;

impl Checker {
    pub fn new(seed: u64, start: UnixMs, keys: usize) -> Self {
        // 15 calls a second, of which a new key may take a third; after a 429 fewer for minutes.
        let recovery_ms = 100_000 + 150 * keys as u64;
        Self {
            seed,
            now: start,
            start,
            books: Vec::new(),
            figures: Figures::default(),
            broken: None,
            notes: VecDeque::new(),
            starts: VecDeque::new(),
            in_flight: 0,
            alive: true,
            silence: UnixMs(0),
            throttled: None,
            excused_until: start.plus(recovery_ms),
            ahead_ms: 0,
            behind_ms: 0,
            failed_at: None,
            moved_at: None,
            forced_at: None,
            recovery_ms,
        }
    }

    pub fn note(&mut self, note: Note) {
        if self.notes.len() == 5000 {
            self.notes.pop_front();
        }
        self.notes.push_back((self.now, note));
    }

    pub fn books(&mut self, key: usize) -> &mut Books {
        if self.books.len() <= key {
            self.books.resize_with(key + 1, Books::default);
        }
        &mut self.books[key]
    }

    /// Keeps the first thing that breaks, with all that a person needs.
    pub fn holds(&mut self, holds: bool, rule: &str, words: impl FnOnce(&Self) -> String) {
        if holds || self.broken.is_some() {
            return;
        }
        let time = |at: UnixMs| {
            let ms = at.since(self.start);
            let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
            format!("{h}:{m:02}:{s:02}.{:03}", ms % 1000)
        };
        let line = |(at, note): &(UnixMs, Note)| format!("\n  {} {note:?}", time(*at));
        let lines: String = self.notes.iter().rev().take(50).rev().map(line).collect();
        // And of the key that was last spoken of, further back.
        let key = self.notes.back().and_then(|(_, note)| note.key());
        let its = self.notes.iter().filter(|(_, note)| note.key() == key);
        let its: Vec<_> = its.rev().take(20).collect();
        let its: String = its.into_iter().rev().map(line).collect();
        let words = words(self);
        self.broken = Some(format!(
            "{rule}: {words}\nseed {}, virtual time {}, the last events:{lines}\nof its key:{its}",
            self.seed,
            time(self.now)
        ));
    }

    /// Whether by now nobody may have to wait for this key, if it is in use.
    fn is_well(&mut self, key: usize, since: UnixMs) -> bool {
        since >= self.excused_until && since >= self.books(key).excused_until
    }

    /// A caller who has no use for the token that is held has started a call.
    pub fn forced(&mut self, key: usize) {
        let now = self.now;
        let last = self.forced_at.replace(now);
        let its = self.books(key).forced_at.replace(now);
        let rested = |last: Option<UnixMs>, ms| last.is_none_or(|last| now.since(last) >= ms);
        self.holds(
            rested(last, 1000),
            "forced calls are a second apart",
            |_| format!("key {key}, the last one was at {last:?}"),
        );
        self.holds(rested(its, 60_000), "U-9 one a key and minute", |_| {
            format!("key {key}, its last one was at {its:?}")
        });
    }

    pub fn excuse(&mut self, from: UnixMs) {
        self.excused_until = self.excused_until.max(from.plus(self.recovery_ms));
    }

    /// A body was sent to a caller of `key`.
    pub fn served(&mut self, key: usize, text: &str, expires_on_s: u64, generation: u64) {
        let now = self.now;
        let held = self.books(key).held;
        let before = std::mem::replace(&mut self.books(key).generation, generation);
        let mut parts = text.rsplitn(2, '#');
        let number: u64 = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let name = parts.next().unwrap_or("");
        self.note(Note::Served(key, number));
        self.books(key).in_use = true;
        self.holds(name == format!("key-{key}"), "I1 the right token", |_| {
            format!("a caller of key {key} got {text}")
        });
        self.holds(generation >= before, "I8 generations never go back", |_| {
            format!("key {key} went from {before} to {generation}")
        });
        let received = held.filter(|held| held.number == number);
        self.holds(received.is_some(), "I6/I7 what was received last", |_| {
            format!("key {key} was answered with number {number}, the books have {held:?}")
        });
        if let Some(held) = received {
            let by_its_clock = now.minus(self.behind_ms);
            self.holds(by_its_clock < held.until, "I2 never past its end", |_| {
                let over = now.since(held.until);
                format!("key {key} number {number} was served {over} ms past expiry less margin")
            });
            self.holds(
                expires_on_s * 1000 == held.ends.0,
                "I6 as it was received",
                |_| format!("key {key} ends {expires_on_s}, the books have {held:?}"),
            );
        }
    }

    /// A key was served that could have so much left whenever the upstream dies.
    pub fn has_floor(&mut self, key: usize, floor_ms: u64, last_asked: UnixMs) {
        let now = self.now;
        let Some(held) = self.books(key).held else {
            return;
        };
        let used = now.since(last_asked) + 3000 < held.life_ms;
        // After a failure with hours left the pause is minutes.
        let used = used && self.books(key).failed.is_none();
        // Callers of keys that fail go before renewals that are in no hurry.
        let rested = |at| now.since(at) > self.recovery_ms;
        let used = used && self.failed_at.is_none_or(rested);
        let well = used && self.is_well(key, now) && self.ahead_ms <= 1100;
        // Its renewal takes its turn.
        let left = held.until.since(now) + 15_000 + self.recovery_ms;
        self.holds(!well || left >= floor_ms, "the floor is kept", |_| {
            format!("key {key} has {left} ms left, {floor_ms} are wished for")
        });
    }

    /// A caller has to wait. `held` as it was before it asked.
    pub fn waits(&mut self, key: usize, wanted: Wanted, last_asked: UnixMs) {
        self.figures.held += 1;
        self.note(Note::Held(key));
        let now = self.now;
        let Some(held) = self.books(key).held else {
            return;
        };
        // In use: since it was last answered, no life of its token went by without a caller.
        let ago = now.since(last_asked);
        let used = self.books(key).in_use && ago + 3000 < held.life_ms;
        self.books(key).in_use = used;
        if wanted != Wanted::Any {
            return;
        }
        let over = self.is_over(held);
        self.holds(over, "I5 a valid token whenever there is one", |_| {
            format!("a caller of key {key} waits, the books have {held:?}")
        });
        let well = self.is_well(key, now);
        let due = used && well && !held.over;
        self.holds(!due, "I10 healthy, and no key stale", |_| {
            format!("key {key} has run out; it was asked for {ago} ms ago, {held:?}")
        });
    }

    /// A caller who asked at `asked_at` gets no token.
    pub fn refused(&mut self, key: usize, error: &FetchError, asked_at: UnixMs) {
        let now = self.now;
        self.figures.refused += 1;
        self.note(Note::Refused(key, error.class, error.status));
        self.has_none(key);
        let failed = self.books(key).failed;
        let own = failed.is_some_and(|(at, _)| now.since(at) <= MAX_NEGATIVE_MS);
        // Pauses that a 429 does not ask for grow to half a minute and a quarter more.
        let paused = self
            .throttled
            .is_some_and(|at| now.since(at) < MAX_PAUSE_MS);
        let troubled = !self.alive || self.silence > now || paused;
        self.holds(
            own || troubled || asked_at < now,
            "U-6 refusals last 5 s",
            |_| format!("key {key} is refused at once, its last failure was {failed:?}"),
        );
        match error.status {
            Some(429) => {
                let throttled = self.throttled;
                let recent = throttled.is_some_and(|at| now.since(at) <= 160_000);
                self.holds(recent, "truthful 429", |_| {
                    format!("key {key}, {throttled:?}")
                });
            }
            Some(status @ 400..500) => {
                let theirs = own && failed.is_some_and(|(_, last)| last == Some(status));
                self.holds(theirs, "no invented status", |_| {
                    format!("key {key} is told {status}, its last failure was {failed:?}")
                });
            }
            _ => {}
        }
    }

    /// A caller got nothing in 20 s.
    pub fn given_up(&mut self, key: usize, wanted: Wanted, asked_at: UnixMs) {
        self.figures.given_up += 1;
        self.note(Note::GivenUp(key));
        self.has_none(key);
        // Who has no use for the token that is held comes after everybody else.
        let well = wanted == Wanted::Any && self.is_well(key, asked_at);
        self.holds(!well, "I5 an answer by the deadline", |_| {
            format!("a caller of key {key} waited in vain though the upstream is well")
        });
    }

    /// By the process's own clock.
    fn is_over(&self, held: Held) -> bool {
        held.over || self.process_time() >= held.until
    }

    fn process_time(&self) -> UnixMs {
        self.now.plus(self.ahead_ms).minus(self.behind_ms)
    }

    /// What the process takes for the time.
    pub fn clock_shows(&mut self, time: UnixMs) {
        let before = self.process_time();
        if time != before {
            self.moved_at = Some(self.now);
            self.forget_forced();
        }
        if time < before {
            for held in self.books.iter_mut().filter_map(|it| it.held.as_mut()) {
                held.over |= before >= held.until;
            }
        }
        (self.ahead_ms, self.behind_ms) = (time.since(self.now), self.now.since(time));
    }

    fn has_none(&mut self, key: usize) {
        let held = self.books(key).held;
        let none = held.is_none_or(|held| self.is_over(held));
        self.holds(none, "I5 a valid token whenever there is one", |_| {
            format!("a caller of key {key} was refused, the books have {held:?}")
        });
    }

    /// A call starts.
    pub fn call(&mut self, key: usize) {
        let now = self.now;
        self.note(Note::Call(key));
        self.figures.calls += 1;
        self.in_flight += 1;
        self.starts.push_back(now);
        while self.starts.front().is_some_and(|at| now.since(*at) > 1000) {
            self.starts.pop_front();
        }
        let (flying, second) = (self.in_flight, self.starts.len());
        self.holds(flying <= MAX_IN_FLIGHT, "I4 calls in flight", |_| {
            format!("{flying} at once")
        });
        self.holds(second <= MAX_PER_SECOND, "I4 calls in a second", |_| {
            format!("{second} within 1000 ms")
        });
        let books = self.books(key);
        let (double, failed) = (std::mem::replace(&mut books.flying, true), books.failed);
        self.holds(!double, "I3 one call a key", |_| {
            format!("a second one for key {key}")
        });
        // By the process's clock, which may have moved since.
        let moved = self.moved_at;
        let paused = failed.is_none_or(|(at, _)| now.since(at) >= 20 || moved >= Some(at));
        self.holds(paused, "U-3 a pause after each failure", |_| {
            format!("key {key} is called again after {failed:?}")
        });
        let silence = self.silence;
        self.holds(now >= silence, "U-5 a pause after each 429", |_| {
            format!("key {key} is called, silence was asked for until {silence:?}")
        });
    }

    /// A call ended, and its key was not purged meanwhile if `counts`.
    pub fn landed(&mut self, key: usize, counts: bool, answer: &Result<(u64, UnixMs), FetchError>) {
        let now = self.now;
        // The margin follows from the life, which the process measures by its own clock.
        let received_at = self.process_time();
        self.in_flight -= 1;
        match answer {
            Ok((number, ends)) => {
                self.alive = true;
                self.figures.tokens += 1;
                self.note(Note::Token(key, *number));
                let new = Held::new(*number, *ends, received_at);
                if counts {
                    let held = self.books(key).held;
                    let same = held.filter(|held| held.number == *number);
                    // The token that is held, in its last seconds: as good as none.
                    let over = same.is_some_and(|held| received_at >= held.until);
                    let books = self.books(key);
                    books.flying = false;
                    books.failed = over.then_some((now, None));
                    books.held = Some(same.unwrap_or(new));
                }
            }
            Err(error) => {
                self.figures.failures += 1;
                self.failed_at = Some(now);
                self.note(Note::Failed(key, error.class, error.status));
                match error.class {
                    Class::NotFound | Class::Denied | Class::WrongResource | Class::BadExpiry => {
                        self.alive = true;
                    }
                    Class::Lost => {}
                    _ => self.alive = false,
                }
                if error.class == Class::Throttled {
                    self.throttled = Some(now);
                    // Two seconds are kept unasked.
                    let asked = error.retry_after.map_or(0, |wait| wait.as_secs() * 1000);
                    self.silence = self.silence.max(now.plus(asked.max(2000)));
                }
                let alive = self.alive;
                let asked = error.retry_after.map_or(0, |wait| wait.as_secs() * 1000);
                // Without a wish, pauses after 429s grow to half a minute.
                let asked = asked.max(if error.class == Class::Throttled {
                    37_500
                } else {
                    0
                });
                if alive && error.class != Class::Lost {
                    // Somebody is there, and has a word about this key.
                    let until = now.plus(asked + self.recovery_ms);
                    let books = self.books(key);
                    books.excused_until = books.excused_until.max(until);
                } else {
                    self.excuse(now.plus(asked));
                }
                if counts {
                    let books = self.books(key);
                    books.flying = false;
                    books.failed = Some((now, error.status));
                }
            }
        }
    }

    /// The key, or what the process knew, is no more.
    pub fn forgotten(&mut self, key: usize) {
        let books = self.books(key);
        books.held = None;
        books.epoch += 1;
        books.flying = false;
        books.failed = None;
    }

    /// The process starts anew: its calls are gone.
    pub fn restarted(&mut self) {
        self.note(Note::Restarted);
        self.figures.restarts += 1;
        self.in_flight = 0;
        self.silence = UnixMs(0);
        self.throttled = None;
        self.alive = true;
        self.forget_forced();
    }

    /// Paces are kept by the process's clock, and not over a move of it.
    fn forget_forced(&mut self) {
        self.forced_at = None;
        self.books.iter_mut().for_each(|it| it.forced_at = None);
    }
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        let mine = [
            &mut self.requests,
            &mut self.hits,
            &mut self.held,
            &mut self.refused,
            &mut self.given_up,
            &mut self.calls,
            &mut self.failures,
            &mut self.tokens,
            &mut self.forced,
            &mut self.restarts,
            &mut self.purges,
        ];
        let theirs = [
            other.requests,
            other.hits,
            other.held,
            other.refused,
            other.given_up,
            other.calls,
            other.failures,
            other.tokens,
            other.forced,
            other.restarts,
            other.purges,
        ];
        for (mine, theirs) in mine.into_iter().zip(theirs) {
            *mine += theirs;
        }
    }
}
