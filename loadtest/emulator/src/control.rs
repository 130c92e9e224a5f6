//! The control path `/_emulator/`: reads counts, and changes faults and tuning, over HTTP.
//!
//! Only callers on the loopback interface are served. It never shows a token.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::http::Request;
use crate::reply::Reply;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Connection, RESOURCE, Response, ask, get, unlimited};
    use crate::{Counts, Emulator, FaultKind, Settings};

    fn call(emulator: &Emulator, method: &str, action: &str, body: &str) -> Response {
        let target = format!("/_emulator/{action}");
        Connection::open(emulator)
            .request(method, &target, "", body)
            .unwrap()
    }

    #[test]
    fn counts_over_http_are_those_of_the_handle() {
        let emulator = unlimited();
        ask(&emulator, "");
        ask(&emulator, "&client_id=AAAAAAAA-1111-4222-8333-444444444444");
        get(&emulator, "/metadata/versions");
        let counts: Counts =
            serde_json::from_str(&call(&emulator, "GET", "counts", "").body).unwrap();
        assert_eq!(counts, emulator.counts());
        assert_eq!(
            (counts.total, counts.token_calls, counts.tokens_issued),
            (3, 2, 2)
        );
        assert_eq!(counts.calls_for("system", RESOURCE), 1);
        let client = "client_id=aaaaaaaa-1111-4222-8333-444444444444";
        assert_eq!(counts.calls_for(client, RESOURCE), 1);
        assert_eq!(counts.arrivals_unix_ms.len(), 2);

        assert_eq!(call(&emulator, "POST", "reset", "").status, 200);
        assert_eq!(emulator.counts(), Counts::default());
    }

    #[test]
    fn faults_are_set_shown_and_cleared() {
        let emulator = unlimited();
        let body = r#"{"kind":"status","status":410,"times":5}"#;
        assert_eq!(call(&emulator, "POST", "faults", body).status, 200);
        assert_eq!(ask(&emulator, "").status, 410);
        assert_eq!(call(&emulator, "GET", "faults", "").json()["times"], 4);
        assert_eq!(call(&emulator, "DELETE", "faults", "").status, 200);
        assert_eq!(call(&emulator, "GET", "faults", "").json(), Value::Null);
        assert_eq!(ask(&emulator, "").status, 200);
        assert_eq!(
            call(&emulator, "POST", "faults", r#"{"kind":"x"}"#).status,
            400
        );
    }

    #[test]
    fn settings_that_are_not_named_stay_as_they_are() {
        let emulator = unlimited();
        let body = r#"{"lifetime_s":9,"limits":{"at_once":2}}"#;
        let shown = call(&emulator, "POST", "settings", body).json();
        let expected = json!({
            "lifetime_s": 9, "latency_ms": 0, "reissue_below": 0.5,
            "limits": {"requests_per_s": 0, "at_once": 2},
        });
        assert_eq!(shown, expected);
        assert_eq!(call(&emulator, "GET", "settings", "").json(), expected);
        for wrong in [r#"{"life":1}"#, r#"{"lifetime_s":-1}"#, "{", "7"] {
            assert_eq!(
                call(&emulator, "POST", "settings", wrong).status,
                400,
                "{wrong}"
            );
        }
        assert_eq!(emulator.tuning().lifetime_s, 9);
    }

    #[test]
    fn forgotten_tokens_are_not_repeated() {
        let emulator = unlimited();
        let first = ask(&emulator, "").token();
        assert_eq!(call(&emulator, "POST", "forget-tokens", "").status, 200);
        assert_ne!(ask(&emulator, "").token(), first);
    }

    #[test]
    fn unknown_actions_and_methods_are_refused() {
        let emulator = unlimited();
        assert_eq!(call(&emulator, "GET", "tokens", "").status, 404);
        assert_eq!(call(&emulator, "GET", "reset", "").status, 405);
        assert_eq!(call(&emulator, "POST", "counts", "").status, 405);
    }

    #[tokio::test]
    async fn callers_from_elsewhere_are_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(World::new(Settings::default(), address).unwrap());
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let text = b"GET /_emulator/counts HTTP/1.1\r\nHost: t\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, text)
            .await
            .unwrap();
        let request = crate::http::read_request(&mut stream, &mut Vec::new(), false)
            .await
            .unwrap();

        let status = |peer: &str| answer(&world, &request, "counts", peer.parse().unwrap()).status;
        assert_eq!(
            (
                status("127.0.0.1"),
                status("::1"),
                status("::ffff:127.0.0.1")
            ),
            (200, 200, 200)
        );
        assert_eq!((status("10.0.0.4"), status("::ffff:10.0.0.4")), (403, 403));
    }

    #[test]
    fn a_fault_set_by_the_handle_is_seen_over_http() {
        let emulator = unlimited();
        emulator.set_fault(Some(Fault::always(FaultKind::Hang)));
        assert_eq!(call(&emulator, "GET", "faults", "").json()["kind"], "hang");
    }
}
