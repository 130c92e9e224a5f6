use proptest::prelude::*;

use super::*;

const NOON: UnixMs = UnixMs(1_767_225_600_000);
const BOOT: Boot = Boot(1_000_000);
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Two clocks that a test moves, and the state machine over them.
struct Bench {
    wall: UnixMs,
    boot: Boot,
    anchor: Anchor,
}

impl Bench {
    fn new() -> Self {
        let reading = Reading {
            wall: NOON,
            boot: BOOT,
        };
        Self {
            wall: NOON,
            boot: BOOT,
            anchor: Anchor::new(reading),
        }
    }

    fn pass(&mut self, ms: u64) -> Option<News> {
        self.boot.0 += ms;
        self.step(i64::try_from(ms).unwrap())
    }

    /// Moves the wall clock alone.
    fn step(&mut self, ms: i64) -> Option<News> {
        self.wall.0 = self.wall.0.saturating_add_signed(ms);
        let reading = Reading {
            wall: self.wall,
            boot: self.boot,
        };
        self.anchor.read(reading)
    }

    /// The upstream answers a question of 50 ms ago, at this distance from noon by boot time.
    fn hear(&mut self, off_ms: i64) -> Option<News> {
        let sent = self.boot;
        self.pass(50);
        let true_ms = NOON.0 + (self.boot.0 - BOOT.0);
        let date = UnixMs(true_ms.saturating_add_signed(off_ms) / 1000 * 1000);
        self.anchor.learn(Dated {
            date,
            sent,
            received: self.boot,
        })
    }

    /// How far the timeline is from noon plus boot time.
    fn off(&self) -> i64 {
        difference(self.anchor.now(self.boot).0, NOON.0 + self.boot.0 - BOOT.0)
    }

    fn is_settled(&self) -> bool {
        self.anchor.state() == State::Settled
    }
}

#[test]
fn forward_steps_of_up_to_five_minutes_are_believed_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.step(30_000), Some(News::Believed { by_ms: 30_000 }));
    assert_eq!(bench.off(), 30_000);
    let by_ms = 5 * MINUTE;
    assert_eq!(bench.step(by_ms), Some(News::Believed { by_ms }));
    assert!(bench.is_settled());
    assert!(matches!(bench.step(by_ms + 1), Some(News::Stepped { .. })));
    assert!(!bench.is_settled());
}

#[test]
fn the_later_clock_is_in_force_until_the_next_date() {
    for by_ms in [5 * MINUTE + 1, HOUR, DAY, -2 * MINUTE, -HOUR, -DAY] {
        for right_ms in [0, by_ms] {
            let mut bench = Bench::new();
            assert_eq!(bench.step(by_ms), Some(News::Stepped { by_ms }));
            assert_eq!(bench.off(), by_ms.max(0), "{by_ms}");
            let moved = right_ms - by_ms.max(0);
            let decided = News::Decided {
                by_ms: moved,
                wall_ms: by_ms - right_ms,
            };
            assert_eq!(bench.hear(right_ms), Some(decided));
            assert_eq!(bench.off(), right_ms);
            assert!(bench.is_settled());
            // What is decided stays: the wall clock, right or wrong, is accounted for.
            assert_eq!(bench.pass(60_000), None);
            assert_eq!(bench.hear(right_ms), None);
            assert_eq!(bench.off(), right_ms);
        }
    }
}

#[test]
fn a_date_that_neither_clock_shows_is_taken_as_it_is() {
    let mut bench = Bench::new();
    bench.step(DAY);
    assert!(matches!(bench.hear(-HOUR), Some(News::Decided { .. })));
    assert!(
        (-HOUR..-HOUR + 1050).contains(&bench.off()),
        "{}",
        bench.off()
    );
}

#[test]
fn an_answer_to_a_question_of_before_the_step_does_not_decide() {
    let mut bench = Bench::new();
    let sent = bench.boot;
    bench.pass(100);
    bench.step(HOUR);
    let dated = Dated {
        date: NOON,
        sent,
        received: bench.boot,
    };
    assert_eq!(bench.anchor.learn(dated), None);
    assert!(!bench.is_settled());
}

