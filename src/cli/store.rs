//! `foretoken store` and `foretoken key`: what is on disk, and the key it is sealed with.
//!
//! Over the admin socket while the server runs; on the files otherwise, as the user that they
//! belong to: what root would leave in the store's folder, the server could not open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Gid, Uid};
use rustix::process::geteuid;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::{Value, json};

use super::status::{in_words, text};
use super::{Failure, client};
use crate::app;
use crate::clock::Clock;
use crate::config::{self, Environment};
use crate::server::Address;
use crate::store::machine::Machine;
use crate::store::offline;
use crate::telemetry::log;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Print what is stored, in numbers: counts, ages, sizes, keys. Never a token.
    Inspect(Args),
    /// Open every stored record. Exit code 1 if one does not open, or the database is damaged.
    Verify(Args),
    /// Erase every stored token.
    ///
    /// What a running server holds in memory is served on, and stored again when it is renewed:
    /// `foretoken purge --all` ends that too.
    Purge(Args),
}

#[derive(clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Seal everything under a new master key and give the one before up.
    ///
    /// Ended at any moment, it leaves a store that opens, and goes on at the next start. A key
    /// that is a systemd credential is changed where the credential is made: the steps are
    /// printed.
    Rotate(Args),
}

#[derive(clap::Args)]
pub(super) struct Args {
    /// The configuration file of the server.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Inspect(args) => {
            let report = ask(args, Wish::Inspect)?;
            say(args, &report, &told(&report))
        }
        Command::Verify(args) => {
            let report = ask(args, Wish::Inspect)?;
            say(args, &report, &verdict(&report))?;
            if report["sound"] == true {
                Ok(())
            } else {
                Err(anyhow!("the store is not sound").into())
            }
        }
        Command::Purge(args) => {
            let report = ask(args, Wish::Purge)?;
            say(args, &report, "every stored token is erased\n")
        }
    }
}

pub(super) fn run_key(command: &KeyCommand) -> Result<(), Failure> {
    let KeyCommand::Rotate(args) = command;
    let report = ask(args, Wish::Rotate)?;
    let key = &report["key"];
    if key["rotating"] == true {
        return Err(anyhow!("the new key is made, and the one before is still needed").into());
    }
    let records = count(&report["stored"]["records"]);
    let line = format!("{records} records under key {}\n", text(&key["id"]));
    say(args, &report, &line)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Inspect,
    Purge,
    Rotate,
}

/// The store as it is, or as the wish leaves it.
fn ask(args: &Args, wish: Wish) -> Result<Value, Failure> {
    let settings = config::load(args.config.as_deref(), &Environment::of_operator())?;
    if let Some(socket) = settings.admin.socket.filter(|socket| is_answered(socket)) {
        return online(&Address::Unix(socket), wish);
    }
    let store = settings.store;
    log::start(settings.log);
    app::harden();
    as_owner(&store.path)?;
    // As the owner reads them: what root alone can read, the server cannot.
    let (machine, now) = (Machine::read(), Clock::system().now());
    let done = match wish {
        Wish::Inspect => offline::inspect(&store, &machine, now).map(|report| report.json()),
        Wish::Rotate => offline::rotate(&store, &machine, now).map(|report| report.json()),
        Wish::Purge => offline::purge(&store).map(|()| json!({})),
    };
    done.map_err(|error| {
        // An operator's shell has no credentials.
        let hint = if store.credentials.is_none() && !store.key.exists() && wish != Wish::Purge {
            " (a key that is a credential is there only while the server runs: ask then)"
        } else {
            ""
        };
        anyhow!("{error}{hint}").into()
    })
}

/// Takes the identity of the folder's owner for good. Called while there is one thread: what the
/// database starts later has it too.
fn as_owner(folder: &Path) -> Result<()> {
    let facts = match fs::metadata(folder) {
        Ok(facts) => facts,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let place = folder.display();
            return Err(error).with_context(|| format!("the store at {place} cannot be looked at"));
        }
    };
    let (owner, group) = (Uid::from_raw(facts.uid()), Gid::from_raw(facts.gid()));
    // A service that was taken over may lead root to a folder of root's by a link, or by a folder
    // that it was given.
    let link = fs::symlink_metadata(folder)?.uid();
    let parent = folder.parent().unwrap_or(Path::new("/"));
    let parent = fs::metadata(parent)?.uid();
    if geteuid().is_root() && (![0, facts.uid()].contains(&link) || facts.uid() == 0 && parent != 0)
    {
        let place = folder.display();
        bail!(
            "the store at {place} is not where its owner would have it: ask as the service's user"
        );
    }
    if geteuid() == owner {
        return Ok(());
    }
    if !geteuid().is_root() {
        let place = folder.display();
        bail!("the store at {place} belongs to user {owner}: ask as that user, or as root");
    }
    set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(group, group, group))
        .and_then(|()| set_thread_res_uid(owner, owner, owner))
        .with_context(|| format!("cannot become user {owner}, to whom the store belongs"))
}

