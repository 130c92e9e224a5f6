//! The control path `/_emulator/`: reads counts, and changes faults and tuning, over HTTP.
//!
//! Only callers on the loopback interface are served. It never shows a token.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::http::{Reply, Request};
use crate::settings::Tuning;
use crate::world::World;

/// Answers `/_emulator/<action>`.
pub(crate) fn answer(world: &World, request: &Request, action: &str, peer: IpAddr) -> Reply {
    if !peer.to_canonical().is_loopback() {
        return error(403, "the control path is for loopback callers only");
    }
    match (request.method.as_str(), action) {
        ("GET", "counts") => {
            let counts = world.tally().read();
            ok(&counts)
        }
        ("POST", "reset") => {
            world.tally().reset();
            done()
        }
        ("POST", "forget-tokens") => {
            world.issuer().forget_all();
            done()
        }
        ("GET", "faults") => ok(&world.faults().current()),
        ("POST", "faults") => match Fault::from_json(&request.body) {
            Ok(fault) => {
                world.faults().set(Some(fault.clone()));
                ok(&fault)
            }
            Err(message) => error(400, &message),
        },
        ("DELETE", "faults") => {
            world.faults().set(None);
            done()
        }
        ("GET", "settings") => ok(&world.tuning()),
        ("POST", "settings") => tune(world, &request.body),
        (_, "counts" | "reset" | "forget-tokens" | "faults" | "settings") => {
            error(405, "this action does not go with this method")
        }
        _ => error(404, "there is no such action"),
    }
}

/// Changes the settings that are named, leaves the others, and shows all of them.
fn tune(world: &World, body: &[u8]) -> Reply {
    let change: Value = match serde_json::from_slice(body) {
        Ok(change) => change,
        Err(cause) => return error(400, &cause.to_string()),
    };
    let mut merged = serde_json::to_value(world.tuning()).expect("settings serialise");
    merge(&mut merged, change);
    match serde_json::from_value::<Tuning>(merged) {
        Ok(wanted) => ok(&world.tune(|tuning| *tuning = wanted)),
        Err(cause) => error(400, &cause.to_string()),
    }
}

/// Puts the members of one object over those of another, object within object.
fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn ok(value: &impl Serialize) -> Reply {
    Reply::json(
        200,
        serde_json::to_string(value).expect("these values always serialise"),
    )
}

fn done() -> Reply {
    Reply::json(200, json!({"done": true}).to_string())
}

fn error(status: u16, message: &str) -> Reply {
    Reply::json(status, json!({"error": message}).to_string())
}
