use super::*;

const HOUR_MS: u64 = 3_600_000;
const START: UnixMs = UnixMs(1_767_225_600_000);

fn worker(max_in_flight: usize) -> Worker {
    Worker::new(Settings {
        max_in_flight,
        max_per_second: 2000,
        outage_to_survive_ms: 0,
        rules: Rules::default(),
        seed: 7,
        ..Settings::default()
    })
}

fn token(received_at: UnixMs, life_ms: u64) -> Lifetime {
    Lifetime {
        received_at,
        expires_on_s: received_at.plus(life_ms).as_secs(),
        not_before_s: None,
        refresh_in_s: None,
    }
}

fn error(class: Class, retry_after_s: Option<u64>) -> FetchError {
    FetchError {
        retry_after: retry_after_s.map(Duration::from_secs),
        ..FetchError::of(class)
    }
}

fn demand(worker: &mut Worker, now: UnixMs, id: KeyId) -> Vec<Action> {
    worker
        .step(now, Event::Demanded(id, KeyName(id), false))
        .actions
}

fn fail(worker: &mut Worker, now: UnixMs, id: KeyId, class: Class) -> Vec<Action> {
    let event = Event::Failed(id, error(class, None));
    worker.step(now, event).actions
}

fn fetched(worker: &mut Worker, now: UnixMs, id: KeyId) -> Vec<Action> {
    let event = Event::Fetched(id, token(now, HOUR_MS), false);
    worker.step(now, event).actions
}

fn is_called(actions: &[Action], id: KeyId) -> bool {
    actions.contains(&Action::Fetch(id))
}

/// The first key that is called.
fn called(actions: &[Action]) -> KeyId {
    let called = actions.iter().find_map(|action| match action {
        Action::Fetch(id) => Some(*id),
        _ => None,
    });
    called.expect("somebody is next")
}

fn refusal(actions: &[Action], id: KeyId) -> Option<&FetchError> {
    actions.iter().find_map(|action| match action {
        Action::Refuse(refused, error) if *refused == id => Some(&**error),
        _ => None,
    })
}

/// Wakes it as it asks until something other than waiting is to be done.
fn next(worker: &mut Worker, mut now: UnixMs) -> (UnixMs, Vec<Action>) {
    loop {
        let step = worker.step(now, Event::Woken);
        if !step.actions.is_empty() {
            return (now, step.actions);
        }
        let later = step.wake_at.expect("something is planned");
        assert!(later > now, "it stands still");
        now = later;
    }
}

/// Cold keys 101 to 105 fail in a row; says what followed and when the probe may start.
fn trip(worker: &mut Worker, now: UnixMs) -> (Vec<Action>, UnixMs) {
    let mut actions = Vec::new();
    for id in 101..=105 {
        demand(worker, now, id);
    }
    for id in 101..=105 {
        assert_eq!(worker.breaker(), "closed");
        actions.extend(fail(worker, now, id, Class::ServerError));
    }
    assert_eq!(worker.breaker(), "open");
    let probe_at = worker.breaker.probe_at().expect("an open breaker");
    (actions, probe_at)
}

#[test]
fn a_cold_key_is_refused_at_once_while_open_and_told_when_the_probe_is_due() {
    let mut worker = worker(10);
    let (_, probe_at) = trip(&mut worker, START);
    let actions = demand(&mut worker, START.plus(10), 1);
    let told = refusal(&actions, 1).expect("a refusal");
    assert_eq!(told.class, Class::ServerError);
    let wait = told.retry_after.expect("a wait").as_secs();
    assert!(actions.contains(&Action::Retire(1)) && !is_called(&actions, 1));
    // It did not fail itself, so it may probe a second after the last one.
    assert!(wait == 1 && probe_at > START.plus(1000));
    // The five that failed have to wait for longer, and are told so.
    let now = START.plus(6000);
    worker.step(now, Event::Woken);
    worker.breaker.started(1);
    let down = error(Class::ServerError, None);
    worker.breaker.trouble(now, 1, KeyName(1), &down, 0.9);
    let probe_at = worker.breaker.probe_at().expect("open again");
    let actions = demand(&mut worker, now, 101);
    let told = refusal(&actions, 101).expect("a refusal");
    let wait = told.retry_after.expect("a wait").as_secs();
    assert_eq!(wait, probe_at.since(now).div_ceil(1000));
}

