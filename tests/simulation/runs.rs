//! Which runs there are: small ones under `cargo test`, large ones by `./recipes simulate`, and
//! runs with a broken rule, which the checker has to notice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use foretoken::cache::serve_until;
use foretoken::clock::{Clock, UnixMs};

use crate::checker::Figures;
use crate::world::{Plan, run};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// Runs many seeds on all processors.
fn run_all(plans: &[Plan]) -> Vec<(u64, Result<Figures, String>)> {
    let (next, results) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(plans.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = usize::try_from(at).ok().and_then(|at| plans.get(at)) else {
                        break;
                    };
                    let result = run(*plan);
                    results.lock().expect("no panic").push((plan.seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no panic");
    results.sort_by_key(|(seed, _)| *seed);
    results
}

#[test]
fn every_invariant_holds_on_every_step() {
    let hours = number("FORETOKEN_HOURS").unwrap_or(12);
    let keys = number("FORETOKEN_KEYS").unwrap_or(50);
    let seeds = match number("FORETOKEN_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("FORETOKEN_SEEDS").unwrap_or(6),
    };
    let keys = usize::try_from(keys).expect("a number of keys");
    let plans: Vec<_> = seeds.map(|seed| Plan::new(seed, hours, keys)).collect();
    let begin = Clock::system().now();
    let results = run_all(&plans);
    let mut broken = 0;
    let mut sum = Figures::default();
    for (seed, result) in &results {
        match result {
            Ok(figures) => sum.add(figures),
            Err(words) => {
                broken += 1;
                if broken <= 3 {
                    println!(
                        "{words}\nreplay: FORETOKEN_SEED={seed} FORETOKEN_HOURS={hours} FORETOKEN_KEYS={keys}\n"
                    );
                }
            }
        }
    }
    println!(
        "{} seeds x {hours} h x {keys} keys in {} ms: {sum:?}",
        results.len(),
        Clock::system().now().since(begin)
    );
    assert_eq!(broken, 0, "of {} seeds", results.len());
}

#[test]
fn a_seed_replays() {
    let plan = Plan::new(3, 8, 30);
    assert_eq!(run(plan), run(plan));
}

/// A rule that is broken, and the invariants one of which has to notice.
fn bites(name: &str, expected: &[&str], spoil: impl Fn(&mut Plan)) {
    let plans = (1..=10).map(|seed| Plan::new(seed, 24, 50)).collect();
    bites_in(plans, name, expected, spoil);
}

fn bites_in(mut plans: Vec<Plan>, name: &str, expected: &[&str], spoil: impl Fn(&mut Plan)) {
    plans.iter_mut().for_each(spoil);
    let results = run_all(&plans);
    let noticed: Vec<_> = results
        .iter()
        .filter_map(|(_, result)| result.as_ref().err())
        .collect();
    assert!(!noticed.is_empty(), "{name}: nobody noticed");
    for words in &noticed {
        assert!(
            expected.iter().any(|rule| words.starts_with(rule)),
            "{name} is noticed as something else: {words}"
        );
    }
    let first = noticed[0].lines().next().unwrap_or_default();
    println!(
        "{name}: noticed in {} of {} seeds: {first}",
        noticed.len(),
        plans.len()
    );
}

#[test]
fn a_token_served_past_its_end_is_noticed() {
    bites("fresh for a minute too long", &["I2"], |plan| {
        plan.freshness = |lifetime| serve_until(lifetime).plus(75_000);
    });
}

#[test]
fn renewals_that_never_come_are_noticed() {
    bites("never due", &["I10"], |plan| {
        plan.rules.due_at = |_, _, _| UnixMs(u64::MAX);
    });
}

#[test]
fn repeated_tokens_that_are_never_asked_about_again_are_noticed() {
    bites("never due after the same token", &["I10"], |plan| {
        plan.rules.due_after_same = |_, _, _, _| UnixMs(u64::MAX);
    });
}

#[test]
fn failures_without_a_pause_are_noticed() {
    bites("no pause", &["U-3"], |plan| {
        plan.rules.pause_ms = |_, _, _, _, _| 0;
    });
}

#[test]
fn a_breaker_that_never_opens_is_noticed() {
    bites("no breaker", &["U-3 tries in an outage"], |plan| {
        plan.rules.trips = |_, _| false;
    });
}

#[test]
fn renewals_that_never_go_first_are_noticed() {
    let plans = (1..=2).map(crowded).collect();
    bites_in(plans, "never urgent", &["I10"], |plan| {
        plan.rules.urgent_from = |_| UnixMs(u64::MAX);
    });
}

/// More callers of keys that are refused than the budget has calls.
fn crowded(seed: u64) -> Plan {
    Plan {
        refused: true,
        ..Plan::new(seed, 2, 330)
    }
}

#[test]
fn the_rules_as_they_are_pass_where_the_broken_ones_do_not() {
    let plans = (1..=10).map(|seed| Plan::new(seed, 24, 50));
    let plans: Vec<_> = plans.chain((1..=2).map(crowded)).collect();
    for (_, result) in run_all(&plans) {
        result.expect("no invariant breaks");
    }
}
