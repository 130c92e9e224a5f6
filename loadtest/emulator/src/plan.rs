//! Which faults are in force, and which of them the next request or connection meets.
//!
//! Several may be in force. Each takes its share of the requests, drawn from a seeded sequence,
//! so that a run can be repeated; shares that add up to more than everything are cut off in the
//! order in which the faults were set.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::faults::{Accept, Fault, FaultKind};
use crate::{Kind, Mode};

/// A fault of the catalogue, and what it spoils.
///
/// As JSON: `{"mode":"status-503","share":0.5,"times":3,"for_ms":60000,"all_requests":false}`;
/// all but the mode may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// The name of the mode.
    pub mode: String,
    /// The share of requests that it spoils: above 0, at most 1.
    #[serde(default = "everything")]
    pub share: f64,
    /// How many more requests it spoils; `None` for any number.
    #[serde(default)]
    pub times: Option<u32>,
    /// How many more milliseconds it is in force; `None` until it is cleared.
    #[serde(default)]
    pub for_ms: Option<u64>,
    /// Whether it spoils every request instead of only those that would be granted a token.
    #[serde(default)]
    pub all_requests: bool,
}

fn everything() -> f64 {
    1.0
}

impl Planned {
    /// This mode, for every token request until it is cleared.
    #[must_use]
    pub fn new(mode: impl Into<String>) -> Self {
        Self {
            mode: mode.into(),
            share: everything(),
            times: None,
            for_ms: None,
            all_requests: false,
        }
    }

    /// The same for this many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// The same for this many milliseconds.
    #[must_use]
    pub fn for_ms(self, for_ms: u64) -> Self {
        Self {
            for_ms: Some(for_ms),
            ..self
        }
    }

    /// The same for this share of the requests.
    #[must_use]
    pub fn share(self, share: f64) -> Self {
        Self { share, ..self }
    }

    /// The same for every request instead of only for token requests.
    #[must_use]
    pub fn for_all_requests(self) -> Self {
        Self {
            all_requests: true,
            ..self
        }
    }
}

impl From<&str> for Planned {
    fn from(mode: &str) -> Self {
        Self::new(mode)
    }
}

/// Why a mode cannot be put in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// No mode has this name; with the nearest one that there is.
    #[error("there is no fault mode `{name}`; did you mean `{nearest}`?")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The name most like it.
        nearest: &'static str,
    },
    /// The mode makes no sense for the kind that is played.
    #[error("the fault mode `{name}` does not apply to --kind {kind}: {about}")]
    NotApplicable {
        /// The mode.
        name: &'static str,
        /// The kind that is played.
        kind: &'static str,
        /// What the mode is about.
        about: &'static str,
    },
    /// A share that is none.
    #[error("a share is above 0 and at most 1")]
    Share,
    /// A closed listener meets no request that could be counted or drawn.
    #[error("`{0}` closes the listener for everyone: it takes neither `share` nor `times`")]
    WholeListener(&'static str),
}

/// The faults in force.
pub(crate) struct Plan {
    active: Vec<Active>,
    dice: fastrand::Rng,
    /// How often a fault of connecting was set.
    door_state: u64,
}

struct Active {
    mode: Option<&'static Mode>,
    fault: Fault,
    share: f64,
    until: Option<Instant>,
    by_scenario: bool,
}