#[test]
fn who_asks_when_the_probe_is_due_becomes_the_probe_and_is_held_and_the_rest_are_refused() {
    let mut worker = worker(10);
    let (_, probe_at) = trip(&mut worker, START);
    let actions = demand(&mut worker, probe_at, 1);
    assert_eq!(actions.last(), Some(&Action::Fetch(1)), "{actions:?}");
    assert_eq!(worker.breaker(), "probing");
    let actions = demand(&mut worker, probe_at.plus(1), 2);
    assert!(refusal(&actions, 2).is_some() && !is_called(&actions, 2));
    // Another caller of the probe's key is held with the first.
    assert_eq!(demand(&mut worker, probe_at.plus(1), 1), []);
    fetched(&mut worker, probe_at.plus(50), 1);
    assert_eq!(worker.breaker(), "closed");
    assert!(is_called(&demand(&mut worker, probe_at.plus(60), 2), 2));
}

#[test]
fn a_probe_in_vain_waits_longer_and_no_second_one_flies_beside_it() {
    let mut worker = worker(10);
    let (_, mut at) = trip(&mut worker, START);
    for round in 0..6 {
        let id = 200 + round;
        assert!(is_called(&demand(&mut worker, at, id), id));
        fail(&mut worker, at.plus(50), id, Class::Timeout);
        let next = worker.breaker.probe_at().expect("open again");
        let wait = next.since(at.plus(50));
        assert!((1000..=15_000).contains(&wait), "{wait}");
        at = next;
    }
}

#[test]
fn answers_about_one_key_are_signs_of_life() {
    let mut worker = worker(20);
    for id in 1..=20 {
        demand(&mut worker, START, id);
        let class = if id % 4 == 0 {
            Class::Denied
        } else {
            Class::ServerError
        };
        fail(&mut worker, START, id, class);
    }
    assert_eq!(worker.breaker(), "closed");
}

#[test]
fn when_it_opens_everyone_in_line_is_told_and_keys_with_a_token_keep_their_place() {
    let mut worker = worker(1);
    worker.step(START, Event::Restored(1, token(START, HOUR_MS), START));
    worker.keys.get_mut(&1).expect("restored").timer = None;
    worker.timers.clear();
    let over = START.plus(HOUR_MS);
    for id in 101..=104 {
        assert!(is_called(&demand(&mut worker, over, id), id));
        fail(&mut worker, over, id, Class::Unreachable);
    }
    demand(&mut worker, over, 105);
    // A key whose token is over and a new one, with a caller each.
    assert_eq!(demand(&mut worker, over, 1), []);
    assert_eq!(demand(&mut worker, over, 2), []);
    let actions = fail(&mut worker, over.plus(10), 105, Class::Unreachable);
    assert!(refusal(&actions, 1).is_some() && refusal(&actions, 2).is_some());
    assert!(actions.contains(&Action::Retire(2)) && !actions.contains(&Action::Retire(1)));
    let probe_at = worker.breaker.probe_at().expect("an open breaker");
    let actions = worker.step(probe_at, Event::Woken).actions;
    assert!(
        is_called(&actions, 1),
        "it kept its place and is the probe: {actions:?}"
    );
}

#[test]
fn when_it_opens_callers_who_joined_a_renewal_that_was_queued_before_are_told_too() {
    let mut worker = Worker::new(Settings {
        max_in_flight: 5,
        max_per_second: 5,
        ..Settings::default()
    });
    let over = START.plus(HOUR_MS);
    worker.step(
        START,
        Event::Restored(1, token(START, HOUR_MS), over.minus(1)),
    );
    worker.set_timer(1, Some(over));
    for id in 101..=105 {
        assert!(is_called(&demand(&mut worker, over.minus(1), id), id));
    }
    // Its renewal stands in line, for the second's count is full; then a caller joins.
    assert_eq!(worker.step(over, Event::Woken).actions, []);
    assert!(matches!(worker.keys[&1].phase, Phase::Queued(ticket) if ticket.0 == Rank::Urgent));
    assert_eq!(demand(&mut worker, over, 1), []);
    let failures = (101..=105).flat_map(|id| fail(&mut worker, over.plus(10), id, Class::Timeout));
    let actions: Vec<_> = failures.collect();
    assert_eq!(worker.breaker(), "open");
    assert!(refusal(&actions, 1).is_some(), "{actions:?}");
    assert!(!actions.contains(&Action::Retire(1)));
}

