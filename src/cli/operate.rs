//! `foretoken purge` and `foretoken refresh`: what changes keys, over the admin socket.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, client, status};
use crate::config::{self, Environment};
use crate::server::Address;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The keys of this resource, exactly as `foretoken status` prints it, whoever's they are.
    #[arg(value_name = "KEY", required_unless_present_any = ["all", "identity"])]
    key: Option<String>,
    /// Only keys of this identity, as `foretoken status` prints it: `system`, `client_id=…`,
    /// `object_id=…` or `msi_res_id=…`. Without KEY, all of its keys.
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// Every key.
    #[arg(long, conflicts_with_all = ["key", "identity"])]
    all: bool,
    /// The configuration file of the server; it names the admin socket.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn purge(args: &Args) -> Result<(), Failure> {
    super::say(&ask(args, "/purge")?)
}

pub(super) fn refresh(args: &Args) -> Result<(), Failure> {
    let (table, left) = report(&ask(args, "/refresh")?)?;
    super::say(&table)?;
    match left {
        0 => Ok(()),
        1 => Err(anyhow!("1 key was not refreshed").into()),
        _ => Err(anyhow!("{left} keys were not refreshed").into()),
    }
}

fn ask(args: &Args, path: &str) -> Result<String, Failure> {
    let settings = config::load(args.config.as_deref(), &Environment::of_operator())?;
    let socket = settings.admin.socket;
    let socket = socket.context("`admin.socket` is off, and nothing can be changed without it")?;
    let answer = client::post(&Address::Unix(socket), &format!("{path}?{}", query(args)))?;
    if answer.status != 200 {
        return Err(anyhow!("{}", answer.body.trim()).into());
    }
    Ok(answer.body)
}

fn query(args: &Args) -> String {
    if args.all {
        return "all".to_owned();
    }
    let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let named = [("resource", &args.key), ("identity", &args.identity)];
    let pairs = named
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_deref()?))));
    pairs.collect::<Vec<_>>().join("&")
}

/// One line for each key, and how many have not got what was wished for.
fn report(body: &str) -> Result<(String, usize)> {
    let body: Value = serde_json::from_str(body).context("the answer is no JSON")?;
    let keys = body["keys"].as_array().context("the answer has no keys")?;
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let text = |name: &str| status::text(&key[name]);
            [text("identity"), status::question(key), text("result")]
        })
        .collect();
    let left = keys.iter().filter(|key| key["done"] != true).count();
    if rows.is_empty() {
        return Ok(("there are no keys\n".to_owned(), 0));
    }
    Ok((status::table(&rows), left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_line_and_failures_are_counted() {
        let key = |resource: &str, result: &str, done| {
            serde_json::json!({
                "identity": "system", "resource": resource, "result": result, "done": done,
            })
        };
        let keys = [key("a", "renewed", true), key("bb", "timeout", false)];
        let (table, left) = report(&serde_json::json!({ "keys": keys }).to_string()).unwrap();
        assert_eq!(table, "system  a   renewed\nsystem  bb  timeout\n");
        assert_eq!(left, 1);
    }

    #[test]
    fn keys_are_named_by_resource_identity_or_both() {
        let args = |key: Option<&str>, identity: Option<&str>, all| Args {
            key: key.map(str::to_owned),
            identity: identity.map(str::to_owned),
            all,
            config: None,
        };
        assert_eq!(query(&args(None, None, true)), "all");
        assert_eq!(
            query(&args(Some("https://a b"), Some("client_id=1"), false)),
            "resource=https%3A%2F%2Fa%20b&identity=client%5Fid%3D1"
        );
    }
}
