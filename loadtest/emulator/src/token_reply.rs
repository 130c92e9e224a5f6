//! The answer to a granted token request: a token, new or repeated, and the body around it.

use std::time::Duration;

use ring::digest;

use crate::Identity;
use crate::claims::BACKDATED_S;
use crate::faults::FaultKind;
use crate::issuer::Issued;
use crate::reply::Reply;
use crate::time;
use crate::world::World;

/// A token request that will be served, unless a fault comes in between.
pub(crate) struct Grant {
    pub identity: Identity,
    pub resource: String,
    /// The name and value that selected the identity, as the request wrote them.
    pub asked_by: Option<(&'static str, String)>,
    pub bypass_cache: bool,
    /// The hash of a token that is not to be repeated.
    pub refused_token: Option<String>,
    /// How long it waits, as set when it arrived.
    pub latency: Duration,
}

/// What a success body is made of. Each kind takes what it needs.
pub(crate) struct Success<'a> {
    pub token: &'a str,
    pub client_id: &'a str,
    /// Seconds left, counted from now.
    pub expires_in_s: u64,
    /// Seconds since the Unix epoch, as the token says.
    pub expires_on_s: u64,
    pub not_before_s: u64,
    pub resource: &'a str,
    pub asked_by: Option<&'a (&'static str, String)>,
}

/// The success reply, with the expiry counted from now, and with the changes that a fault makes.
pub(crate) fn token_reply(world: &World, grant: &Grant, fault: Option<&FaultKind>) -> Reply {
    let issued = token_for(world, grant, fault);
    let now_s = time::unix_ms() / 1000;
    let mut body = world.kind.success(&Success {
        token: &issued.token,
        client_id: &grant.identity.client_id,
        expires_in_s: issued.expires_on_s.saturating_sub(now_s),
        expires_on_s: issued.expires_on_s,
        not_before_s: issued.not_before_s,
        resource: &grant.resource,
        asked_by: grant.asked_by.as_ref(),
    });
    match fault {
        Some(FaultKind::Edit { members }) => body.edit(members),
        Some(FaultKind::Expiry { spelling }) => body.edit(&spelling.members(issued.expires_on_s)),
        _ => {}
    }
    Reply::json(200, body.to_json())
}

/// The last token again if it is good enough, else a new one.
fn token_for(world: &World, grant: &Grant, fault: Option<&FaultKind>) -> Issued {
    let Grant {
        identity,
        resource,
        bypass_cache,
        refused_token,
        ..
    } = grant;
    let tuning = world.tuning();
    let now_ms = time::unix_ms();
    if let Some(FaultKind::Issue {
        shift_s,
        lifetime_s,
    }) = fault
    {
        // Not remembered: the next request gets what it would have got without the fault.
        let then_s = (now_ms / 1000).saturating_add_signed(*shift_s);
        return issue(
            world,
            grant,
            then_s,
            lifetime_s.unwrap_or(tuning.lifetime_s),
        );
    }
    let unchanged = matches!(fault, Some(FaultKind::Unchanged));
    if unchanged || !bypass_cache {
        // No share of a life is below this one, so that a token of any age is repeated.
        let share = if unchanged {
            -f64::INFINITY
        } else {
            tuning.reissue_below
        };
        let repeated = world
            .issuer()
            .repeated(&identity.client_id, resource, share, now_ms);
        let is_refused = |issued: &Issued| {
            !unchanged && refused_token.as_deref() == Some(sha256_hex(&issued.token).as_str())
        };
        if let Some(issued) = repeated.filter(|it| !is_refused(it)) {
            world.tally().numbers.tokens_repeated += 1;
            return issued;
        }
    }
    let issued = issue(world, grant, now_ms / 1000, tuning.lifetime_s);
    world
        .issuer()
        .remember(&identity.client_id, resource, issued.clone());
    issued
}

