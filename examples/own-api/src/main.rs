//! An API behind an identity provider: `GET /whoami` tells a caller what its token says of it.
//!
//! `api LISTEN AUDIENCE ROLE ISSUER DISCOVERY_URL`. A caller needs a token for the audience, from
//! the issuer, signed with a key that the issuer publishes, and within its life: else 401. And it
//! needs the app role: else 403.
//!
//! Nothing here knows of Foretoken: a token is a token.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Value, json};

use keys::Keys;

mod keys;

struct Api {
    keys: Keys,
    audience: String,
    role: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Ok([listen, audience, role, issuer, discovery]) = <[String; 5]>::try_from(arguments) else {
        bail!("the arguments are an address, an audience, a role, an issuer and a discovery URL");
    };
    let keys = Keys::new(discovery, issuer)?;
    let api = Arc::new(Api {
        keys,
        audience,
        role,
    });
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .context(listen)?;
    println!("own-api listening on http://{}", listener.local_addr()?);
    let routes = Router::new().route("/whoami", get(whoami)).with_state(api);
    Ok(axum::serve(listener, routes).await?)
}

async fn whoami(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let Some(token) = bearer(&headers).map(str::to_owned) else {
        return refuse(StatusCode::UNAUTHORIZED, "no bearer token");
    };
    // Checking may mean fetching keys, which blocks.
    let checked = tokio::task::spawn_blocking(move || api.check(&token)).await;
    match checked {
        Ok(Ok(claims)) => Json(claims).into_response(),
        Ok(Err((status, why))) => refuse(status, &why),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the check did not end"),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

impl Api {
    /// What the token says of its holder, if the holder may come in.
    fn check(&self, token: &str) -> Result<Value, (StatusCode, String)> {
        let claims = self
            .verify(token)
            .map_err(|error| (StatusCode::UNAUTHORIZED, format!("{error:#}")))?;
        let roles = claims["roles"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if roles.iter().any(|role| role == self.role.as_str()) {
            return Ok(claims);
        }
        Err((
            StatusCode::FORBIDDEN,
            format!("the app role {} is needed", self.role),
        ))
    }

    fn verify(&self, token: &str) -> Result<Value> {
        let header = jsonwebtoken::decode_header(token).context("not a token")?;
        let name = header.kid.context("the token does not name its key")?;
        let key = self
            .keys
            .find(&name)
            .context("the token's key is not one of the issuer's")?;
        // One algorithm, ours to choose: what the token's header says is the caller's word.
        let mut rules = Validation::new(Algorithm::RS256);
        rules.set_audience(&[&self.audience]);
        rules.set_issuer(&[self.keys.issuer()]);
        rules.set_required_spec_claims(&["exp", "nbf", "aud", "iss"]);
        rules.validate_nbf = true;
        Ok(jsonwebtoken::decode::<Value>(token, &key, &rules)?.claims)
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (
        status,
        [(WWW_AUTHENTICATE, "Bearer")],
        Json(json!({ "error": why })),
    )
        .into_response()
}
