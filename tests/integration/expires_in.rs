//! What a cached answer says of the time it has left, over every path that the clocks may take.

use std::sync::Arc;

use foretoken::authz::{Caller, Policy};
use foretoken::cache::{Asked, Cache, Found, Place, Turn, View};
use foretoken::clock::{Clock, News, UnixMs};
use foretoken::protocol::Shape;
use foretoken::telemetry::metrics::Metrics;
use foretoken::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};
use proptest::prelude::*;

const START: UnixMs = UnixMs(1_767_225_600_000);
const LIFE_S: u64 = 86_400;
const PLAIN: Asked = Asked {
    shape: Shape::Metadata,
    force: None,
};

/// What happens between two answers.
#[derive(Debug, Clone, Copy)]
enum Passage {
    /// Time, on all clocks.
    Time(u64),
    /// Somebody sets the wall clock.
    Step(i64),
    /// An answer of the upstream's comes in, dated by a clock that is so far ahead of the truth.
    Date(i64),
}

fn passage() -> impl Strategy<Value = Passage> {
    let (minutes, hours) = (310_000i64, 30 * 3_600_000i64);
    prop_oneof![
        4 => (0u64..5000).prop_map(Passage::Time),
        1 => (0u64..7_200_000).prop_map(Passage::Time),
        2 => (-2000i64..2000).prop_map(Passage::Step),
        1 => (-minutes..minutes).prop_map(Passage::Step),
        1 => (-hours..hours).prop_map(Passage::Step),
        2 => (-2000i64..2000).prop_map(Passage::Date),
        1 => (-hours..hours).prop_map(Passage::Date),
    ]
}

/// A worker that holds one token of a day.
fn holding() -> (View, Place) {
    let cache = Arc::new(Cache::new());
    let key = TokenKey {
        upstream: "imds".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(b"r").expect("a resource"),
        capabilities: vec![],
        extras: vec![],
        client: None,
    };
    let lifetime = Lifetime {
        received_at: START,
        expires_on_s: START.as_secs() + LIFE_S,
        not_before_s: None,
        refresh_in_s: None,
    };
    let token = Arc::new(AccessToken {
        secret: Secret::new(b"t".to_vec()),
        lifetime,
        client_id: None,
    });
    let caller = Caller::Unix { uid: 0, gid: 0 };
    let permit = Policy::default().permit(&caller, None, key);
    let permit = permit.expect("a local caller");
    let slot = cache.lookup(&permit).expect("room");
    slot.publish(cache.entry(permit.key(), token, []));
    let mut view = View::new(cache, Metrics::new());
    let place = view.remember(0, b"r", PLAIN, permit).expect("room");
    (view, place)
}

/// The members of an answer; `None` if the token is over.
fn told(view: &mut View, place: Place, now: UnixMs) -> Option<(u64, u64)> {
    let Found::Body(parts) = view.look(place, now, Turn::Last) else {
        return None;
    };
    let body: serde_json::Value = serde_json::from_slice(&parts.concat()).expect("JSON");
    let number = |name: &str| body[name].as_str().and_then(|text| text.parse().ok());
    Some((
        number("expires_on").expect("digits"),
        number("expires_in").expect("digits"),
    ))
}

proptest! {
    #[test]
    fn expires_in_is_exact_and_grows_only_when_the_upstream_has_decided(
        path in prop::collection::vec(passage(), 1..60),
    ) {
        let (clock, crank) = Clock::cranked(START);
        let (mut view, place) = holding();
        let mut truth = START;
        let mut last: Option<u64> = None;
        for passage in path {
            match passage {
                Passage::Time(ms) => {
                    crank.advance(ms);
                    truth = truth.plus(ms);
                }
                Passage::Step(by_ms) => crank.step(by_ms),
                Passage::Date(ahead_ms) => {
                    let date = truth.0.saturating_add_signed(ahead_ms) / 1000 * 1000;
                    clock.learn(UnixMs(date), clock.boot());
                }
            }
            let now = clock.now();
            let answer = told(&mut view, place, now);
            let decided = clock.observe().news.iter().any(|it| matches!(it, News::Decided { .. }));
            let ends = START.plus(LIFE_S * 1000);
            let Some((expires_on, expires_in)) = answer else {
                prop_assert!(now >= ends.minus(15_000), "not served at {:?}", now);
                last = last.filter(|_| !decided).map(|_| 0);
                continue;
            };
            prop_assert!(now < ends.minus(15_000), "served at {:?}", now);
            prop_assert_eq!(expires_on, ends.as_secs());
            prop_assert_eq!(expires_in, ends.since(now) / 1000);
            if let (Some(last), false) = (last, decided) {
                prop_assert!(expires_in <= last, "{} after {}", expires_in, last);
            }
            last = Some(expires_in);
        }
    }
}
