//! Which request of one thread comes next, and when it is due.

use std::time::{Duration, Instant};

use crate::plan::{Length, Pace, Plan};

/// The requests of one thread.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    /// Nanoseconds between the requests of all threads, as a fraction of this many threads in a
    /// second of this many requests; nothing in a closed loop.
    open: Option<Open>,
    /// From when on requests count.
    pub(crate) measured_from: Instant,
    /// No request is begun from then on; nothing if they are counted.
    end: Option<Instant>,
    left: u64,
    begun: u64,
    /// No request before.
    from: Duration,
}

#[derive(Debug)]
struct Open {
    thread: u64,
    threads: u64,
    per_s: u64,
}

impl Schedule {
    /// `thread` counts those of all processes.
    pub(crate) fn new(plan: &Plan, thread: usize, start: Instant) -> Self {
        let (thread, threads) = (thread as u64, plan.workers() as u64);
        let measured_from = start + plan.warm_up;
        let open = match plan.pace {
            Pace::Closed => None,
            Pace::Open { per_s } => Some(Open {
                thread,
                threads,
                per_s: per_s.into(),
            }),
        };
        let (end, left) = match plan.length {
            Length::For(length) => (Some(measured_from + length), u64::MAX),
            Length::Requests(count) => {
                (None, count / threads + u64::from(thread < count % threads))
            }
        };
        Self {
            start,
            open,
            measured_from,
            end,
            left,
            begun: 0,
            from: Duration::ZERO,
        }
        .during(plan.after, None)
    }

    /// Only those due from the one moment to before the other, both since the start: a process that
    /// lives no longer asks no more, and what was due before it was there is nobody's.
    pub(crate) fn during(mut self, from: Duration, until: Option<Duration>) -> Self {
        if let Some(until) = until.map(|until| self.start + until) {
            self.end = Some(self.end.map_or(until, |end| end.min(until)));
        }
        self.from = self.from.max(from);
        if let Some(open) = &self.open {
            while open.after(self.begun) < from {
                self.begun += 1;
            }
        }
        self
    }

    /// When the next request is due: in a closed loop now. Nothing if there is none any more.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let due = match &self.open {
            None => now.max(self.start + self.from),
            Some(open) => self.start + open.after(self.begun),
        };
        let in_time = self.end.is_none_or(|end| due < end);
        (self.left > 0 && in_time).then_some(due)
    }

    /// The request that was due has been begun. Those of the warm-up are not of those counted.
    pub(crate) fn begin(&mut self, due: Instant) {
        self.begun += 1;
        if due >= self.measured_from {
            self.left = self.left.saturating_sub(1);
        }
    }
}

impl Open {
    /// When this thread's request of that number is due: threads take turns.
    fn after(&self, number: u64) -> Duration {
        let turn = u128::from(number * self.threads + self.thread);
        let nanos = turn * 1_000_000_000 / u128::from(self.per_s);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pace: Pace, length: Length) -> Plan {
        Plan {
            pace,
            length,
            threads: 2,
            links: 2,
            warm_up: Duration::from_secs(1),
            ..Plan::new("unix:/x".parse().unwrap())
        }
    }

    fn dues(plan: &Plan, thread: usize) -> Vec<Duration> {
        let start = crate::clock::steady();
        let mut schedule = Schedule::new(plan, thread, start);
        let mut dues = Vec::new();
        while let Some(due) = schedule.due(start + Duration::from_secs(1)) {
            schedule.begin(due);
            dues.push(due - start);
        }
        dues
    }

    #[test]
    fn in_an_open_loop_threads_take_turns_and_the_rate_is_exact() {
        let open = plan(Pace::Open { per_s: 3 }, Length::For(Duration::from_secs(2)));
        let mut all = [dues(&open, 0), dues(&open, 1)].concat();
        all.sort();
        let thirds = (0..9).map(|n| Duration::from_nanos(n * 1_000_000_000 / 3));
        assert_eq!(all, thirds.collect::<Vec<_>>(), "3 s with the warm-up");
    }

    #[test]
    fn processes_after_each_other_send_each_request_once() {
        let open = plan(
            Pace::Open { per_s: 10 },
            Length::For(Duration::from_secs(1)),
        );
        let start = crate::clock::steady();
        let within = |from_ms, until_ms| {
            let (from, until) = (
                Duration::from_millis(from_ms),
                Duration::from_millis(until_ms),
            );
            let mut schedule = Schedule::new(&open, 0, start).during(from, Some(until));
            let mut dues = Vec::new();
            while let Some(due) = schedule.due(start) {
                schedule.begin(due);
                dues.push(due - start);
            }
            dues
        };
        let parts = [within(0, 350), within(350, 1_200), within(1_200, 5_000)];
        assert_eq!(parts.concat(), dues(&open, 0), "{parts:?}");
        assert_eq!(parts[0].len(), 2);
    }

    #[test]
    fn counted_requests_are_shared_out_and_the_warm_up_is_not_of_them() {
        let counted = plan(Pace::Open { per_s: 10 }, Length::Requests(7));
        assert_eq!(
            (dues(&counted, 0).len(), dues(&counted, 1).len()),
            (5 + 4, 5 + 3)
        );
        let closed = plan(Pace::Closed, Length::Requests(7));
        assert_eq!((dues(&closed, 0).len(), dues(&closed, 1).len()), (4, 3));
    }
}