/// A fault that a request has met.
pub(crate) struct Hit {
    pub kind: FaultKind,
    /// The name of its mode; faults without one count under `unnamed`.
    pub name: &'static str,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            active: Vec::new(),
            dice: fastrand::Rng::with_seed(seed),
            door_state: 0,
        }
    }

    /// Starts the sequence of draws again.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.dice = fastrand::Rng::with_seed(seed);
    }

    /// Puts one fault in force in place of all others, or none.
    pub(crate) fn set(&mut self, fault: Option<Fault>) {
        self.active.clear();
        if let Some(fault) = fault {
            self.push(Active {
                mode: None,
                fault,
                share: 1.0,
                until: None,
                by_scenario: false,
            });
        }
    }

    fn push(&mut self, active: Active) {
        self.door_state += u64::from(active.fault.is_of_connections());
        self.active.push(active);
    }

    /// Puts a mode in force beside the others; one of the same name gives way.
    pub(crate) fn add(
        &mut self,
        planned: &Planned,
        kind: &Kind,
        now: Instant,
    ) -> Result<(), ModeError> {
        let active = activate(planned, kind, now)?;
        self.active
            .retain(|it| it.by_scenario || it.name() != planned.mode);
        self.push(active);
        Ok(())
    }

    /// Puts the modes of a scenario in force in place of those it set before.
    pub(crate) fn set_by_scenario(&mut self, planned: &[Planned], kind: &Kind, now: Instant) {
        self.active.retain(|it| !it.by_scenario);
        for planned in planned {
            // The names were checked when the scenario was read, all but whether the kind has
            // a use for them: what makes no sense for it does not happen to it.
            if let Ok(active) = activate(planned, kind, now) {
                self.push(Active {
                    by_scenario: true,
                    ..active
                });
            }
        }
    }

    /// Takes a mode away; whether it was in force.
    pub(crate) fn clear(&mut self, name: &str) -> bool {
        let before = self.active.len();
        self.active.retain(|it| it.name() != name);
        self.active.len() < before
    }

    /// What is in force and has a name, with what is left of it.
    pub(crate) fn planned(&mut self, now: Instant) -> Vec<Planned> {
        self.forget_ended(now);
        let named = self.active.iter().filter(|it| it.mode.is_some());
        named
            .map(|it| Planned {
                mode: it.name().to_owned(),
                share: it.share,
                times: it.fault.times,
                for_ms: it.until.map(|until| millis(until.duration_since(now))),
                all_requests: it.fault.all_requests,
            })
            .collect()
    }

    /// The first fault in force, with or without a name.
    pub(crate) fn first(&mut self, now: Instant) -> Option<&Fault> {
        self.forget_ended(now);
        self.active.first().map(|it| &it.fault)
    }

    /// The failure of the next request; uses up one of its times.
    pub(crate) fn next(&mut self, would_be_granted: bool, now: Instant) -> Option<Hit> {
        self.draw(now, |fault| {
            !fault.is_of_connections() && (fault.all_requests || would_be_granted)
        })
    }

    /// The failure of the next connection; uses up one of its times.
    pub(crate) fn next_connection(&mut self, now: Instant) -> Option<(Accept, &'static str)> {
        match self.draw(now, Fault::is_of_connections)? {
            Hit {
                kind: FaultKind::Accept { how },
                name,
            } => Some((how, name)),
            Hit { .. } => None,
        }
    }

    /// Whether the listener is to be closed or filled, and until when if that is known.
    pub(crate) fn whole_listener(&mut self, now: Instant) -> Option<(Accept, Option<Instant>)> {
        self.forget_ended(now);
        self.active.iter().find_map(|it| match &it.fault.kind {
            FaultKind::Accept {
                how: how @ (Accept::Refuse | Accept::Full),
            } => Some((how.clone(), it.until)),
            _ => None,
        })
    }

    /// Another number whenever a fault of connecting was set.
    pub(crate) fn door_state(&self) -> u64 {
        self.door_state
    }

    fn draw(&mut self, now: Instant, eligible: impl Fn(&Fault) -> bool) -> Option<Hit> {
        self.forget_ended(now);
        let certain = |it: &&Active| it.share < 1.0 && eligible(&it.fault);
        // No draw where nothing is left to chance, so that a fault for all leaves the sequence
        // as it is.
        let drawn = match self.active.iter().find(certain) {
            Some(_) => self.dice.f64(),
            None => 0.0,
        };
        let mut up_to = 0.0;
        let at = self.active.iter().position(|it| {
            up_to += if eligible(&it.fault) { it.share } else { 0.0 };
            drawn < up_to
        })?;
        let active = &mut self.active[at];
        if let Some(times) = &mut active.fault.times {
            *times = times.saturating_sub(1);
        }
        Some(Hit {
            kind: active.fault.kind.clone(),
            name: active.name(),
        })
    }

    fn forget_ended(&mut self, now: Instant) {
        self.active
            .retain(|it| it.fault.times != Some(0) && it.until.is_none_or(|until| until > now));
    }
}

impl Active {
    fn name(&self) -> &'static str {
        self.mode.map_or("unnamed", Mode::name)
    }
}

impl Fault {
    fn is_of_connections(&self) -> bool {
        matches!(self.kind, FaultKind::Accept { .. })
    }
}

