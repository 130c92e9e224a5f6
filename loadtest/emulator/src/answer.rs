//! From a request to its answer: who answers, and what spoils it.

use std::sync::Arc;

use crate::delivery::{Delivery, spoil};
use crate::faults::FaultKind;
use crate::http::Request;
use crate::refusals::{Refusal, status_reply};
use crate::reply::Reply;
use crate::route::Route;
use crate::rules::TokenRequest;
use crate::time;
use crate::token_reply::{Grant, token_reply};
use crate::world::{InProgress, World};
use crate::{discovery, metadata};

/// What to do with the connection.
pub(crate) struct Answer {
    pub delivery: Delivery,
    /// Held until the answer is sent.
    pub in_progress: Option<InProgress>,
}

/// Answers everything but the control path.
pub(crate) async fn answer(world: &Arc<World>, request: &Request) -> Answer {
    world.tally().numbers.total += 1;
    let mut in_progress = None;
    let verdict = match Route::of(&world.kind, &request.path) {
        Route::Token => judge_token_request(world, request, &mut in_progress),
        other => Err(answer_document(world, request, other)),
    };
    let hit = world.plan().next(verdict.is_ok(), time::steady());
    if let Some(hit) = &hit {
        world.tally().spoilt(hit.name, time::unix_ms());
    }
    let (target, fault) = (&request.target(), hit.as_ref().map(|hit| &hit.kind));
    let delivery = match verdict {
        Ok(grant) => deliver_token(world, target, grant, fault).await,
        Err(reply) => spoil(world, target, reply, fault),
    };
    Answer {
        delivery,
        in_progress,
    }
}

/// The documents beside the token endpoint.
fn answer_document(world: &World, request: &Request, route: Route<'_>) -> Reply {
    let document = match route {
        Route::Instance(path) => metadata::instance(request, path),
        Route::Versions => metadata::versions(request),
        Route::OpenIdConfiguration => discovery::open_id_configuration(world, request),
        Route::Keys => discovery::keys(world, request),
        Route::Token | Route::Control(_) | Route::Unknown => {
            Err(Refusal::NoSuchPath(request.target()))
        }
    };
    document.unwrap_or_else(|refusal| refusal.reply(&world.kind))
}

/// Rules, then limits, then identity: the grant, or the reply of the first that objects.
fn judge_token_request(
    world: &Arc<World>,
    request: &Request,
    in_progress: &mut Option<InProgress>,
) -> Result<Grant, Reply> {
    world.journal().note(&request.raw);
    let asked = world.kind.token_request(world, request);
    let TokenRequest {
        resource,
        selector,
        asked_by,
        bypass_cache,
        refused_token,
    } = asked.map_err(|refusal| {
        let challenged = matches!(refusal, Refusal::Challenge(_));
        let proven_wrong = request.header("authorization").next().is_some();
        let numbers = &mut world.tally().numbers;
        numbers.challenged += u64::from(challenged);
        numbers.refused += u64::from(!challenged || proven_wrong);
        refusal.reply(&world.kind)
    })?;

    let tuning = world.tuning();
    let latency = world.weather().latency(tuning.latency_ms);
    let (now, now_ms) = (time::steady(), time::unix_ms());
    world
        .tally()
        .arrived(selector.to_string(), resource.clone(), now, now_ms);
    let admitted = world.throttle().admit(now, tuning.limits);
    *in_progress = Some(InProgress {
        world: Arc::clone(world),
        admitted,
    });
    if !admitted {
        world.tally().throttled(now_ms);
        return Err(Refusal::Throttled.reply(&world.kind));
    }
    if let Some(status) = world.weather().refuse(now) {
        world.tally().overloaded(now_ms);
        return Err(status_reply(&world.kind, status));
    }

    let identity = world.identities.find(&selector).map_err(|refusal| {
        world.tally().numbers.no_identity += 1;
        refusal.reply(&world.kind)
    })?;
    Ok(Grant {
        identity,
        resource,
        asked_by,
        bypass_cache,
        refused_token,
        latency,
    })
}

