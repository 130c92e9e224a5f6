//! What a verifier of tokens asks the directory for: its configuration and its public keys.

use serde_json::json;

use crate::http::Request;
use crate::refusals::Refusal;
use crate::reply::Reply;
use crate::world::World;

pub(crate) fn open_id_configuration(world: &World, request: &Request) -> Result<Reply, Refusal> {
    get_only(request)?;
    let base = own_url(world, request);
    let configuration = json!({
        "issuer": world.issuance.issuer,
        "jwks_uri": format!("{base}/discovery/keys"),
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["token"],
        "subject_types_supported": ["pairwise"],
    });
    Ok(Reply::json(200, configuration.to_string()))
}

pub(crate) fn keys(world: &World, request: &Request) -> Result<Reply, Refusal> {
    get_only(request)?;
    Ok(Reply::json(200, world.key.jwks()))
}

/// The address a verifier can follow: where we listen, or what the caller called us if we listen
/// everywhere.
fn own_url(world: &World, request: &Request) -> String {
    let host = request
        .header("host")
        .next()
        .and_then(|host| str::from_utf8(host).ok());
    let base = world.base_url();
    match (host, base.split_once("://")) {
        (Some(host), Some((scheme, _))) if world.address.ip().is_unspecified() => {
            format!("{scheme}://{host}")
        }
        _ => base,
    }
}

fn get_only(request: &Request) -> Result<(), Refusal> {
    if request.method == "GET" {
        Ok(())
    } else {
        Err(Refusal::MethodNotAllowed("GET".to_owned()))
    }
}