#[test]
fn a_refusal_is_told_again_without_a_call_and_forgotten_within_five_seconds() {
    for class in [Class::Denied, Class::ServerError] {
        let mut worker = worker(4);
        assert!(is_called(&demand(&mut worker, START, 1), 1));
        fail(&mut worker, START, 1, class);
        for ms in [1, 500, 999] {
            let actions = demand(&mut worker, START.plus(ms), 1);
            assert_eq!(refusal(&actions, 1).expect("a refusal").class, class);
            assert!(!is_called(&actions, 1));
        }
        let (at, actions) = next(&mut worker, START.plus(1000));
        assert_eq!(actions, [Action::Retire(1)]);
        assert!(at.since(START) <= 5000);
        assert!(worker.negatives.is_empty() && worker.keys.is_empty());
        assert!(is_called(&demand(&mut worker, at, 1), 1));
    }
}

#[test]
fn who_asks_at_the_very_end_of_a_refusal_leads() {
    let mut worker = worker(4);
    demand(&mut worker, START, 1);
    fail(&mut worker, START, 1, Class::Denied);
    let (until, _) = worker.negatives.first().copied().expect("one");
    assert!(is_called(&demand(&mut worker, until, 1), 1));
    assert!(worker.negatives.is_empty());
}

#[test]
fn refusals_are_bounded_in_number_and_the_oldest_is_forgotten_first() {
    let mut worker = worker(2000);
    let count = Settings::default().max_negatives as u64;
    for id in 1..=count + 1 {
        let now = START.plus(id / 20);
        demand(&mut worker, now, id);
        // A sign of life between keeps the breaker closed.
        let actions = fail(&mut worker, now, id, Class::Denied);
        assert_eq!(actions.is_empty(), id <= count, "{id}");
    }
    assert_eq!((worker.negatives.len(), worker.keys.len()), (1000, 1000));
    // Purged ones are not counted on.
    for id in 1..=count + 1 {
        worker.step(START.plus(60), Event::Purged(id));
    }
    assert!(worker.negatives.is_empty() && worker.keys.is_empty() && worker.timers.is_empty());
}

#[test]
fn a_long_pause_after_a_429_is_told_to_those_who_wait_and_a_short_one_holds_them() {
    for (asked_s, held) in [(60, false), (3, true)] {
        let mut worker = worker(1);
        demand(&mut worker, START, 1);
        assert_eq!(demand(&mut worker, START, 2), []);
        let event = Event::Failed(1, error(Class::Throttled, Some(asked_s)));
        let actions = worker.step(START.plus(10), event).actions;
        assert_eq!(refusal(&actions, 2).is_none(), held, "{asked_s}");
        let later = demand(&mut worker, START.plus(20), 3);
        assert_eq!(refusal(&later, 3).is_none(), held, "{asked_s}");
        if let Some(told) = refusal(&actions, 2) {
            assert_eq!(told.class, Class::Throttled);
            assert_eq!(told.retry_after, Some(Duration::from_mins(1)));
            continue;
        }
        let (mut at, mut actions) = next(&mut worker, START.plus(20));
        while !is_called(&actions, 2) {
            (at, actions) = next(&mut worker, at.plus(1));
        }
        assert!(at >= START.plus(3010), "{at:?}");
    }
}

/// Keys with tokens of an hour, restored; the worker is kept busy by one call meanwhile.
fn stocked(ids: impl IntoIterator<Item = (KeyId, u64)>) -> Worker {
    let mut worker = worker(1);
    for (id, received_ms) in ids {
        let received = START.plus(received_ms);
        let event = Event::Restored(id, token(received, HOUR_MS), received);
        worker.step(UnixMs(0), event);
    }
    worker
}

/// Ends one call after another and says in which order keys are called.
fn order(worker: &mut Worker, now: UnixMs, mut flying: KeyId, count: usize) -> Vec<KeyId> {
    let mut order = Vec::new();
    for _ in 0..count {
        let actions = fetched(worker, now, flying);
        let Some(Action::Fetch(id)) = actions.first() else {
            panic!("{order:?} then {actions:?}")
        };
        flying = *id;
        order.push(flying);
    }
    order
}

