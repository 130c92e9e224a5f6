//! Whether the upstream is asked at all: closed, open, or one call probing.
//!
//! It looks at the upstream as a whole. An answer about one key, be it a refusal, shows that
//! somebody is there.

use std::collections::VecDeque;

use super::backoff::{UPDATING_STEP_MS, asked_ms, between};
use super::schedule::Jitter;
use crate::cache::KeyId;
use crate::clock::UnixMs;
use crate::upstream::{Class, FetchError};

/// What a key is called for as long as the process runs: its id ends when it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyName(pub u64);

/// Whether so many troubles in a row, with so many keys, open the breaker.
pub type Trips = fn(u32, usize) -> bool;

/// The shortest wait before a probe.
const FIRST_PROBE_MS: u64 = 1000;
/// The longest one, unless the upstream itself asks for more.
const MAX_PROBE_MS: u64 = 15_000;
/// The keys of the last troubles that are remembered.
const MAX_SUSPECTS: usize = 16;

/// What the end of a call says of the upstream as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers, if with a refusal.
    Alive,
    /// It does not answer, or makes no sense.
    Trouble,
    /// Nothing: it was not asked, or asks for a pause.
    Unknown,
}

/// What an error of this class says.
#[must_use]
pub fn health(class: Class) -> Health {
    match class {
        Class::NotFound
        | Class::Denied
        | Class::WrongResource
        | Class::WrongClient
        | Class::BadExpiry => Health::Alive,
        Class::Unreachable
        | Class::Timeout
        | Class::Updating
        | Class::ServerError
        | Class::UnexpectedStatus
        | Class::TooLong
        | Class::Malformed
        | Class::Untrusted => Health::Trouble,
        // A 429 has a pause of its own, which the budget keeps.
        Class::Throttled
        | Class::Unsupported
        | Class::BadChallenge
        | Class::NoAssertion
        | Class::Lost => Health::Unknown,
    }
}

/// Whether the fifth trouble in a row has come, and not from one or two sick keys alone: those have
/// pauses of their own, and the others are not to suffer from them.
#[must_use]
pub fn trips(troubles: u32, keys: usize) -> bool {
    troubles >= 5 && keys >= 3
}