fn activate(planned: &Planned, kind: &Kind, now: Instant) -> Result<Active, ModeError> {
    let mode = Mode::find(&planned.mode)?;
    let spoils = mode.fault(kind).ok_or(ModeError::NotApplicable {
        name: mode.name(),
        kind: kind.name(),
        about: mode.about(),
    })?;
    if !(planned.share > 0.0 && planned.share <= 1.0) {
        return Err(ModeError::Share);
    }
    let whole_listener = matches!(
        spoils,
        FaultKind::Accept {
            how: Accept::Refuse | Accept::Full
        }
    );
    if whole_listener && (planned.share < 1.0 || planned.times.is_some()) {
        return Err(ModeError::WholeListener(mode.name()));
    }
    Ok(Active {
        mode: Some(mode),
        fault: Fault {
            kind: spoils,
            times: planned.times,
            all_requests: planned.all_requests,
        },
        share: planned.share,
        until: planned
            .for_ms
            .and_then(|ms| now.checked_add(Duration::from_millis(ms))),
        by_scenario: false,
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::steady;

    fn plan(planned: &[Planned]) -> Plan {
        let mut plan = Plan::new(7);
        for planned in planned {
            plan.add(planned, &Kind::Imds, steady()).unwrap();
        }
        plan
    }

    fn name(hit: Option<Hit>) -> Option<&'static str> {
        hit.map(|hit| hit.name)
    }

    #[test]
    fn a_fault_with_times_ends_by_itself() {
        let (mut plan, now) = (Plan::new(1), steady());
        plan.set(Some(Fault::times(FaultKind::Hang, 2)));
        assert!(plan.next(false, now).is_none());
        assert!(plan.next(true, now).is_some());
        assert!(plan.next(true, now).is_some());
        assert!(plan.next(true, now).is_none());
        assert_eq!(plan.first(now), None);
    }

    #[test]
    fn a_fault_for_all_requests_spoils_refusals_too() {
        let mut plan = plan(&[Planned::new("reset").for_all_requests()]);
        assert_eq!(name(plan.next(false, steady())), Some("reset"));
    }

    #[test]
    fn a_mode_ends_when_its_time_is_over() {
        let (mut plan, now) = (Plan::new(1), steady());
        let planned = Planned::new("hang").for_ms(500);
        plan.add(&planned, &Kind::Imds, now).unwrap();
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(plan.planned(at(100))[0].for_ms, Some(400));
        assert_eq!(name(plan.next(true, at(499))), Some("hang"));
        assert_eq!(name(plan.next(true, at(500))), None);
        assert_eq!(plan.planned(at(500)), []);
    }

    #[test]
    fn a_mode_that_is_set_again_gives_way_to_itself() {
        let mut plan = plan(&[Planned::new("hang").times(5), Planned::new("hang").times(2)]);
        assert_eq!(plan.planned(steady()), [Planned::new("hang").times(2)]);
    }

    #[test]
    fn shares_are_kept_and_repeat_with_the_seed() {
        let shares = [
            Planned::new("status-500").share(0.25),
            Planned::new("status-503").share(0.5),
        ];
        let draw = || {
            let mut plan = plan(&shares);
            let names = (0..1000).map(|_| name(plan.next(true, steady())));
            names.collect::<Vec<_>>()
        };
        let drawn = draw();
        assert_eq!(drawn, draw());
        let count = |wanted| drawn.iter().filter(|it| **it == wanted).count();
        assert!((200..300).contains(&count(Some("status-500"))));
        assert!((450..550).contains(&count(Some("status-503"))));
        assert!((200..300).contains(&count(None)));
    }

    #[test]
    fn modes_of_a_scenario_give_way_to_its_next_ones_and_not_to_others() {
        let (now, kind) = (steady(), Kind::Imds);
        let mut plan = plan(&["hang".into()]);
        plan.set_by_scenario(&["reset".into(), "dns-failure".into()], &kind, now);
        let names = |plan: &mut Plan| -> Vec<_> {
            plan.planned(now).into_iter().map(|it| it.mode).collect()
        };
        assert_eq!(names(&mut plan), ["hang", "reset"]);
        plan.set_by_scenario(&[], &kind, now);
        assert_eq!(names(&mut plan), ["hang"]);
        assert!(plan.clear("hang") && !plan.clear("hang"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut plan = Plan::new(1);
        let mut refused = |planned: Planned, kind: &Kind| {
            plan.add(&planned, kind, steady()).unwrap_err().to_string()
        };
        assert_eq!(
            refused("status-530".into(), &Kind::Imds),
            "there is no fault mode `status-530`; did you mean `status-500`?"
        );
        let share = Planned::new("hang").share(0.0);
        assert_eq!(
            refused(share, &Kind::Imds),
            "a share is above 0 and at most 1"
        );
        let times = Planned::new("connect-refused").times(1);
        assert!(refused(times, &Kind::Imds).starts_with("`connect-refused` closes the listener"));
        let elsewhere = refused("exception-as-200".into(), &Kind::Imds);
        assert!(
            elsewhere.contains("does not apply to --kind imds"),
            "{elsewhere}"
        );
    }
}