fn is_answered(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

fn online(address: &Address, wish: Wish) -> Result<Value, Failure> {
    let answer = match wish {
        Wish::Inspect => client::get(address, "/store")?,
        Wish::Purge => client::post(address, "/store/purge")?,
        Wish::Rotate => client::post(address, "/store/rotate")?,
    };
    if answer.status != 200 {
        return Err(anyhow!("{}", answer.body.trim()).into());
    }
    let body = serde_json::from_str(&answer.body).context("the answer is no JSON")?;
    Ok(body)
}

fn say(args: &Args, report: &Value, words: &str) -> Result<(), Failure> {
    if args.json {
        super::say(&format!("{report:#}\n"))
    } else {
        super::say(words)
    }
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Records that do not open, by reason.
const BAD: [(&str, &str); 4] = [
    ("refused", "damaged, moved or from another machine"),
    ("other_key", "under a key that is not here"),
    ("other_format", "of another format"),
    ("locked", "bound to something that this user may not read"),
];

fn verdict(report: &Value) -> String {
    let stored = &report["stored"];
    let opened = count(&stored["good"]) + count(&stored["expired"]);
    let mut out = format!("{opened} of {} records open\n", count(&stored["records"]));
    for (name, meaning) in BAD {
        let bad = count(&stored[name]);
        if bad > 0 {
            out.push_str(&format!("{bad} records are {meaning}\n"));
        }
    }
    if let Some(damage) = report["damage"].as_str() {
        out.push_str(&format!("the database is damaged: {damage}\n"));
    }
    out
}

fn told(report: &Value) -> String {
    let (key, stored) = (&report["key"], &report["stored"]);
    let list = |value: &Value| {
        let names = value.as_array().into_iter().flatten().map(text);
        names.collect::<Vec<_>>().join(", ")
    };
    let tally = |value: &Value| {
        let pairs = value.as_object().into_iter().flatten();
        let pairs = pairs.map(|(name, number)| format!("{name}: {number}"));
        pairs.collect::<Vec<_>>().join(", ")
    };
    let span = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), in_words);
    let mut lines = vec![
        (
            "key",
            format!("{}, {}", text(&key["id"]), text(&key["source"])),
        ),
        ("binding", text(&report["binding"])),
        (
            "records",
            format!(
                "{}: {} good, {} expired",
                count(&stored["records"]),
                count(&stored["good"]),
                count(&stored["expired"])
            ),
        ),
    ];
    let older = list(&key["older"]);
    if !older.is_empty() {
        lines.push(("older keys", older));
    }
    for (name, meaning) in BAD {
        let bad = count(&stored[name]);
        if bad > 0 {
            lines.push(("", format!("{bad} {meaning}")));
        }
    }
    lines.extend([
        ("by format", tally(&stored["by_format"])),
        ("by key", tally(&stored["by_key"])),
        ("by binding", tally(&stored["by_binding"])),
        (
            "received",
            format!(
                "{} to {} ago",
                span(&stored["oldest_age_s"]),
                span(&stored["newest_age_s"])
            ),
        ),
        (
            "ends",
            format!(
                "in {} to {}",
                span(&stored["first_end_s"]),
                span(&stored["last_end_s"])
            ),
        ),
        (
            "sealed",
            format!(
                "{} bytes, the largest {}",
                count(&stored["bytes"]),
                count(&stored["largest_bytes"])
            ),
        ),
        ("on disk", format!("{} bytes", count(&report["disk_bytes"]))),
    ]);
    if let Some(number) = report["quarantine"].as_u64() {
        lines.push(("quarantine", format!("db-{number}, damaged")));
    }
    if let Some(damage) = report["damage"].as_str() {
        lines.push(("damage", damage.to_owned()));
    }
    lines
        .into_iter()
        .map(|(name, words)| format!("{name:12}{words}\n"))
        .collect()
}