/// Whether an error cannot be about one key, since the question was not even read, or it says so.
fn concerns_all(error: &FetchError) -> bool {
    error.unheard || matches!(error.class, Class::Updating | Class::Untrusted)
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    trips: Trips,
    /// See [`scaled`](Self::scaled).
    scale: u64,
    /// In a row.
    troubles: u32,
    /// Whose the last of them were, each once, the newest last.
    suspects: VecDeque<KeyName>,
    /// One of them was about the upstream itself.
    all: bool,
    /// The wait before the last probe.
    wait_ms: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// No call before then; the next one is the probe.
    Open {
        /// From when any key's call may be.
        probe_at: UnixMs,
        /// From when that of a key may be that did not fail lately.
        well_at: UnixMs,
    },
    /// This key's call is the probe.
    Probing(KeyId),
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(trips: Trips) -> Self {
        Self {
            trips,
            scale: 1,
            troubles: 0,
            suspects: VecDeque::new(),
            all: false,
            wait_ms: 0,
            state: State::Closed,
        }
    }

    /// For rehearsals: its waits are divided by this.
    #[must_use]
    pub fn scaled(self, scale: u64) -> Self {
        Self { scale, ..self }
    }

    /// The upstream answers.
    pub fn alive(&mut self) {
        self.troubles = 0;
        self.suspects.clear();
        self.all = false;
        self.wait_ms = 0;
        self.state = State::Closed;
    }

    /// A call ended in trouble; `true` if that opened the breaker, or a probe was in vain.
    pub fn trouble(
        &mut self,
        now: UnixMs,
        id: KeyId,
        name: KeyName,
        error: &FetchError,
        jitter: Jitter,
    ) -> bool {
        self.troubles = self.troubles.saturating_add(1);
        self.all |= concerns_all(error);
        self.suspects.retain(|suspect| *suspect != name);
        self.suspects.push_back(name);
        if self.suspects.len() > MAX_SUSPECTS {
            self.suspects.pop_front();
        }
        let keys = if self.all {
            usize::MAX
        } else {
            self.suspects.len()
        };
        let opens = match self.state {
            State::Closed => (self.trips)(self.troubles, keys),
            State::Probing(probe) => probe == id,
            // A straggler of before: the probe will tell.
            State::Open { .. } => false,
        };
        if opens {
            let (first, last) = (FIRST_PROBE_MS / self.scale, MAX_PROBE_MS / self.scale);
            let longest = (2 * self.wait_ms).clamp(2 * first, last);
            self.wait_ms = match error.class {
                Class::Updating => UPDATING_STEP_MS / self.scale,
                _ => between(longest / 2, longest, jitter),
            };
            let asked = asked_ms(error) / self.scale;
            let wait = self.wait_ms.max(asked);
            // As long as few have failed, it may be their own fault.
            let few = keys < MAX_SUSPECTS && asked == 0;
            self.state = State::Open {
                probe_at: now.plus(wait),
                well_at: now.plus(if few { first } else { wait }),
            };
        }
        opens
    }

    /// A call was not made after all, or its end says nothing: if it was the probe, the next call
    /// is.
    pub fn withdrawn(&mut self, now: UnixMs, id: KeyId) {
        if self.state == State::Probing(id) {
            self.state = State::Open {
                probe_at: now,
                well_at: now,
            };
        }
    }

    /// From when a call for this key may start, `now` at the earliest; `None` while one probes.
    #[must_use]
    pub fn free_at(&self, now: UnixMs, name: KeyName) -> Option<UnixMs> {
        match self.state {
            State::Closed => Some(now),
            State::Open { well_at, .. } if !self.suspects(name) => Some(well_at.max(now)),
            State::Open { probe_at, .. } => Some(probe_at.max(now)),
            State::Probing(_) => None,
        }
    }

    /// A call that it allows has started.
    pub fn started(&mut self, id: KeyId) {
        if self.state != State::Closed {
            self.state = State::Probing(id);
        }
    }

    /// Whether another key had better probe, if one is waiting: this one failed lately, which may be
    /// its own fault.
    #[must_use]
    pub fn suspects(&self, name: KeyName) -> bool {
        self.state != State::Closed && self.suspects.contains(&name)
    }

    /// Whether calls flow.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// From when any key's call may probe; `None` unless it is open.
    #[must_use]
    pub fn probe_at(&self) -> Option<UnixMs> {
        match self.state {
            State::Open { probe_at, .. } => Some(probe_at),
            _ => None,
        }
    }

    /// The state's name.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::Probing(_) => "probing",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn open() -> (Breaker, UnixMs) {
        let mut breaker = Breaker::new(trips);
        let error = FetchError::of(Class::ServerError);
        for id in 1..=4 {
            assert!(!breaker.trouble(UnixMs(0), id, KeyName(id), &error, 0.0));
        }
        assert!(breaker.is_closed());
        assert!(breaker.trouble(UnixMs(0), 5, KeyName(5), &error, 0.0));
        let at = breaker.probe_at().expect("open");
        (breaker, at)
    }

    #[test]
    fn five_troubles_in_a_row_open_it_and_one_sign_of_life_begins_anew() {
        let mut breaker = Breaker::new(trips);
        let error = FetchError::of(Class::Timeout);
        for round in 0..10 {
            for id in 0..4 {
                assert!(!breaker.trouble(UnixMs(round), id, KeyName(id), &error, 0.5));
            }
            breaker.alive();
        }
        let (breaker, at) = open();
        assert_eq!(breaker.free_at(UnixMs(1), KeyName(1)), Some(at));
        assert_eq!(breaker.free_at(at, KeyName(1)), Some(at));
        assert_eq!((at, breaker.as_str()), (UnixMs(1000), "open"));
    }

    #[test]
    fn one_or_two_sick_keys_do_not_open_it_but_a_third_or_nobody_there_does() {
        let mut breaker = Breaker::new(trips);
        let error = FetchError::of(Class::ServerError);
        for id in [1, 2].repeat(50) {
            assert!(!breaker.trouble(UnixMs(0), id, KeyName(id), &error, 0.0));
        }
        assert!(
            !breaker.suspects(KeyName(1)),
            "it waits for nobody while calls flow"
        );
        assert!(breaker.trouble(UnixMs(0), 3, KeyName(3), &error, 0.0));
        for class in [Class::Unreachable, Class::Updating, Class::Untrusted] {
            let mut breaker = Breaker::new(trips);
            let error = FetchError::of(class);
            let opened = (0..5).filter(|_| breaker.trouble(UnixMs(0), 1, KeyName(1), &error, 0.0));
            assert_eq!(opened.count(), 1, "{class:?}");
        }
        // One that broke off may be about its question; one that found nobody is not.
        let broken = FetchError {
            unheard: false,
            ..FetchError::of(Class::Unreachable)
        };
        let swallowed = FetchError {
            unheard: true,
            ..FetchError::of(Class::Timeout)
        };
        for (error, opens) in [(broken, 0), (swallowed, 1)] {
            let mut breaker = Breaker::new(trips);
            let trouble = |_: &u32| breaker.trouble(UnixMs(0), 1, KeyName(1), &error, 0.0);
            assert_eq!((0..5).filter(trouble).count(), opens, "{error:?}");
        }
        // A sign of life takes that back.
        let mut breaker = Breaker::new(trips);
        breaker.trouble(
            UnixMs(0),
            1,
            KeyName(1),
            &FetchError::of(Class::Unreachable),
            0.0,
        );
        breaker.alive();
        for _ in 0..9 {
            assert!(!breaker.trouble(UnixMs(0), 1, KeyName(1), &error, 0.0));
        }
    }

    #[test]
    fn the_keys_of_the_last_sixteen_troubles_are_suspects() {
        let mut breaker = Breaker::new(trips);
        let error = FetchError::of(Class::ServerError);
        for id in (1..=17).chain([2]) {
            breaker.trouble(UnixMs(0), id, KeyName(id), &error, 0.0);
        }
        let suspects = (0..20).filter(|id| breaker.suspects(KeyName(*id)));
        assert!(suspects.eq(2..=17));
        breaker.trouble(UnixMs(0), 18, KeyName(18), &error, 0.0);
        assert!(
            breaker.suspects(KeyName(2)) && !breaker.suspects(KeyName(3)),
            "the newest stay"
        );
        breaker.alive();
        assert!((0..20).all(|id| !breaker.suspects(KeyName(id))));
    }

    #[test]
    fn one_call_probes_and_its_end_decides() {
        let (mut breaker, at) = open();
        breaker.started(7);
        assert!(
            breaker.free_at(at.plus(100_000), KeyName(1)).is_none() && breaker.probe_at().is_none()
        );
        let error = FetchError::of(Class::Timeout);
        assert!(
            !breaker.trouble(at, 3, KeyName(3), &error, 0.0),
            "a straggler"
        );
        assert_eq!(breaker.as_str(), "probing");
        assert!(breaker.trouble(at, 7, KeyName(7), &error, 0.0));
        assert_eq!(breaker.as_str(), "open");
        let next = breaker.probe_at().expect("open");
        breaker.started(8);
        breaker.withdrawn(next, 9);
        assert_eq!(breaker.as_str(), "probing", "somebody else's");
        breaker.withdrawn(next, 8);
        assert_eq!(
            breaker.free_at(next, KeyName(7)),
            Some(next),
            "the next call is the probe"
        );
        breaker.started(9);
        breaker.alive();
        assert!(breaker.is_closed() && breaker.free_at(next, KeyName(7)) == Some(next));
    }

    #[test]
    fn probes_are_one_to_fifteen_seconds_apart() {
        for jitter in [0.0, 0.5, 0.999_999] {
            let (mut breaker, mut at) = open();
            for round in 0..20 {
                breaker.started(7);
                assert!(breaker.trouble(
                    at,
                    7,
                    KeyName(7),
                    &FetchError::of(Class::Unreachable),
                    jitter
                ));
                let next = breaker.probe_at().expect("open");
                let wait = next.since(at);
                assert!((1000..=15_000).contains(&wait), "{wait}");
                assert!(round < 15 || jitter < 0.5 || wait > 7000, "{wait}");
                at = next;
            }
        }
    }

    #[test]
    fn the_upstream_may_ask_for_more_and_an_update_takes_steps_of_ten_seconds() {
        let (mut breaker, at) = open();
        breaker.started(7);
        let error = FetchError {
            retry_after: Some(Duration::from_secs(40)),
            ..FetchError::of(Class::ServerError)
        };
        breaker.trouble(at, 7, KeyName(7), &error, 0.5);
        assert_eq!(breaker.probe_at(), Some(at.plus(40_000)));
        let at = at.plus(40_000);
        breaker.started(7);
        breaker.trouble(at, 7, KeyName(7), &FetchError::of(Class::Updating), 0.5);
        assert_eq!(breaker.probe_at(), Some(at.plus(10_000)));
        // Whatever it asks, an update is over within 70 s.
        let at = at.plus(10_000);
        breaker.started(7);
        let error = FetchError {
            retry_after: Some(Duration::from_mins(2)),
            ..FetchError::of(Class::Updating)
        };
        breaker.trouble(at, 7, KeyName(7), &error, 0.5);
        assert_eq!(breaker.probe_at(), Some(at.plus(70_000)));
    }

    #[test]
    fn a_rehearsal_divides_its_waits() {
        let mut breaker = Breaker::new(trips).scaled(100);
        let error = FetchError::of(Class::Unreachable);
        let mut at = UnixMs(0);
        for round in 0..30 {
            breaker.started(1);
            if breaker.trouble(at, 1, KeyName(1), &error, 0.9) {
                let next = breaker.probe_at().expect("open");
                assert!((10..=150).contains(&next.since(at)), "{round}");
                at = next;
            }
        }
        assert!(at > UnixMs(1000), "it opened");
        let mut breaker = Breaker::new(trips).scaled(100);
        let error = FetchError::of(Class::Updating);
        for _ in 0..5 {
            breaker.trouble(UnixMs(0), 1, KeyName(1), &error, 0.9);
        }
        assert_eq!(breaker.probe_at(), Some(UnixMs(100)));
        let error = FetchError {
            retry_after: Some(Duration::from_mins(2)),
            ..FetchError::of(Class::ServerError)
        };
        breaker.started(1);
        breaker.trouble(UnixMs(100), 1, KeyName(1), &error, 0.9);
        assert_eq!(breaker.probe_at(), Some(UnixMs(1300)));
    }

    #[test]
    fn while_few_keys_fail_one_that_does_not_may_probe_after_a_second() {
        let error = FetchError::of(Class::ServerError);
        let (mut breaker, mut at) = open();
        for _ in 0..10 {
            breaker.started(1);
            breaker.trouble(at, 1, KeyName(1), &error, 0.9);
            at = breaker.probe_at().expect("open");
        }
        breaker.started(1);
        breaker.trouble(at, 1, KeyName(1), &error, 0.9);
        let later = breaker.probe_at().expect("open");
        assert!(later.since(at) > 10_000);
        assert_eq!(breaker.free_at(at, KeyName(1)), Some(later));
        assert_eq!(breaker.free_at(at, KeyName(77)), Some(at.plus(1000)));
        // Once many have failed, or it concerns all, or a wait is asked for, nobody goes before.
        for id in 10..30 {
            breaker.trouble(at, id, KeyName(id), &error, 0.9);
        }
        breaker.started(1);
        breaker.trouble(at, 1, KeyName(1), &error, 0.9);
        assert_eq!(breaker.free_at(at, KeyName(77)), breaker.probe_at());
        let asked = FetchError {
            retry_after: Some(Duration::from_secs(9)),
            ..FetchError::of(Class::ServerError)
        };
        for error in [FetchError::of(Class::Unreachable), asked] {
            let (mut breaker, at) = open();
            breaker.started(1);
            breaker.trouble(at, 1, KeyName(1), &error, 0.9);
            assert_eq!(breaker.free_at(at, KeyName(77)), breaker.probe_at());
        }
    }
}
