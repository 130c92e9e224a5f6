//! Plays a scenario: puts the state of each phase in force when its time has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::scenario::{Phase, Scenario, ScenarioState};
use crate::settings::Tuning;
use crate::time;
use crate::world::World;

/// The scenario that is played, if any.
#[derive(Default)]
pub(crate) struct Timeline {
    running: Option<Running>,
}

struct Running {
    scenario: Arc<Scenario>,
    started: Instant,
    /// The tuning before it, to go back to.
    before: Tuning,
    phase: Option<usize>,
    begun: usize,
    ended: bool,
    player: AbortHandle,
}

/// Starts a scenario in place of the one that is played. The first phase is in force when this
/// returns, if it starts at once.
pub(crate) fn start(world: &Arc<World>, scenario: Scenario, runtime: &Handle) {
    stop(world);
    let scenario = Arc::new(scenario);
    world.weather().seed(scenario.seed);
    world.change_plan(|plan| plan.seed(scenario.seed));
    // Held until the timeline knows its player, so that the player finds itself there.
    let mut timeline = world.timeline();
    let started = time::steady();
    let player = runtime.spawn(play(Arc::clone(world), Arc::clone(&scenario), started));
    let running = timeline.running.insert(Running {
        started,
        before: world.tuning(),
        phase: None,
        begun: 0,
        ended: false,
        player: player.abort_handle(),
        scenario,
    });
    let first = running.scenario.phases.first();
    let at_once = first.is_some_and(|first| first.at.is_zero());
    running.enter(world, at_once.then_some(0));
}

/// Ends the scenario that is played, and goes back to what was before it; whether there was one.
pub(crate) fn stop(world: &World) -> bool {
    // Held to the end, so that a player who is about to enter a phase does so before or not at
    // all.
    let mut timeline = world.timeline();
    let Some(running) = timeline.running.take() else {
        return false;
    };
    running.player.abort();
    world.tune(|tuning| *tuning = running.before);
    set_weather(world, &running.scenario, None);
    world.change_plan(|plan| plan.set_by_scenario(&[], &world.kind, time::steady()));
    true
}

/// Where the scenario that is played stands.
pub(crate) fn state(world: &World) -> Option<ScenarioState> {
    let capacity_per_s = world.weather().capacity_per_s();
    let timeline = world.timeline();
    let running = timeline.running.as_ref()?;
    let Running {
        scenario, started, ..
    } = running;
    let at_s = time::steady().duration_since(*started).as_secs_f64() * scenario.scale;
    let at = Duration::try_from_secs_f64(at_s).unwrap_or(Duration::MAX);
    Some(ScenarioState {
        name: scenario.name.clone(),
        scale: scenario.scale,
        at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        phase: running.phase.map(|at| scenario.phases[at].name.clone()),
        phases_begun: running.begun,
        phases: scenario.phases.len(),
        ended: running.ended,
        capacity_per_s,
    })
}

async fn play(world: Arc<World>, scenario: Arc<Scenario>, started: Instant) {
    let until = async |at: Duration| {
        let passed = time::steady().duration_since(started);
        tokio::time::sleep(scenario.scaled(at).saturating_sub(passed)).await;
    };
    let step = |step: &dyn Fn(&mut Running)| {
        let mut timeline = world.timeline();
        // Another scenario may have taken the place of this one just now.
        let own = |running: &&mut Running| Arc::ptr_eq(&running.scenario, &scenario);
        if let Some(running) = timeline.running.as_mut().filter(own) {
            step(running);
        }
    };
    for (at, phase) in scenario.phases.iter().enumerate() {
        if at > 0 || !phase.at.is_zero() {
            until(phase.at).await;
            step(&|running| running.enter(&world, Some(at)));
        }
        let next = scenario.phases.get(at + 1);
        if let (Some(next), Some(end)) = (next, end(phase))
            && end < next.at
        {
            until(end).await;
            step(&|running| running.enter(&world, None));
        }
    }
    if let Some(end) = scenario.length() {
        until(end).await;
    }
    step(&|running| running.ended = true);
}

fn end(phase: &Phase) -> Option<Duration> {
    Some(phase.at.saturating_add(phase.length?))
}

impl Running {
    /// Puts the state of a phase in force, or that of the time between phases.
    fn enter(&mut self, world: &World, at: Option<usize>) {
        let (scenario, before) = (&self.scenario, self.before);
        let phase = at.map(|at| &scenario.phases[at]);
        let limits = phase.and_then(|phase| phase.limits).or(scenario.limits);
        world.tune(|tuning| {
            tuning.limits = limits.unwrap_or(before.limits);
            tuning.lifetime_s = scenario.scaled_lifetime_s().unwrap_or(before.lifetime_s);
            tuning.reissue_below = scenario.reissue_below.unwrap_or(before.reissue_below);
        });
        set_weather(world, scenario, phase);
        let faults = phase.map_or(&[][..], |phase| &phase.faults);
        world.change_plan(|plan| plan.set_by_scenario(faults, &world.kind, time::steady()));
        if phase.is_some_and(|phase| phase.forget_tokens) {
            world.issuer().forget_all();
        }
        self.phase = at;
        self.begun = at.map_or(self.begun, |at| at + 1);
    }
}

