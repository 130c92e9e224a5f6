//! A bar on standard error while a load runs, if that is a terminal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foretoken_load::compare::Step;
use foretoken_load::{Length, Moment, Plan};
use indicatif::{ProgressBar, ProgressStyle};

/// The progress of all loads.
pub struct Progress {
    bar: ProgressBar,
    /// Requests of each load.
    requests: Vec<AtomicU64>,
    by_count: bool,
}

impl Progress {
    /// By time, or by requests if any load ends by their count.
    pub fn new<'a>(plans: impl Iterator<Item = &'a Plan>) -> Self {
        let (mut longest, mut count, mut loads) = (Duration::ZERO, None, Vec::new());
        for plan in plans {
            loads.push(AtomicU64::new(0));
            match plan.length {
                Length::For(length) => longest = longest.max(plan.warm_up + length),
                Length::Requests(more) => count = Some(count.unwrap_or(0) + more),
            }
        }
        let bar = ProgressBar::new(count.unwrap_or_else(|| millis(longest)));
        let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {msg}");
        bar.set_style(style.expect("a template that is right"));
        Self {
            bar,
            requests: loads,
            by_count: count.is_some(),
        }
    }

    /// Takes what happened in a load.
    pub fn tell(&self, load: usize, moment: Moment) {
        let Moment::Progress { requests, elapsed } = moment else {
            return;
        };
        self.requests[load].store(requests, Ordering::Relaxed);
        let all = self
            .requests
            .iter()
            .map(|one| one.load(Ordering::Relaxed))
            .sum();
        self.bar
            .set_position(if self.by_count { all } else { millis(elapsed) });
        self.bar.set_message(format!("{all} requests"));
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The progress of a comparison.
pub struct Rounds(ProgressBar);

impl Rounds {
    /// Nothing yet.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {pos}/{len} {msg}");
        bar.set_style(style.expect("a template that is right"));
        Self(bar)
    }

    /// Takes what is done now.
    pub fn tell(&self, step: &Step) {
        self.0.set_length(step.of as u64);
        self.0.set_position(step.done as u64);
        self.0.set_message(step.now.clone());
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