#[test]
fn a_leap_second_is_no_step_but_creeping_back_is() {
    let mut bench = Bench::new();
    assert_eq!(bench.step(-1000), None);
    assert_eq!(bench.off(), 0);
    assert_eq!(bench.step(-400), None);
    assert!(matches!(bench.step(-200), Some(News::Stepped { .. })));
}

#[test]
fn a_wall_clock_that_was_overruled_is_believed_no_step() {
    let mut bench = Bench::new();
    bench.step(-DAY);
    bench.hear(0);
    assert_eq!(bench.off(), 0);
    assert!(matches!(bench.step(30_000), Some(News::Stepped { .. })));
    assert!(matches!(bench.hear(0), Some(News::Decided { .. })));
    assert_eq!(bench.off(), 0);
    // It is put right: nothing is in doubt any more, and small steps are believed again.
    assert_eq!(bench.step(DAY - 30_000), Some(News::Agreed));
    assert!(bench.is_settled());
    assert!(matches!(bench.step(2000), Some(News::Believed { .. })));
}

#[test]
fn a_timeline_that_is_behind_the_upstream_by_minutes_follows_it_and_says_so_once() {
    let mut bench = Bench::new();
    let Some(News::Skewed { by_ms }) = bench.hear(3 * MINUTE) else {
        panic!("it is told");
    };
    assert!((3 * MINUTE - 1050..=3 * MINUTE).contains(&by_ms), "{by_ms}");
    assert_eq!((bench.off(), bench.anchor.skew()), (by_ms, by_ms));
    assert!(bench.is_settled());
    bench.pass(HOUR.unsigned_abs());
    assert_eq!(bench.hear(3 * MINUTE), None);
    // Somebody puts the wall clock right: nothing moves.
    let before = bench.off();
    bench.step(3 * MINUTE);
    assert!(
        (before..before + 1050).contains(&bench.off()),
        "{}",
        bench.off()
    );
    bench.hear(3 * MINUTE);
    assert!(bench.anchor.skew().abs() < 1050);
}

#[test]
fn a_pause_of_a_machine_that_follows_the_upstream_counts() {
    let mut bench = Bench::new();
    bench.hear(3 * MINUTE);
    let before = bench.off();
    assert!(matches!(bench.step(30_000), Some(News::Believed { .. })));
    assert_eq!(bench.off(), before + 30_000);
}

#[test]
fn it_follows_no_further_than_five_minutes_in_all() {
    let mut bench = Bench::new();
    for minutes in [2, 4, 5] {
        bench.hear(minutes * MINUTE);
        assert!(bench.off() <= 5 * MINUTE, "{minutes}");
    }
    // More than that is a contradiction, which has to come twice.
    let first = bench.hear(7 * MINUTE);
    assert!(matches!(first, Some(News::Contradicted { .. })));
    assert!(bench.off() <= 5 * MINUTE);
    let second = bench.hear(11 * MINUTE);
    assert!(matches!(second, Some(News::Decided { .. })));
    // What was decided may be followed from there.
    bench.hear(14 * MINUTE);
    let off = bench.off();
    assert!((14 * MINUTE - 1050..=14 * MINUTE).contains(&off), "{off}");
}

#[test]
fn a_timeline_that_is_ahead_stays_there_and_says_so_once() {
    let mut bench = Bench::new();
    assert!(matches!(bench.hear(-4 * MINUTE), Some(News::Skewed { by_ms }) if by_ms < -3 * MINUTE));
    assert_eq!(bench.off(), 0);
    assert_eq!(bench.hear(-4 * MINUTE), None);
    // As much again on the other side is news.
    assert!(matches!(bench.hear(0), Some(News::Skewed { .. })));
    assert_eq!((bench.off(), bench.anchor.skew()), (0, 0));
}