#[test]
fn the_line_is_urgent_then_known_callers_then_ahead_then_new_then_forced() {
    // 1 is due, 2 has ten minutes left, 3 is over, 4 was just received; 9 flies.
    let now = START.plus(2 * HOUR_MS);
    let mut worker = stocked([
        (1, HOUR_MS + HOUR_MS / 4),
        (2, HOUR_MS + HOUR_MS / 6),
        (3, HOUR_MS - 60_000),
        (4, 2 * HOUR_MS - 1000),
    ]);
    for id in 1..=4 {
        worker.keys.get_mut(&id).expect("restored").last_used = now;
    }
    // 3 rests with a failed call behind it, so that only its caller queues it.
    worker.set_timer(3, None);
    assert!(is_called(&demand(&mut worker, now.minus(1), 9), 9) || worker.in_flight() == 1);
    worker.calls = 1;
    worker.step(now, Event::Demanded(4, KeyName(4), true));
    demand(&mut worker, now, 8);
    demand(&mut worker, now, 3);
    let first = worker.queue.first().map(|ticket| ticket.2);
    assert_eq!(first, Some(2));
    let line: Vec<_> = worker.queue.iter().map(|ticket| ticket.2).collect();
    assert_eq!(line, [2, 3, 1, 8, 4]);
}

#[test]
fn while_others_wait_every_third_call_is_for_a_new_key_and_forced_ones_have_no_share() {
    let now = START.plus(HOUR_MS / 2 + 1000);
    let mut worker = stocked((1..=10).map(|id| (id, 0)));
    for id in 1..=10 {
        worker.keys.get_mut(&id).expect("restored").last_used = now;
    }
    worker.step(START.plus(1), Event::Demanded(99, KeyName(99), false));
    worker.step(now, Event::Woken);
    for id in 50..54 {
        demand(&mut worker, now, id);
    }
    let order = order(&mut worker, now, 99, 12);
    let new: Vec<_> = order.iter().map(|id| *id >= 50).collect();
    assert_eq!(new.iter().filter(|new| **new).count(), 4, "{order:?}");
    for three in new.windows(3) {
        assert!(three.iter().filter(|new| **new).count() <= 1, "{order:?}");
    }

    let mut worker = stocked((1..=10).map(|id| (id, 0)).chain([(60, HOUR_MS / 2)]));
    for id in 1..=10 {
        worker.keys.get_mut(&id).expect("restored").last_used = now;
    }
    worker.step(START.plus(1), Event::Demanded(99, KeyName(99), false));
    worker.step(now, Event::Demanded(60, KeyName(60), true));
    let order = self::order(&mut worker, now, 99, 11);
    assert_eq!(order.last(), Some(&60), "forced ones are last: {order:?}");
}

#[test]
fn a_probe_whose_key_is_purged_still_tells() {
    for well in [true, false] {
        let mut worker = worker(4);
        let (_, at) = trip(&mut worker, START);
        assert!(is_called(&demand(&mut worker, at, 1), 1));
        worker.step(at.plus(1), Event::Purged(1));
        assert_eq!(worker.breaker(), "probing");
        if well {
            fetched(&mut worker, at.plus(2), 1);
            assert_eq!(worker.breaker(), "closed");
        } else {
            fail(&mut worker, at.plus(2), 1, Class::Timeout);
            assert_eq!(worker.breaker(), "open");
        }
        assert!(!worker.keys.contains_key(&1));
        assert_eq!(worker.in_flight(), 0);
    }
}

#[test]
fn a_probe_that_nobody_waits_for_any_more_leaves_the_probe_to_the_next() {
    let mut worker = worker(4);
    let (_, at) = trip(&mut worker, START);
    assert!(is_called(&demand(&mut worker, at, 1), 1));
    worker.step(at, Event::Abandoned(1));
    assert_eq!((worker.breaker(), worker.in_flight()), ("open", 0));
    assert!(is_called(&demand(&mut worker, at, 2), 2));
    // One that was never sent says nothing either.
    fail(&mut worker, at, 2, Class::NoAssertion);
    assert!(is_called(&demand(&mut worker, at, 3), 3));
}

