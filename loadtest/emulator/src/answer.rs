//! From a request to its answer: who answers, what spoils it, what it says.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::claims::BACKDATED_S;
use crate::faults::{FaultKind, html_page};
use crate::http::{Reply, Request};
use crate::issuer::Issued;
use crate::refusals::{Refusal, status_reply};
use crate::rules::{self, Route, TokenRequest};
use crate::time;
use crate::world::{InProgress, World};
use crate::{Identity, entra, metadata};

/// What to do with the connection.
pub(crate) struct Answer {
    pub delivery: Delivery,
    /// Held until the answer is sent.
    pub in_progress: Option<InProgress>,
}

/// How an answer goes out.
pub(crate) enum Delivery {
    Whole(Reply),
    Drip {
        reply: Reply,
        chunk_bytes: usize,
        pause: Duration,
    },
    Truncated {
        reply: Reply,
        send_bytes: usize,
    },
    Hang,
    Reset,
}

/// A token request that will be served, unless a fault comes in between.
struct Grant {
    identity: Identity,
    resource: String,
    bypass_cache: bool,
}

/// Answers everything but the control path.
pub(crate) async fn answer(world: &Arc<World>, request: &Request) -> Answer {
    world.tally().numbers.total += 1;
    let mut in_progress = None;
    let verdict = match Route::of(&request.path) {
        Route::Token => judge_token_request(world, request, &mut in_progress),
        other => Err(answer_document(world, request, other)),
    };
    let fault = world.faults().next(verdict.is_ok());
    if fault.is_some() {
        world.tally().numbers.faulted += 1;
    }
    let delivery = match verdict {
        Ok(grant) => deliver_token(world, grant, fault.as_ref()).await,
        Err(reply) => spoil(world, reply, fault.as_ref()),
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
        Route::OpenIdConfiguration => entra::open_id_configuration(world, request),
        Route::Keys => entra::keys(world, request),
        Route::Token | Route::Control(_) | Route::Unknown => Err(Refusal::NoSuchPath),
    };
    document.unwrap_or_else(|refusal| refusal.reply())
}

/// Rules, then limits, then identity: the grant, or the reply of the first that objects.
fn judge_token_request(
    world: &Arc<World>,
    request: &Request,
    in_progress: &mut Option<InProgress>,
) -> Result<Grant, Reply> {
    let TokenRequest {
        resource,
        selector,
        bypass_cache,
    } = rules::token_request(request).map_err(|refusal| {
        world.tally().numbers.refused += 1;
        refusal.reply()
    })?;

    let now = time::steady();
    world
        .tally()
        .arrived(selector.to_string(), resource.clone(), now, time::unix_ms());
    let admitted = world.throttle().admit(now, world.tuning().limits);
    *in_progress = Some(InProgress {
        world: Arc::clone(world),
        admitted,
    });
    if !admitted {
        world.tally().numbers.throttled += 1;
        return Err(Refusal::Throttled.reply());
    }

    let identity = world.identities.find(&selector).map_err(|refusal| {
        world.tally().numbers.no_identity += 1;
        refusal.reply()
    })?;
    Ok(Grant {
        identity,
        resource,
        bypass_cache,
    })
}

/// Issues the token and replies with it, or with what the fault makes of it.
async fn deliver_token(world: &World, mut grant: Grant, fault: Option<&FaultKind>) -> Delivery {
    tokio::time::sleep(Duration::from_millis(world.tuning().latency_ms)).await;
    // Faults that end without a token do not issue one either, so that the counts of issued
    // tokens are those that a caller can have seen.
    match fault {
        Some(FaultKind::Status { .. } | FaultKind::Hang | FaultKind::Reset | FaultKind::Html) => {
            return spoil(world, Reply::json(200, ""), fault);
        }
        Some(FaultKind::OtherResource { resource }) => grant.resource.clone_from(resource),
        Some(FaultKind::OtherClient { client_id }) => {
            grant.identity.client_id.clone_from(client_id);
        }
        Some(FaultKind::Drip { .. } | FaultKind::Truncate { .. }) | None => {}
    }
    let reply = token_reply(world, &grant);
    spoil(world, reply, fault)
}

/// What a fault makes of a reply. Those that change whose token it is have done so before.
fn spoil(world: &World, reply: Reply, fault: Option<&FaultKind>) -> Delivery {
    match fault {
        None | Some(FaultKind::OtherResource { .. } | FaultKind::OtherClient { .. }) => {
            Delivery::Whole(reply)
        }
        Some(FaultKind::Status {
            status,
            retry_after_s,
        }) => {
            let reply = status_reply(*status);
            Delivery::Whole(match retry_after_s {
                Some(seconds) => reply.with("Retry-After", seconds.to_string()),
                None => reply,
            })
        }
        Some(FaultKind::Html) => {
            let mut page = Reply::text(200, html_page(world.address));
            page.content_type = "text/html; charset=utf-8";
            Delivery::Whole(page)
        }
        Some(FaultKind::Hang) => Delivery::Hang,
        Some(FaultKind::Reset) => Delivery::Reset,
        Some(FaultKind::Drip {
            chunk_bytes,
            pause_ms,
        }) => {
            let pause = Duration::from_millis(*pause_ms);
            Delivery::Drip {
                reply,
                chunk_bytes: (*chunk_bytes).max(1),
                pause,
            }
        }
        Some(FaultKind::Truncate { send_bytes }) => Delivery::Truncated {
            reply,
            send_bytes: *send_bytes,
        },
    }
}

/// The success body: every value a string, in the order of the real endpoint.
#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    client_id: &'a str,
    expires_in: String,
    expires_on: String,
    ext_expires_in: String,
    not_before: String,
    resource: &'a str,
    token_type: &'static str,
}

fn token_reply(world: &World, grant: &Grant) -> Reply {
    let issued = token_for(world, grant);
    let now_s = time::unix_ms() / 1000;
    let expires_in = issued.expires_on_s.saturating_sub(now_s).to_string();
    let body = TokenBody {
        access_token: &issued.token,
        client_id: &grant.identity.client_id,
        expires_in: expires_in.clone(),
        expires_on: issued.expires_on_s.to_string(),
        ext_expires_in: expires_in,
        not_before: issued.not_before_s.to_string(),
        resource: &grant.resource,
        token_type: "Bearer",
    };
    Reply::json(
        200,
        serde_json::to_string(&body).expect("strings always serialise"),
    )
}

/// The last token again if it is good enough, else a new one.
fn token_for(world: &World, grant: &Grant) -> Issued {
    let Grant {
        identity,
        resource,
        bypass_cache,
    } = grant;
    let tuning = world.tuning();
    let now_ms = time::unix_ms();
    if !bypass_cache {
        let repeated =
            world
                .issuer()
                .repeated(&identity.client_id, resource, tuning.reissue_below, now_ms);
        if let Some(issued) = repeated {
            world.tally().numbers.tokens_repeated += 1;
            return issued;
        }
    }
    let now_s = now_ms / 1000;
    let claims = world
        .issuance
        .claims_json(identity, resource, now_s, tuning.lifetime_s);
    let issued = Issued {
        token: world.key.sign(&claims),
        expires_on_s: now_s + tuning.lifetime_s,
        not_before_s: now_s.saturating_sub(BACKDATED_S),
        lifetime_s: tuning.lifetime_s,
    };
    world
        .issuer()
        .remember(&identity.client_id, resource, issued.clone());
    world.tally().numbers.tokens_issued += 1;
    issued
}
