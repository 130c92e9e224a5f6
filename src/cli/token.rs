//! `foretoken token`: what a client would get.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Failure, claims, client};
use crate::config::{self, Environment};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The resource to ask for, for example `https://vault.azure.net`.
    #[arg(long)]
    resource: String,
    /// A user-assigned identity, by client id.
    #[arg(long, value_name = "ID", group = "selector")]
    client_id: Option<String>,
    /// A user-assigned identity, by object (principal) id.
    #[arg(long, value_name = "ID", group = "selector")]
    object_id: Option<String>,
    /// A user-assigned identity, by ARM resource id.
    #[arg(long, value_name = "ID", group = "selector")]
    msi_res_id: Option<String>,
    /// Print the token's claims, without its signature, instead of the whole answer.
    #[arg(long)]
    claims: bool,
    /// The configuration file of the server to ask; its first listener is used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = config::load(args.config.as_deref(), &Environment::of_process())?;
    let listener = settings
        .server
        .listeners
        .first()
        .context("no listener is configured")?;
    let answer = client::get(&listener.address, &target(args))?;
    if answer.status != 200 {
        // An error body holds no token.
        return Err(anyhow::anyhow!("status {}: {}", answer.status, answer.body.trim()).into());
    }
    if args.claims {
        super::say(&format!("{:#}\n", claims_of(&answer.body)?))
    } else {
        super::say(&format!("{}\n", answer.body))
    }
}

fn target(args: &Args) -> String {
    let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let resource = escape(&args.resource);
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01";
    let selectors = [
        ("client_id", &args.client_id),
        ("object_id", &args.object_id),
        ("msi_res_id", &args.msi_res_id),
    ];
    let selector: String = selectors
        .into_iter()
        .filter_map(|(name, value)| Some(format!("&{name}={}", escape(value.as_deref()?))))
        .collect();
    format!("{path}&resource={resource}{selector}")
}

fn claims_of(body: &str) -> Result<serde_json::Value> {
    let body: serde_json::Value = serde_json::from_str(body).context("the answer is no JSON")?;
    let Some(token) = body["access_token"].as_str() else {
        bail!("the answer has no token")
    };
    claims::decode(token)
}