fn set_weather(world: &World, scenario: &Scenario, phase: Option<&Phase>) {
    let pressure = phase.and_then(|phase| phase.pressure);
    let mut weather = world.weather();
    weather.set_latency(phase.and_then(|phase| phase.latency.clone()));
    weather.set_pressure(
        pressure.map(|pressure| scenario.scaled_pressure(pressure)),
        time::steady(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask, unlimited, wait_until};
    use crate::{Emulator, Limits};

    /// A scenario whose phases are these lines of TOML.
    fn scenario(phases: &str) -> Scenario {
        let head = "name = 'test'\nscale = 3600\nlifetime = '24h'\nlimits.at_once = 3\n";
        Scenario::from_toml(&format!("{head}{phases}")).unwrap()
    }

    fn active(emulator: &Emulator) -> Vec<String> {
        let active = emulator.active_modes();
        active.into_iter().map(|it| it.mode).collect()
    }

    const BAD_FOR_EVER: &str = "
        [[phase]]
        name = 'bad'
        at = '0s'
        limits = { requests_per_s = 7, at_once = 1 }
        latency = { constant = '1ms' }
        pressure = { from_per_s = 5, to_per_s = 9, heals_in = '365d', setback = '0s' }
        [[phase.fault]]
        mode = 'status-500'
        ";

    #[test]
    fn a_phase_is_in_force_from_the_moment_a_scenario_is_played() {
        let emulator = unlimited();
        emulator.play(scenario(BAD_FOR_EVER));
        assert_eq!(ask(&emulator, "").status, 500);
        let tuning = emulator.tuning();
        let limits = Limits {
            requests_per_s: 7,
            at_once: 1,
        };
        assert_eq!((tuning.limits, tuning.lifetime_s), (limits, 24));
        let state = emulator.scenario().unwrap();
        assert_eq!(
            (state.phase.as_deref(), state.phases_begun),
            (Some("bad"), 1)
        );
        assert!(
            (5.0..5.1).contains(&state.capacity_per_s.unwrap()),
            "{state:?}"
        );
        let five_at_once = [(); 6].map(|()| ask(&emulator, "").status);
        assert_eq!(five_at_once[5], 503, "capacity is short");
    }

    #[test]
    fn a_scenario_that_is_stopped_leaves_nothing_behind() {
        let emulator = unlimited();
        emulator.set_mode("set-cookie").unwrap();
        let before = emulator.tuning();
        emulator.play(scenario(BAD_FOR_EVER));
        emulator.stop_scenario();
        assert_eq!((emulator.tuning(), emulator.scenario()), (before, None));
        assert_eq!(active(&emulator), ["set-cookie"]);
        assert_eq!([(); 9].map(|()| ask(&emulator, "").status), [200; 9]);
    }

    #[test]
    fn phases_follow_each_other_and_the_last_one_stays() {
        let emulator = unlimited();
        let first = ask(&emulator, "").token();
        emulator.play(scenario(
            "[[phase]]\nname = 'one'\nat = '1m'\nfor = '1m'\n[[phase.fault]]\nmode = 'hang'\n
             [[phase]]\nname = 'two'\nat = '3m'\nforget_tokens = true\n
             [[phase]]\nname = 'three'\nat = '4m'\nfor = '1m'\n[[phase.fault]]\nmode = 'html'\n",
        ));
        wait_until(|| emulator.scenario().unwrap().ended);
        let state = emulator.scenario().unwrap();
        assert_eq!(
            (state.phase.as_deref(), state.phases_begun),
            (Some("three"), 3)
        );
        assert!(state.at_ms >= 300_000, "{state:?}");
        assert_eq!(active(&emulator), ["html"]);
        assert_eq!(emulator.tuning().limits.at_once, 3);
        emulator.stop_scenario();
        assert_ne!(ask(&emulator, "").token(), first);
    }

    #[test]
    fn between_two_phases_all_is_well() {
        let emulator = unlimited();
        emulator.play(scenario(
            "[[phase]]\nname = 'one'\nat = '0s'\nfor = '1m'\n[[phase.fault]]\nmode = 'hang'\n
             [[phase]]\nname = 'two'\nat = '365d'\n",
        ));
        wait_until(|| emulator.scenario().unwrap().phase.is_none());
        assert!(active(&emulator).is_empty());
        assert_eq!(emulator.scenario().unwrap().phases_begun, 1);
        assert_eq!(ask(&emulator, "").status, 200);
        assert_eq!(emulator.tuning().lifetime_s, 24, "the scenario goes on");
    }

    #[test]
    fn a_scenario_takes_the_place_of_another() {
        let emulator = unlimited();
        let before = emulator.tuning();
        emulator.play(scenario(BAD_FOR_EVER));
        emulator.play(scenario("[[phase]]\nname = 'calm'\nat = '0s'\n"));
        assert_eq!(ask(&emulator, "").status, 200);
        assert_eq!(emulator.tuning().limits.requests_per_s, 20);
        emulator.stop_scenario();
        assert_eq!(emulator.tuning(), before);
    }
}