#[test]
fn a_timeline_that_a_slip_led_ahead_of_both_clocks_is_put_back_by_two_answers() {
    let mut bench = Bench::new();
    bench.hear(4 * MINUTE);
    assert!(bench.off() > 3 * MINUTE);
    assert_eq!(bench.hear(0), None);
    assert!(matches!(bench.hear(0), Some(News::Decided { .. })));
    assert_eq!((bench.off(), bench.anchor.skew()), (0, 0));
    // So is one that the wall clock led there, by many small steps that each were believed.
    let mut bench = Bench::new();
    bench.hear(3 * MINUTE);
    for _ in 0..18 {
        bench.step(10_000);
    }
    assert!(bench.off() > 5 * MINUTE, "{}", bench.off());
    bench.hear(3 * MINUTE);
    bench.hear(3 * MINUTE);
    assert!((bench.off() - 3 * MINUTE).abs() < 1050, "{}", bench.off());
}

#[test]
fn an_upstream_that_drifts_away_by_more_than_five_minutes_is_not_left_unheard() {
    let mut bench = Bench::new();
    for minutes in 1..=9 {
        bench.pass(CONTRADICTION_PAUSE_MS);
        bench.hear(minutes * MINUTE);
        bench.hear(minutes * MINUTE);
        let off = bench.off();
        assert!((off - minutes * MINUTE).abs() < 1050, "{minutes}: {off}");
    }
}

#[test]
fn the_skew_of_a_wall_clock_that_was_overruled_is_told() {
    let mut bench = Bench::new();
    bench.step(DAY);
    bench.hear(0);
    bench.hear(0);
    assert!((bench.anchor.skew() + DAY).abs() < 1050);
}

#[test]
fn in_doubt_a_wall_clock_that_goes_to_and_fro_does_not_drive_the_timeline() {
    let mut bench = Bench::new();
    for _ in 0..10 {
        assert!(matches!(
            bench.step(-2 * MINUTE),
            Some(News::Stepped { .. })
        ));
        assert!(matches!(
            bench.step(2 * MINUTE),
            Some(News::Believed { .. })
        ));
    }
    assert_eq!(bench.off(), 0);
    // A pause counts as far as the wall clock shows it.
    bench.step(30_000);
    assert_eq!(bench.off(), 30_000);
}

#[test]
fn a_start_before_the_newest_record_is_a_step() {
    let mut bench = Bench::new();
    let record = |ms: i64| UnixMs(NOON.0.saturating_add_signed(ms));
    assert_eq!(bench.anchor.remember(record(-DAY), bench.boot), None);
    assert_eq!(bench.off(), 0);
    assert_eq!(bench.anchor.remember(record(5 * MINUTE), bench.boot), None);
    assert_eq!(bench.off(), 5 * MINUTE, "it is at least so late");
    let mut bench = Bench::new();
    let behind = bench.anchor.remember(record(DAY), bench.boot);
    assert_eq!(behind, Some(News::Behind { by_ms: DAY }));
    assert_eq!(bench.off(), DAY);
    assert_eq!(bench.anchor.earliest(bench.boot), NOON);
    bench.hear(0);
    assert_eq!(bench.off(), 0);
}

#[test]
fn the_first_date_of_all_is_believed_and_later_ones_have_to_come_twice() {
    let mut bench = Bench::new();
    assert!(matches!(bench.hear(-DAY), Some(News::Decided { .. })));
    assert!((bench.off() + DAY).abs() < 1050);
    // Its wall clock is corrected.
    assert_eq!(bench.step(-DAY), Some(News::Agreed));
    assert!(matches!(bench.hear(HOUR), Some(News::Contradicted { .. })));
    assert!(
        (bench.off() + DAY).abs() < 1050,
        "one answer alone moves nothing"
    );
    assert!(matches!(bench.hear(HOUR), Some(News::Decided { .. })));
    // A third opinion within the hour is not heard.
    assert_eq!(bench.hear(-HOUR), None);
    bench.pass(CONTRADICTION_PAUSE_MS);
    assert!(matches!(bench.hear(-HOUR), Some(News::Contradicted { .. })));
    // Nor is one that says something else each time.
    for other in [3 * HOUR, -5 * HOUR, 7 * HOUR, -9 * HOUR] {
        assert_eq!(bench.hear(other), None);
        assert!((bench.off() - HOUR).abs() < 1050);
    }
    // It was a slip.
    assert_eq!(bench.hear(HOUR), None);
    assert!((bench.off() - HOUR).abs() < 1050);
}