#[test]
fn a_410_that_opens_it_is_not_told_to_callers_of_other_keys_as_theirs() {
    let mut worker = worker(10);
    for id in 101..=105 {
        demand(&mut worker, START, id);
        let gone = FetchError {
            status: Some(410),
            ..error(Class::Updating, None)
        };
        worker.step(START, Event::Failed(id, gone));
    }
    let actions = demand(&mut worker, START, 1);
    let told = refusal(&actions, 1).expect("a refusal");
    assert_eq!((told.class, told.status), (Class::Updating, None));
    assert_eq!(told.retry_after, Some(Duration::from_secs(10)));
}

#[test]
fn a_key_that_always_fails_leaves_the_others_alone() {
    let mut worker = worker(10);
    let mut now = START;
    for _ in 0..20 {
        assert!(is_called(&demand(&mut worker, now, 1), 1));
        fail(&mut worker, now.plus(10), 1, Class::ServerError);
        now = now.plus(6000);
        worker.step(now, Event::Woken);
        assert_eq!(worker.breaker(), "closed");
    }
    assert!(is_called(&demand(&mut worker, now, 2), 2));
}

#[test]
fn a_key_that_did_not_fail_lately_probes_before_those_that_did() {
    let mut worker = worker(10);
    for id in [1, 2] {
        demand(&mut worker, START, id);
        worker.step(START, Event::Fetched(id, token(START, HOUR_MS), false));
    }
    // The first fails with all the others, and its caller is the first in line again.
    demand(&mut worker, START, 1);
    for id in 101..=104 {
        demand(&mut worker, START, id);
        fail(&mut worker, START, id, Class::ServerError);
    }
    fail(&mut worker, START, 1, Class::ServerError);
    let probe_at = worker.breaker.probe_at().expect("an open breaker");
    worker.keys.get_mut(&1).expect("held").refused = None;
    for (id, after_ms) in [(1, 1), (2, 2)] {
        let actions = demand(&mut worker, START.plus(after_ms), id);
        assert!(refusal(&actions, id).is_some());
    }
    let actions = worker.step(probe_at, Event::Woken).actions;
    assert!(is_called(&actions, 2) && !is_called(&actions, 1));
    // With nobody else in line it has to be that one.
    fail(&mut worker, probe_at, 2, Class::ServerError);
    let (_, actions) = next(&mut worker, probe_at);
    assert_eq!(actions, [Action::Fetch(1)]);
}

#[test]
fn a_well_key_is_called_for_within_seconds_while_three_sick_ones_hold_the_breaker_open() {
    let mut worker = worker(10);
    for id in [1, 2, 3] {
        demand(&mut worker, START, id);
        worker.step(START, Event::Fetched(id, token(START, HOUR_MS), false));
    }
    // Their tokens are over, and their callers never stop.
    let (start, mut is_waiting) = (START.plus(2 * HOUR_MS), false);
    let mut flying = Vec::new();
    for tick in 0..6000 {
        let now = start.plus(tick * 100);
        let mut actions = Vec::new();
        for id in flying.drain(..) {
            actions.extend(match id {
                1..=3 => fail(&mut worker, now, id, Class::ServerError),
                id => fetched(&mut worker, now, id),
            });
        }
        for id in [1, 2, 3] {
            actions.extend(demand(&mut worker, now, id));
        }
        // Now and then somebody asks for a key that is well, and each second until it is called.
        let since = tick % 170;
        if since == 0 {
            is_waiting = true;
        }
        if is_waiting && since % 10 == 5 {
            let id = 100 + tick / 170;
            actions.extend(demand(&mut worker, now, id));
            is_waiting = !is_called(&actions, id);
            assert!(!is_waiting || since <= 15, "refused for two seconds");
        }
        flying.extend(actions.iter().filter_map(|action| match action {
            Action::Fetch(id) => Some(*id),
            _ => None,
        }));
    }
}

#[test]
fn a_renewal_that_waits_in_line_goes_ahead_once_it_is_urgent() {
    // 1 is due and waits behind callers of other keys, who never end.
    let mut worker = stocked([(1, 0)]);
    let due = START.plus(HOUR_MS / 2);
    let mut busy = 100;
    demand(&mut worker, due, busy);
    worker.step(due, Event::Used(1, due));
    let mut now = due;
    let called_at = loop {
        for id in [busy + 1, busy + 2] {
            let over = token(START.minus(HOUR_MS), HOUR_MS);
            worker.step(UnixMs(0), Event::Restored(id, over, now));
            worker.set_timer(id, None);
            demand(&mut worker, now, id);
        }
        let actions = fetched(&mut worker, now, busy);
        if is_called(&actions, 1) {
            break now;
        }
        busy = called(&actions).max(busy);
        now = now.plus(10_000);
        assert!(now < START.plus(HOUR_MS), "it has run out");
    };
    let urgent = (worker.rules.urgent_from)(&token(START, HOUR_MS));
    assert!(
        (urgent..urgent.plus(20_000)).contains(&called_at),
        "{called_at:?}"
    );
}

