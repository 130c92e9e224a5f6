//! The fake upstream: what it issues, and a calendar of its troubles.

use foretoken::clock::UnixMs;
use foretoken::upstream::{Class, FetchError};

use crate::world::{HOUR_MS, MINUTE_MS};

/// What is wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every call fails like this, after so many milliseconds.
    Out(Class, u16, u64),
    /// So many of a hundred calls are answered with 429 and this `Retry-After`.
    Throttled(u64, Option<u64>),
    /// Calls for every third key are answered like this.
    Some(Class, u16),
    /// Answers take up to the deadline.
    Slow,
    /// A fifth of the calls is lost inside the process.
    Lost,
    /// Calls fail and succeed at random.
    Mixed,
}

/// A fault and its time.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub from: UnixMs,
    pub to: UnixMs,
    pub fault: Fault,
    /// Calls that started in it.
    pub calls: u64,
    /// How many more than for its length it may see: starts of the process reset the breaker.
    pub allowance: u64,
}

impl Window {
    /// An outage for everybody has so many calls at most: the first ones, then probes.
    pub fn most_calls(&self) -> u64 {
        match self.fault {
            Fault::Out(..) => self.allowance + self.to.since(self.from) / 8000,
            _ => u64::MAX,
        }
    }
}

pub struct Upstream {
    pub windows: Vec<Window>,
    /// It repeats a token while more than this share, in hundredths, of its life is left.
    pub repeat_above: u64,
    pub latency_ms: u64,
    /// Token number and end by key.
    issued: Vec<(u64, UnixMs)>,
    random: fastrand::Rng,
    /// Windows before this one are over.
    first: usize,
}

/// What a call will bring, and how long it takes.
pub struct Call {
    pub latency_ms: u64,
    /// The token's number and its end.
    pub answer: Result<(u64, UnixMs), FetchError>,
}

const DEADLINE_MS: u64 = 10_000;

pub fn error(class: Class, status: u16, retry_after_s: Option<u64>) -> FetchError {
    FetchError {
        status: (status > 0).then_some(status),
        retry_after: retry_after_s.map(std::time::Duration::from_secs),
        ..FetchError::of(class)
    }
}

impl Upstream {
    /// A healthy one.
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0xf00d);
        Self {
            windows: Vec::new(),
            repeat_above: [100, 100, 50, 20, 5][random.usize(..5)],
            latency_ms: random.u64(5..250),
            issued: Vec::new(),
            random,
            first: 0,
        }
    }

    /// Every third key is refused.
    pub fn refuse_some(&mut self, from: UnixMs, to: UnixMs) {
        self.windows.push(Window {
            from,
            to,
            fault: Fault::Some(Class::Denied, 400),
            calls: 0,
            allowance: 0,
        });
    }

    /// Troubles until `end`, between them hours of health.
    pub fn draw_faults(&mut self, start: UnixMs, end: UnixMs) {
        let random = &mut self.random;
        let mut at = start;
        loop {
            at = at.plus(random.u64(10 * MINUTE_MS..4 * HOUR_MS));
            if at >= end {
                break;
            }
            let fault = match random.u8(..14) {
                0 | 1 => Fault::Out(Class::ServerError, 500, 50),
                2 => Fault::Out(Class::Unreachable, 0, 5),
                3 => Fault::Out(Class::Timeout, 0, DEADLINE_MS),
                4 => Fault::Throttled(random.u64(20..=100), None),
                5 => Fault::Throttled(random.u64(20..=100), Some(random.u64(1..=120))),
                6 => Fault::Out(Class::Updating, 410, 50),
                7 => Fault::Some(Class::NotFound, 404),
                8 => Fault::Some(Class::Denied, 400),
                9 => Fault::Some(Class::WrongResource, 0),
                10 => Fault::Some(Class::BadExpiry, 0),
                11 => Fault::Slow,
                12 => Fault::Lost,
                _ => Fault::Mixed,
            };
            let longest = match (fault, random.u8(..4)) {
                (Fault::Out(Class::Updating, ..), _) => 3 * MINUTE_MS,
                (Fault::Out(..), 0) => 8 * HOUR_MS,
                (_, 1) => 2 * HOUR_MS,
                _ => 20 * MINUTE_MS,
            };
            let to = at.plus(random.u64(MINUTE_MS..longest));
            self.windows.push(Window {
                from: at,
                to,
                fault,
                calls: 0,
                allowance: 60,
            });
            at = to;
        }
    }

    /// The trouble at `now`, or the next one.
    pub fn window(&mut self, now: UnixMs) -> Option<&mut Window> {
        while self.windows.get(self.first).is_some_and(|w| w.to <= now) {
            self.first += 1;
        }
        self.windows.get_mut(self.first).filter(|w| w.from <= now)
    }

    pub fn call(&mut self, now: UnixMs, key: usize, life_ms: u64) -> Call {
        let fault = self.window(now).map(|window| {
            window.calls += 1;
            window.fault
        });
        let random = &mut self.random;
        let mut latency_ms = random.u64(self.latency_ms / 2..=self.latency_ms);
        let failed = match fault {
            Some(Fault::Out(class, status, ms)) => {
                latency_ms = ms;
                Some(error(class, status, None))
            }
            Some(Fault::Throttled(share, wait)) if random.u64(..100) < share => {
                Some(error(Class::Throttled, 429, wait))
            }
            Some(Fault::Some(class, status)) if key.is_multiple_of(3) => {
                Some(error(class, status, None))
            }
            Some(Fault::Slow) => {
                latency_ms = random.u64(200..DEADLINE_MS + 500);
                (latency_ms >= DEADLINE_MS).then(|| {
                    latency_ms = DEADLINE_MS;
                    error(Class::Timeout, 0, None)
                })
            }
            Some(Fault::Lost) if random.u8(..5) == 0 => Some(error(Class::Lost, 0, None)),
            Some(Fault::Mixed) => match random.u8(..8) {
                0 => Some(error(Class::ServerError, 503, Some(random.u64(1..30)))),
                1 => Some(error(Class::Throttled, 429, None)),
                2 => Some(error(Class::Malformed, 200, None)),
                3 => Some(error(Class::Updating, 410, Some(random.u64(1..70)))),
                4 => Some(error(Class::NotFound, 404, None)),
                _ => None,
            },
            _ => None,
        };
        let answer = match failed {
            Some(error) => Err(error),
            None => Ok(self.issue(now, key, life_ms)),
        };
        Call { latency_ms, answer }
    }

    fn issue(&mut self, now: UnixMs, key: usize, life_ms: u64) -> (u64, UnixMs) {
        if self.issued.len() <= key {
            self.issued.resize(key + 1, (0, UnixMs(0)));
        }
        let held = &mut self.issued[key];
        if held.1.since(now) <= life_ms * self.repeat_above / 100 {
            // Ends are told in whole seconds.
            *held = (held.0 + 1, UnixMs(now.plus(life_ms).as_secs() * 1000));
        }
        *held
    }
}
