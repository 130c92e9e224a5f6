//! `foretoken status`: the keys as a table.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Failure, client};
use crate::config::{self, Environment};
use crate::server::Address;

const HEADINGS: [&str; 7] = [
    "IDENTITY",
    "RESOURCE",
    "LEFT",
    "NEXT CALL",
    "LAST RESULT",
    "HITS",
    "RUNWAY",
];

pub(super) fn run(file: Option<&Path>) -> Result<(), Failure> {
    let settings = config::load(file, &Environment::of_process())?;
    let answer = client::get(&Address::Tcp(settings.admin.address), "/status")?;
    if answer.status != 200 {
        return Err(anyhow::anyhow!("status {}: {}", answer.status, answer.body.trim()).into());
    }
    super::say(&render(&answer.body)?)
}

fn render(body: &str) -> Result<String> {
    let body: Value = serde_json::from_str(body).context("the answer is no JSON")?;
    let keys = body["keys"].as_array().context("the answer has no keys")?;
    let mut rows = vec![HEADINGS.map(String::from)];
    rows.extend(keys.iter().map(row));
    let mut out = table(&rows);
    if body["store"] != "ok" {
        out.push_str(&format!("store: {}\n", text(&body["store"])));
    }
    out.push_str(&keys_line(&body["store_key"]));
    if let Some(class) = body["failure"]["class"].as_str() {
        let ago = span(&body["failure"]["ago_s"]);
        out.push_str(&format!(
            "upstream: the last call failed {ago} ago: {class}\n"
        ));
    }
    match body["breaker"].as_str() {
        Some("open") => out.push_str("upstream: not called but for probes, the breaker is open\n"),
        Some("probing") => out.push_str("upstream: a probe is under way, the breaker is open\n"),
        _ => {}
    }
    let floor = body["outage_to_survive_s"].as_u64().unwrap_or(0);
    let below = |key: &&Value| {
        // One without a token has no runway to speak of.
        key["expires_in_s"].is_u64() && key["runway_s"].as_u64().unwrap_or(0) < floor
    };
    let below = keys.iter().filter(below).count();
    if below > 0 {
        let floor = in_words(floor);
        out.push_str(&format!(
            "runway: {below} of {} keys below {floor}\n",
            keys.len()
        ));
    }
    Ok(out)
}

/// What to do about keys that only open what is stored.
fn keys_line(facts: &Value) -> String {
    let older = facts["older"].as_array().map_or(0, Vec::len);
    let mut out = match (older, facts["under_older"].as_u64()) {
        (0, _) => String::new(),
        (_, Some(0)) => "store: no record needs an older key any more; foretoken.key.old, or the \
                         key file beside a credential, can go\n"
            .to_owned(),
        (_, count) => {
            let count = count.unwrap_or(0);
            format!("store: {count} records still need an older key\n")
        }
    };
    if let Some(locked @ 1..) = facts["locked"].as_u64() {
        out.push_str(&format!(
            "store: {locked} stored tokens do not open with the keys that are here, or as this user\n"
        ));
    }
    out
}

/// Columns, as wide as what stands in them.
pub(super) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS).filter_map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn row(key: &Value) -> [String; 7] {
    [
        text(&key["identity"]),
        question(key),
        span(&key["expires_in_s"]),
        span(&key["next_call_in_s"]),
        text(&key["last"]),
        key["hits"].as_u64().unwrap_or(0).to_string(),
        span(&key["runway_s"]),
    ]
}

/// The resource, and whatever else makes this key another than its neighbour.
pub(super) fn question(key: &Value) -> String {
    let mut all = vec![text(&key["resource"])];
    let capabilities = key["capabilities"].as_array().into_iter().flatten();
    all.extend(capabilities.map(|name| format!("xms_cc={}", text(name))));
    let extras = key["extra_parameters"].as_array().into_iter().flatten();
    all.extend(extras.map(|pair| format!("{}={}", text(&pair[0]), text(&pair[1]))));
    all.join(" ")
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// Seconds as people say them, in two units at most.
fn span(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), in_words)
}

pub(super) fn in_words(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        _ => format!("{hours}h {minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_printed_as_a_table() {
        let body = serde_json::json!({"store": "disk full", "breaker": "open",
            "failure": {"class": "throttled", "ago_s": 75},
            "outage_to_survive_s": 21_600, "keys": [{
            "identity": "system", "resource": "https://vault.azure.net", "expires_in_s": 86_000,
            "next_call_in_s": null, "last": "renewed", "hits": 12, "runway_s": 59,
        }]});
        assert_eq!(
            render(&body.to_string()).unwrap(),
            "IDENTITY  RESOURCE                 LEFT     NEXT CALL  LAST RESULT  HITS  RUNWAY\n\
             system    https://vault.azure.net  23h 53m  -          renewed      12    59s\n\
             store: disk full\n\
             upstream: the last call failed 1m 15s ago: throttled\n\
             upstream: not called but for probes, the breaker is open\n\
             runway: 1 of 1 keys below 6h 0m\n"
        );
    }
}
