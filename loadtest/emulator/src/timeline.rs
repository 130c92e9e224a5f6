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
    let started = time::steady();
    let before = world.tuning();
    world.weather().seed(scenario.seed);
    world.change_plan(|plan| plan.seed(scenario.seed));
    enter(world, &scenario, before, None);
    // Held until the timeline knows its player, so that the player finds it there.
    let mut timeline = world.timeline();
    let player = runtime.spawn(play(
        Arc::clone(world),
        Arc::clone(&scenario),
        started,
        before,
    ));
    timeline.running = Some(Running {
        scenario: Arc::clone(&scenario),
        started,
        before,
        phase: None,
        begun: 0,
        ended: false,
        player: player.abort_handle(),
    });
    drop(timeline);
    if scenario
        .phases
        .first()
        .is_some_and(|first| first.at.is_zero())
    {
        begin(world, &scenario, before, 0);
    }
}

/// Ends the scenario that is played, and goes back to what was before it; whether there was one.
pub(crate) fn stop(world: &World) -> bool {
    let Some(running) = world.timeline().running.take() else {
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

async fn play(world: Arc<World>, scenario: Arc<Scenario>, started: Instant, before: Tuning) {
    let until = async |at: Duration| {
        let passed = time::steady().duration_since(started);
        tokio::time::sleep(scenario.scaled(at).saturating_sub(passed)).await;
    };
    for (at, phase) in scenario.phases.iter().enumerate() {
        if at > 0 || !phase.at.is_zero() {
            until(phase.at).await;
            begin(&world, &scenario, before, at);
        }
        let next = scenario.phases.get(at + 1);
        if let (Some(next), Some(end)) = (next, end(phase))
            && end < next.at
        {
            until(end).await;
            enter(&world, &scenario, before, None);
            note(&world, |running| running.phase = None);
        }
    }
    if let Some(end) = scenario.length() {
        until(end).await;
    }
    note(&world, |running| running.ended = true);
}

fn end(phase: &Phase) -> Option<Duration> {
    Some(phase.at.saturating_add(phase.length?))
}

fn begin(world: &World, scenario: &Scenario, before: Tuning, at: usize) {
    enter(world, scenario, before, Some(&scenario.phases[at]));
    note(world, |running| {
        running.phase = Some(at);
        running.begun = at + 1;
    });
}

fn note(world: &World, change: impl FnOnce(&mut Running)) {
    if let Some(running) = world.timeline().running.as_mut() {
        change(running);
    }
}

/// Puts the state of a phase in force, or that of the time between phases.
fn enter(world: &World, scenario: &Scenario, before: Tuning, phase: Option<&Phase>) {
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
