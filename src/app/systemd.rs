//! What the supervisor is told: that tokens are served, that every thread turns, that we stop.
//!
//! The protocol is systemd's `sd_notify(3)`. Where `NOTIFY_SOCKET` is not set nobody listens, and
//! nothing is said. The variables stay set: no other program is started from here.

use std::time::Duration;

use sd_notify::NotifyState;

use super::App;
use super::lifecycle::LOOK;
use crate::telemetry::pulse::Pulses;

/// Speaks to the supervisor from the moment that tokens are served.
pub(super) struct Supervisor {
    watchdog: Option<Watchdog>,
    serving: String,
}

impl Supervisor {
    /// Says that tokens are served, and where.
    pub(super) fn serving(app: &App) -> Self {
        let addresses: Vec<_> = app.addresses().iter().map(ToString::to_string).collect();
        let serving = format!("serving tokens on {}", addresses.join(", "));
        // A line to the supervisor ends at a line's end, which a path may contain.
        let serving = serving.replace(char::is_control, "?");
        tell(&[NotifyState::Ready, NotifyState::Status(&serving)]);
        let limit = sd_notify::watchdog_enabled();
        let watchdog = limit.map(|limit| Watchdog::new(limit, app.pulses()));
        Self { watchdog, serving }
    }

    /// Beats if it is time and every thread turns. To be called once every [`LOOK`].
    pub(super) fn look(&mut self) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        match watchdog.look() {
            Found::TooEarly | Found::StillHanging => {}
            Found::Turning => tell(&[NotifyState::Watchdog]),
            Found::TurningAgain => {
                tracing::info!("every thread turns again");
                tell(&[NotifyState::Watchdog, NotifyState::Status(&self.serving)]);
            }
            Found::Hanging(threads) => {
                tracing::error!(threads, "threads hang: the watchdog gets no beat");
                tell(&[NotifyState::Status(&format!("threads hang: {threads}"))]);
            }
        }
    }
}

/// Says that no more tokens are served.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!(%error, "the supervisor cannot be told how we are");
    }
}

/// When to beat. A thread that hangs ends the process one limit to one and a half after it stopped
/// turning; for less than a limit it may hang.
struct Watchdog {
    pulses: Pulses,
    /// Looks from one beat to the next: half of the limit, as `sd_watchdog_enabled(3)` asks.
    every: u64,
    looks: u64,
    hanging: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    TooEarly,
    Turning,
    TurningAgain,
    /// These, for the first time.
    Hanging(String),
    StillHanging,
}

impl Watchdog {
    fn new(limit: Duration, pulses: Pulses) -> Self {
        Self {
            pulses,
            every: (limit.as_secs() / 2 / LOOK.as_secs()).max(1),
            looks: 0,
            hanging: false,
        }
    }

    fn look(&mut self) -> Found {
        self.looks += 1;
        if self.looks < self.every {
            return Found::TooEarly;
        }
        // As long as somebody hangs, each look is a try: a beat that is late beats none.
        let hanging = self.pulses.hanging().join(", ");
        let before = std::mem::replace(&mut self.hanging, !hanging.is_empty());
        match (before, self.hanging) {
            (false, true) => Found::Hanging(hanging),
            (true, true) => Found::StillHanging,
            (_, false) => {
                self.looks = 0;
                if before {
                    Found::TurningAgain
                } else {
                    Found::Turning
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::pulse::Pulse;

    #[test]
    fn the_watchdog_gets_a_beat_at_half_of_its_limit_while_all_threads_turn() {
        let (worker, refresh) = (Pulse::new("serve-0"), Pulse::new("refresh"));
        let pulses = Pulses::new([worker.clone(), refresh.clone()]);
        let mut watchdog = Watchdog::new(Duration::from_secs(6), pulses);
        let mut look = |turning: &[&Pulse]| {
            turning.iter().for_each(|pulse| pulse.beat());
            watchdog.look()
        };
        let all = [&worker, &refresh];
        for _ in 0..2 {
            assert_eq!(look(&all), Found::TooEarly);
            assert_eq!(look(&all), Found::TooEarly);
            assert_eq!(look(&all), Found::Turning);
        }
        // One that hangs is enough for silence, which is explained once.
        assert_eq!(look(&[&worker]), Found::TooEarly);
        assert_eq!(look(&[&worker]), Found::TooEarly);
        assert_eq!(look(&[&worker]), Found::Hanging("refresh".into()));
        for _ in 0..10 {
            assert_eq!(look(&[&worker]), Found::StillHanging);
        }
        assert_eq!(look(&[&refresh]), Found::TurningAgain);
        assert_eq!(look(&[&refresh]), Found::TooEarly);
        assert_eq!(look(&[&refresh]), Found::TooEarly);
        assert_eq!(look(&[&refresh]), Found::Hanging("serve-0".into()));
        assert_eq!(look(&[&worker]), Found::TurningAgain);
    }

    #[test]
    fn a_limit_of_nothing_is_looked_after_as_often_as_can_be() {
        let pulse = Pulse::new("a");
        let mut watchdog = Watchdog::new(Duration::ZERO, Pulses::new([pulse.clone()]));
        pulse.beat();
        assert_eq!(watchdog.look(), Found::Turning);
    }
}