/// Issues the token and replies with it, or with what the fault makes of it.
async fn deliver_token(
    world: &World,
    target: &str,
    mut grant: Grant,
    fault: Option<&FaultKind>,
) -> Delivery {
    tokio::time::sleep(grant.latency).await;
    // Faults that end without a token do not issue one either, so that the counts of issued
    // tokens are those that a caller can have seen.
    if fault.is_some_and(FaultKind::replaces_the_answer) {
        return spoil(world, target, Reply::json(200, ""), fault);
    }
    match fault {
        Some(FaultKind::OtherResource { resource }) => grant.resource.clone_from(resource),
        Some(FaultKind::OtherClient { client_id }) => {
            grant.identity.client_id.clone_from(client_id);
        }
        _ => {}
    }
    let reply = token_reply(world, &grant, fault);
    spoil(world, target, reply, fault)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use crate::testing::{Connection, RESOURCE, ask, start, token_target, unlimited, wait_until};
    use crate::{Fault, FaultKind, Limits, Settings};

    #[test]
    fn requests_above_the_rate_are_throttled_with_the_real_body() {
        let limits = Limits {
            requests_per_s: 3,
            at_once: 0,
        };
        let emulator = start(Settings {
            limits,
            ..Settings::default()
        });
        let mut connection = Connection::open(&emulator);
        // Refused requests take no place, so some of any 200 quick ones are served and some not.
        let replies: Vec<_> = (0..200)
            .map(|_| connection.get(&token_target("")).unwrap())
            .collect();
        let throttled: Vec<_> = replies.iter().filter(|it| it.status == 429).collect();
        assert!(!throttled.is_empty());
        assert!(replies[..3].iter().all(|it| it.status == 200));
        let body = r#"{"error":"invalid_request","error_description":"Temporarily throttled, too many requests"}"#;
        assert_eq!(
            (
                throttled[0].body.as_str(),
                throttled[0].header("retry-after")
            ),
            (body, None)
        );

        let counts = emulator.counts();
        assert_eq!(counts.throttled, throttled.len() as u64);
        assert_eq!(counts.calls_for("system", RESOURCE), 200);
        assert!(counts.peak_rate_per_s > 3);
    }

    #[test]
    fn requests_above_the_number_at_once_are_throttled() {
        let limits = Limits {
            requests_per_s: 0,
            at_once: 2,
        };
        let emulator = start(Settings {
            limits,
            ..Settings::default()
        });
        // Hanging requests stay in progress until their callers close.
        emulator.set_fault(Some(Fault::times(FaultKind::Hang, 2)));
        let mut hanging: Vec<_> = (0..2).map(|_| Connection::open(&emulator)).collect();
        for connection in &mut hanging {
            let target = token_target("");
            connection
                .send(&format!(
                    "GET {target} HTTP/1.1\r\nHost: t\r\nMetadata: true\r\n\r\n"
                ))
                .unwrap();
        }
        wait_until(|| emulator.counts().in_progress == 2);
        assert_eq!(ask(&emulator, "").status, 429);
        drop(hanging);
        wait_until(|| emulator.counts().in_progress == 0);
        assert_eq!(ask(&emulator, "").status, 200);
        assert_eq!(emulator.counts().peak_concurrency, 3);
    }

    #[test]
    fn a_slow_token_does_not_hold_up_another_connection() {
        let emulator = unlimited();
        emulator.set_latency_ms(60_000);
        let mut slow = Connection::open(&emulator);
        let (sender, receiver) = mpsc::channel();
        let target = token_target("");
        let waiting = thread::spawn(move || sender.send(slow.get(&target).is_err()));
        wait_until(|| emulator.counts().in_progress == 1);
        emulator.set_latency_ms(0);
        assert_eq!(ask(&emulator, "").status, 200);
        emulator.stop();
        assert!(
            receiver.recv().unwrap(),
            "stopping closes the connection that waits"
        );
        waiting.join().unwrap().unwrap();
    }
}