#[test]
fn dates_of_another_age_are_not_looked_at() {
    let mut bench = Bench::new();
    bench.step(HOUR);
    for date in [0, 1_500_000_000_000, 4_200_000_000_000, u64::MAX] {
        let dated = Dated {
            date: UnixMs(date),
            sent: bench.boot,
            received: bench.boot,
        };
        assert_eq!(bench.anchor.learn(dated), None);
    }
    assert!(!bench.is_settled());
}

/// What may happen to the clocks.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Pass(u64),
    Step(i64),
    Hear(i64),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let step = prop_oneof![-2000i64..2000, -10 * MINUTE..10 * MINUTE, -3 * DAY..3 * DAY];
    let turn = prop_oneof![
        (0u64..100_000_000).prop_map(Turn::Pass),
        step.prop_map(Turn::Step),
        prop_oneof![Just(0i64), -2 * DAY..2 * DAY].prop_map(Turn::Hear),
    ];
    prop::collection::vec(turn, 1..40)
}

proptest! {
    #[test]
    fn the_timeline_goes_back_only_when_the_upstream_has_decided(turns in turns()) {
        let mut bench = Bench::new();
        for turn in turns {
            let before = bench.anchor.now(bench.boot);
            let news = match turn {
                Turn::Pass(ms) => bench.pass(ms),
                Turn::Step(ms) => bench.step(ms),
                Turn::Hear(ms) => bench.hear(ms),
            };
            let now = bench.anchor.now(bench.boot);
            let decided = matches!(news, Some(News::Decided { .. }));
            prop_assert!(now >= before || decided, "{turn:?} {news:?}");
            // Nothing is behind the earlier clock, and a doubt knows of two.
            prop_assert!(bench.anchor.earliest(bench.boot) <= now);
            if bench.is_settled() && !decided && matches!(turn, Turn::Step(ms) if ms < -MAX_IGNORED_MS) {
                prop_assert_eq!(news, Some(News::Agreed));
            }
            // While doubtful, the timeline is not behind the wall clock either.
            if !bench.is_settled() {
                prop_assert!(now >= bench.wall.minus(1));
            }
        }
        // Whatever was: the truth, told twice, is taken within five minutes of it.
        bench.pass(CONTRADICTION_PAUSE_MS);
        bench.hear(0);
        bench.hear(0);
        prop_assert!(bench.off().abs() <= MAX_SKEW_MS + 1050, "{}", bench.off());
        prop_assert!(bench.is_settled());
    }

    #[test]
    fn while_the_clocks_agree_a_second_is_a_second(steps in prop::collection::vec(0u64..10_000_000, 1..50)) {
        let mut bench = Bench::new();
        for ms in steps {
            let before = bench.anchor.now(bench.boot);
            prop_assert_eq!(bench.pass(ms), None);
            prop_assert_eq!(bench.anchor.now(bench.boot).since(before), ms);
        }
    }

    #[test]
    fn no_reading_and_no_date_of_any_size_panics(
        readings in prop::collection::vec(any::<(u64, u64, u64, u64, u64)>(), 1..20), first: (u64, u64),
    ) {
        let edge = |n: u64| match n % 7 {
            0 => 0,
            1 => u64::MAX,
            2 => i64::MAX.unsigned_abs(),
            // The end of 32 bits of seconds, in 2106.
            3 => 4_294_967_296_000 + n % 1000,
            4 => DATES.start + n % 1_000_000_000_000,
            _ => n,
        };
        let reading = |wall, boot| Reading { wall: UnixMs(edge(wall)), boot: Boot(edge(boot)) };
        let mut anchor = Anchor::new(reading(first.0, first.1));
        for (wall, boot, date, sent, received) in readings {
            let _ = anchor.read(reading(wall, boot));
            let _ = anchor.now(Boot(edge(boot)));
            let _ = anchor.earliest(Boot(edge(sent)));
            let _ = anchor.learn(Dated {
                date: UnixMs(edge(date)),
                sent: Boot(edge(sent)),
                received: Boot(edge(received)),
            });
            let _ = anchor.remember(UnixMs(edge(date)), Boot(edge(boot)));
        }
    }
}
