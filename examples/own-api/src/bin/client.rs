//! Calls the API as a managed identity: two plain HTTP calls, and no secret anywhere.
//!
//! `client API_URL API_AUDIENCE [CLIENT_ID]`: as the user-assigned identity with this client id, or
//! as the machine's own. Prints the API's status and answer; never the token.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [api, audience, client_id @ ..] = arguments.as_slice() else {
        bail!("the arguments are the API's URL, its audience and perhaps a client id");
    };
    let token = token(audience, client_id.first())?;
    let mut answer = agent()
        .get(format!("{api}/whoami"))
        .header("Authorization", format!("Bearer {token}"))
        .call()
        .context("the API does not answer")?;
    println!(
        "{} {}",
        answer.status().as_u16(),
        answer.body_mut().read_to_string()?
    );
    Ok(())
}

/// A token for the audience, from Foretoken. Ask for each call: it is Foretoken that remembers.
fn token(audience: &str, client_id: Option<&String>) -> Result<String> {
    let host = std::env::var("AZURE_POD_IDENTITY_AUTHORITY_HOST")
        .unwrap_or_else(|_| "http://127.0.0.1:16925".to_owned());
    let mut request = agent()
        .get(format!("{host}/metadata/identity/oauth2/token"))
        .header("Metadata", "true")
        .query("api-version", "2018-02-01")
        .query("resource", audience);
    if let Some(client_id) = client_id {
        request = request.query("client_id", client_id);
    }
    let mut answer = request.call().context("Foretoken does not answer")?;
    let body: Value = answer
        .body_mut()
        .read_json()
        .context("Foretoken's answer")?;
    match body["access_token"].as_str() {
        Some(token) => Ok(token.to_owned()),
        None => bail!("no token: {} {body}", answer.status()),
    }
}

/// Refusals are answers too: their bodies say why.
fn agent() -> ureq::Agent {
    let settings = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(std::time::Duration::from_secs(30)));
    settings.build().into()
}