/// A new token, issued at this moment.
fn issue(world: &World, grant: &Grant, now_s: u64, lifetime_s: u64) -> Issued {
    let claims = world
        .issuance
        .claims_json(&grant.identity, &grant.resource, now_s, lifetime_s);
    world.tally().numbers.tokens_issued += 1;
    Issued {
        token: world.key.sign(&claims),
        expires_on_s: now_s + lifetime_s,
        not_before_s: now_s.saturating_sub(BACKDATED_S),
        lifetime_s,
    }
}

/// The hash by which callers name a token they were refused with, in lower-case hex.
pub(crate) fn sha256_hex(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::{RESOURCE, ask, unlimited};
    use crate::time;

    #[test]
    fn a_success_has_the_real_fields_in_the_real_order_all_strings() {
        let reply = ask(&unlimited(), "");
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("content-type"),
            Some("application/json; charset=utf-8")
        );
        assert!(
            reply
                .header("server")
                .unwrap()
                .starts_with("IMDS/150.870.65.")
        );
        assert_eq!(reply.header("x-ms-request-id").unwrap().len(), 36);
        assert!(reply.header("date").unwrap().ends_with(" GMT"));

        let members = reply.body.trim_matches(['{', '}']).split("\",\"");
        let names: Vec<&str> = members
            .map(|it| it.split('"').find(|part| !part.is_empty()).unwrap())
            .collect();
        let expected = [
            "access_token",
            "client_id",
            "expires_in",
            "expires_on",
            "ext_expires_in",
            "not_before",
            "resource",
            "token_type",
        ];
        assert_eq!(names, expected);
        assert!(
            reply
                .json()
                .as_object()
                .unwrap()
                .values()
                .all(serde_json::Value::is_string)
        );
        assert_eq!(reply.json()["token_type"], "Bearer");
        assert_eq!(reply.json()["resource"], RESOURCE);
    }

    #[test]
    fn the_expiry_agrees_with_the_token_and_with_the_clock() {
        let emulator = unlimited();
        let before_s = time::unix_ms() / 1000;
        let reply = ask(&emulator, "");
        let after_s = time::unix_ms() / 1000;
        let seconds = |name: &str| reply.json()[name].as_str().unwrap().parse::<u64>().unwrap();

        assert_eq!(reply.claims()["exp"], seconds("expires_on"));
        assert_eq!(reply.claims()["nbf"], seconds("not_before"));
        let answered_s = seconds("expires_on") - seconds("expires_in");
        assert!((before_s..=after_s).contains(&answered_s));
        assert_eq!(seconds("expires_in"), seconds("ext_expires_in"));
    }

    #[test]
    fn the_audience_is_the_resource_exactly_as_asked() {
        let emulator = unlimited();
        let slash = ask(&emulator, "/");
        assert_eq!(slash.claims()["aud"], format!("{RESOURCE}/"));
        assert_eq!(slash.json()["resource"], format!("{RESOURCE}/"));
        assert_ne!(slash.token(), ask(&emulator, "").token());
    }

    #[test]
    fn a_token_is_repeated_until_told_otherwise() {
        let emulator = unlimited();
        let first = ask(&emulator, "").token();
        assert_eq!(ask(&emulator, "").token(), first);
        assert_ne!(ask(&emulator, "&bypass_cache=true").token(), first);
        emulator.forget_tokens();
        let third = ask(&emulator, "").token();
        emulator.set_reissue_below(1.0);
        assert_ne!(ask(&emulator, "").token(), third);
        let counts = emulator.counts();
        assert_eq!((counts.tokens_issued, counts.tokens_repeated), (4, 1));
    }

    #[test]
    fn a_new_lifetime_holds_for_new_tokens() {
        let emulator = unlimited();
        ask(&emulator, "");
        emulator.set_lifetime_s(100);
        let claims = ask(&emulator, "&client_id=aaaaaaaa-1111-4222-8333-444444444444").claims();
        assert_eq!(
            claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
            400
        );
        assert!(
            ask(&emulator, "").json()["expires_in"]
                .as_str()
                .unwrap()
                .len()
                > 3
        );
    }
}