#[test]
fn a_forced_call_that_waits_in_line_goes_as_a_renewal_once_that_is_due() {
    let mut worker = stocked([(1, 0)]);
    let (early, due) = (START.plus(60_000), START.plus(HOUR_MS / 2));
    demand(&mut worker, early, 100);
    worker.step(early, Event::Demanded(1, KeyName(1), true));
    // New keys take what there is, and come before what is forced.
    let mut busy = 100;
    let mut now = early;
    let called_at = loop {
        demand(&mut worker, now, busy + 1);
        demand(&mut worker, now, busy + 2);
        let actions = fetched(&mut worker, now, busy);
        if is_called(&actions, 1) {
            break now;
        }
        busy = called(&actions).max(busy);
        now = now.plus(10_000);
        assert!(now < START.plus(HOUR_MS), "it has run out");
    };
    assert!(called_at <= due.plus(20_000), "{called_at:?}");
}

#[test]
fn after_a_step_of_the_clock_a_key_that_ends_soon_is_checked_before_its_end() {
    let mut worker = worker(1);
    let now = START.plus(12 * HOUR_MS);
    for id in 0..3000 {
        let life_ms = if id < 20 {
            12 * HOUR_MS + 60_000
        } else {
            24 * HOUR_MS
        };
        worker.step(UnixMs(0), Event::Restored(id, token(START, life_ms), now));
    }
    worker.step(now, Event::ClockStepped);
    for id in 0..20 {
        let (at, _) = worker.plan(id).expect("a key");
        assert!(at.is_none_or(|at| at < now.plus(45_000)), "{at:?}");
    }
}

#[test]
fn a_key_that_seemed_unused_by_a_clock_that_is_put_back_is_renewed_again() {
    let mut worker = worker(1);
    let (life, used) = (token(START, 8 * HOUR_MS), START.minus(2 * HOUR_MS));
    worker.step(UnixMs(0), Event::Restored(1, life, used));
    // By a wall clock that is six hours ahead nobody asked for it for nine.
    worker.step(START.plus(7 * HOUR_MS), Event::Woken);
    assert_eq!(worker.plan(1).map(|(at, _)| at), Some(None), "left to end");
    worker.clock_moved(-6 * 3_600_000);
    let now = START.plus(HOUR_MS);
    worker.step(now, Event::ClockDecided);
    let (_, actions) = next(&mut worker, now);
    assert_eq!(actions, [Action::Fetch(1)]);
}

#[test]
fn a_key_without_a_token_is_known_again_when_it_fails_again() {
    let mut worker = worker(10);
    let (mut now, name) = (START, 7);
    // Its refusal is forgotten each time, and it comes back by another id.
    for id in 1..=20 {
        let actions = worker
            .step(now, Event::Demanded(id, KeyName(name), false))
            .actions;
        assert!(is_called(&actions, id));
        fail(&mut worker, now.plus(10), id, Class::ServerError);
        now = now.plus(6000);
        let actions = worker.step(now, Event::Woken).actions;
        assert!(actions.contains(&Action::Retire(id)));
        assert_eq!(worker.breaker(), "closed");
    }
}

#[test]
fn a_key_that_failed_does_not_probe_early_by_another_id() {
    let mut worker = worker(10);
    let (_, probe_at) = trip(&mut worker, START);
    assert!(is_called(&demand(&mut worker, probe_at, 200), 200));
    fail(&mut worker, probe_at, 200, Class::ServerError);
    let early = probe_at.plus(1000);
    assert!(worker.breaker.probe_at() > Some(early));
    let again = Event::Demanded(300, KeyName(101), false);
    assert!(refusal(&worker.step(early, again).actions, 300).is_some());
    assert!(is_called(&demand(&mut worker, early, 301), 301));
}

#[test]
fn a_probe_whose_key_is_asked_for_meanwhile_still_tells() {
    let mut worker = worker(10);
    let over = START.plus(2 * HOUR_MS);
    worker.step(UnixMs(0), Event::Restored(1, token(START, HOUR_MS), over));
    worker.set_timer(1, None);
    let (_, probe_at) = trip(&mut worker, over);
    worker.enqueue(over, 1, Rank::Demand, over.0);
    let (at, actions) = next(&mut worker, over);
    assert!(is_called(&actions, 1) && at <= probe_at);
    // Its first caller since the start gives it a name.
    worker.step(at.plus(1), Event::Demanded(1, KeyName(77), false));
    fail(&mut worker, at.plus(50), 1, Class::ServerError);
    assert_eq!(worker.breaker(), "open");
}

#[test]
fn a_pause_that_the_probe_is_asked_for_is_told_to_callers() {
    let mut worker = worker(10);
    let (_, probe_at) = trip(&mut worker, START);
    assert!(is_called(&demand(&mut worker, probe_at, 1), 1));
    let busy = Event::Failed(1, error(Class::Throttled, Some(120)));
    worker.step(probe_at, busy);
    let actions = demand(&mut worker, probe_at.plus(1000), 2);
    let told = refusal(&actions, 2).expect("a refusal");
    assert_eq!(told.retry_after, Some(Duration::from_secs(119)));
}

#[test]
fn a_rehearsal_divides_what_the_upstream_asks_of_one_key() {
    let asks = [
        (Class::ServerError, 1, 120_000),
        (Class::ServerError, 10, 12_000),
        (Class::Updating, 1, 70_000),
        (Class::Updating, 2, 35_000),
    ];
    for (class, time_scale, waits_ms) in asks {
        let mut worker = Worker::new(Settings {
            time_scale,
            ..Settings::default()
        });
        demand(&mut worker, START, 1);
        fetched(&mut worker, START, 1);
        worker.step(START, Event::Renew(1));
        let failed = Event::Failed(1, error(class, Some(120)));
        worker.step(START, failed);
        let (due, _) = worker.plan(1).expect("a key");
        assert_eq!(due, Some(START.plus(waits_ms)), "{class:?} {time_scale}");
    }
}

#[test]
fn a_decision_about_the_clock_does_not_take_its_urgency_from_a_key_in_line() {
    // 1 is due and waits behind callers, who never end; the clock is put right meanwhile.
    let mut worker = stocked([(1, 0)]);
    let due = START.plus(HOUR_MS / 2);
    demand(&mut worker, due, 100);
    worker.step(due, Event::Used(1, due));
    worker.step(due, Event::ClockStepped);
    worker.step(due.plus(10), Event::ClockDecided);
    worker.step(due.plus(60_000), Event::Woken);
    let urgent = (worker.rules.urgent_from)(&token(START, HOUR_MS));
    let step = worker.step(urgent.minus(1), Event::Woken);
    assert_eq!(step.wake_at, Some(urgent));
    worker.step(urgent, Event::Woken);
    assert_eq!(worker.next_in_line().map(|it| it.0), Some(Rank::Urgent));
}

#[test]
fn the_lag_of_a_renewal_counts_from_when_it_was_due_over_failures_to_the_token() {
    let mut worker = worker(4);
    let id = 1;
    demand(&mut worker, START, id);
    let first = Event::Fetched(id, token(START, HOUR_MS), false);
    assert_eq!(worker.step(START, first).lag_ms, None, "nothing was due");
    worker.step(START, Event::Used(id, START.plus(HOUR_MS)));
    let due = worker.plan(id).expect("a key").0.expect("it is planned");
    assert!(is_called(&worker.step(due, Event::Woken).actions, id));

    fail(&mut worker, due.plus(300), id, Class::ServerError);
    let again = worker
        .plan(id)
        .expect("a key")
        .0
        .expect("it is tried again");
    assert!(is_called(&worker.step(again, Event::Woken).actions, id));
    let landed = again.plus(20);
    let renewed = Event::Fetched(id, token(landed, HOUR_MS), false);
    assert_eq!(worker.step(landed, renewed).lag_ms, Some(landed.since(due)));

    let due = worker.plan(id).expect("a key").0.expect("it is planned");
    worker.step(due, Event::Used(id, due));
    worker.step(due, Event::Woken);
    let same = Event::Fetched(id, token(landed, HOUR_MS), true);
    assert_eq!(worker.step(due.plus(20), same).lag_ms, None, "not renewed");
}
