//! The control path `/_emulator/`: reads counts, and changes faults, scenario and tuning, over
//! HTTP.
//!
//! Only callers on the loopback interface are served. It never shows a token.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::faults::{Accept, Fault, FaultKind};
use crate::http::Request;
use crate::modes::{Mode, modes};
use crate::plan::Planned;
use crate::reply::Reply;
use crate::scenario::Scenario;
use crate::settings::Tuning;
use crate::world::World;
use crate::{time, timeline};

/// The actions, each with its methods.
const ACTIONS: [(&str, &[&str]); 10] = [
    ("counts", &["GET"]),
    ("reset", &["POST"]),
    ("forget-tokens", &["POST"]),
    ("catalogue", &["GET"]),
    ("modes", &["GET", "POST", "DELETE"]),
    ("faults", &["GET", "POST", "DELETE"]),
    ("scenario", &["GET", "POST", "DELETE"]),
    ("latency", &["GET", "POST", "DELETE"]),
    ("pressure", &["GET", "POST", "DELETE"]),
    ("settings", &["GET", "POST"]),
];

/// Answers `/_emulator/<action>`. `apart` says that it was asked for on the control listener.
pub(crate) fn answer(
    world: &Arc<World>,
    request: &Request,
    action: &str,
    peer: IpAddr,
    apart: bool,
) -> Reply {
    if !peer.to_canonical().is_loopback() {
        return error(403, "the control path is for loopback callers only");
    }
    let method = request.method.as_str();
    if let (Some(name), "DELETE") = (action.strip_prefix("modes/"), method) {
        let was_in_force = world.change_plan(|plan| plan.clear(name));
        return done_if(was_in_force, &format!("`{name}` is not in force"));
    }
    let Some((action, methods)) = ACTIONS.iter().find(|(name, _)| *name == action) else {
        return error(404, "there is no such action");
    };
    if !methods.contains(&method) {
        return error(405, "this action does not go with this method");
    }
    let now = time::steady();
    match (*action, method) {
        ("counts", _) => {
            let counts = world.tally().read();
            ok(&counts)
        }
        ("reset", _) => {
            world.tally().reset();
            done()
        }
        ("forget-tokens", _) => {
            world.issuer().forget_all();
            done()
        }
        ("catalogue", _) => ok(&modes().iter().map(Mode::to_json).collect::<Vec<_>>()),
        ("modes", "GET") => ok(&world.plan().planned(now)),
        ("modes", "POST") => or_error(add_mode(world, &request.body, apart)),
        ("faults", "GET") => ok(&world.plan().first(now)),
        ("faults", "POST") => or_error(set_fault(world, &request.body, apart)),
        ("modes" | "faults", _) => {
            world.change_plan(|plan| plan.set(None));
            done()
        }
        ("scenario", "GET") => ok(&timeline::state(world)),
        ("scenario", "POST") => or_error(play(world, request)),
        ("scenario", _) => done_if(timeline::stop(world), "no scenario is played"),
        ("latency", "GET") => ok(&world.weather().shown_latency()),
        ("latency", "POST") => or_error(given(&request.body).and_then(|latency| {
            world.set_latency(Some(latency)).map_err(str::to_owned)?;
            Ok(done())
        })),
        ("latency", _) => {
            world.weather().set_latency(None);
            done()
        }
        ("pressure", "GET") => ok(&json!({"capacity_per_s": world.weather().capacity_per_s()})),
        ("pressure", "POST") => or_error(given(&request.body).and_then(|pressure| {
            world.set_pressure(Some(pressure)).map_err(str::to_owned)?;
            Ok(done())
        })),
        ("pressure", _) => {
            world.weather().set_pressure(None, now);
            done()
        }
        ("settings", "GET") => ok(&world.tuning()),
        _ => tune(world, &request.body),
    }
}

fn given<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|cause| cause.to_string())
}

fn or_error(result: Result<Reply, String>) -> Reply {
    result.unwrap_or_else(|message| error(400, &message))
}

/// What would keep its own caller from taking it away again.
fn locks_out(fault: &FaultKind) -> bool {
    matches!(fault, FaultKind::Accept { how } if *how != Accept::OtherCertificate)
}

fn locked_out() -> String {
    "this keeps callers of the control path out too: say when it ends, or start with --control"
        .to_owned()
}

fn add_mode(world: &World, body: &[u8], apart: bool) -> Result<Reply, String> {
    let planned: Planned = given(body)?;
    let mode = Mode::find(&planned.mode).map_err(|cause| cause.to_string())?;
    let ends = planned.for_ms.is_some() || planned.times.is_some();
    if !apart && !ends && mode.fault(&world.kind).as_ref().is_some_and(locks_out) {
        return Err(locked_out());
    }
    world
        .change_plan(|plan| plan.add(&planned, &world.kind, time::steady()))
        .map_err(|cause| cause.to_string())?;
    Ok(ok(&world.plan().planned(time::steady())))
}

fn set_fault(world: &World, body: &[u8], apart: bool) -> Result<Reply, String> {
    let fault = Fault::from_json(body)?;
    if !apart && fault.times.is_none() && locks_out(&fault.kind) {
        return Err(locked_out());
    }
    world.change_plan(|plan| plan.set(Some(fault.clone())));
    Ok(ok(&fault))
}

/// Plays the scenario in the body, at the scale in the query if there is one.
fn play(world: &Arc<World>, request: &Request) -> Result<Reply, String> {
    let text = str::from_utf8(&request.body).map_err(|cause| cause.to_string())?;
    let mut scenario = Scenario::from_toml(text).map_err(|cause| cause.to_string())?;
    if let Some(scale) = request.query.strip_prefix("scale=") {
        scenario = scenario.at_scale(parse_scale(scale)?);
    }
    timeline::start(world, scenario, &Handle::current());
    Ok(ok(&timeline::state(world)))
}

/// Reads a scale given outside of a file.
fn parse_scale(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|scale| Scenario::SCALES.contains(scale))
        .ok_or_else(|| format!("`{text}` is no scale: a number from 0.001 to 100000"))
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

fn done_if(found: bool, else_message: &str) -> Reply {
    if found {
        done()
    } else {
        error(404, else_message)
    }
}

fn error(status: u16, message: &str) -> Reply {
    Reply::json(status, json!({"error": message}).to_string())
}

#[cfg(test)]
mod tests {
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
    fn modes_are_put_in_force_beside_each_other_and_taken_away_one_by_one() {
        let emulator = unlimited();
        let set = |body: &str| call(&emulator, "POST", "modes", body);
        assert_eq!(set(r#"{"mode":"status-503","times":1}"#).status, 200);
        assert_eq!(set(r#"{"mode":"status-500"}"#).status, 200);
        assert_eq!(
            set(r#"{"mode":"reset","share":0.5,"for_ms":60000}"#).status,
            200
        );
        let names = || {
            let active = call(&emulator, "GET", "modes", "").json();
            let active = active.as_array().unwrap().iter();
            active.map(|it| it["mode"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(), ["status-503", "status-500", "reset"]);
        assert_eq!(ask(&emulator, "").status, 503);
        assert_eq!(ask(&emulator, "").status, 500);
        assert_eq!(
            call(&emulator, "DELETE", "modes/status-500", "").status,
            200
        );
        assert_eq!(
            call(&emulator, "DELETE", "modes/status-500", "").status,
            404
        );
        assert_eq!(names(), ["reset"]);
        assert_eq!(call(&emulator, "DELETE", "modes", "").status, 200);
        assert_eq!(ask(&emulator, "").status, 200);
        let modes = call(&emulator, "GET", "counts", "").json()["modes"].clone();
        assert_eq!(modes, json!({"status-500": 1, "status-503": 1}));
        for (wrong, told) in [
            (r#"{"mode":"x"}"#, "did you mean"),
            (r#"{"mode":"hang","time":1}"#, "unknown field `time`"),
            (
                r#"{"mode":"exception-as-200"}"#,
                "does not apply to --kind imds",
            ),
            (r#"{"mode":"accept-hang"}"#, "say when it ends"),
            (
                r#"{"mode":"connect-refused","times":2}"#,
                "neither `share` nor `times`",
            ),
        ] {
            let reply = set(wrong);
            assert!(
                reply.status == 400 && reply.body.contains(told),
                "{wrong}: {}",
                reply.body
            );
        }
        let lasting = r#"{"kind":"accept","how":"reset"}"#;
        assert_eq!(call(&emulator, "POST", "faults", lasting).status, 400);
    }

    #[test]
    fn the_catalogue_is_the_list_of_modes() {
        let list = call(&unlimited(), "GET", "catalogue", "").json();
        assert_eq!(list.as_array().unwrap().len(), modes().len());
        let hang = json!({
            "name": "hang", "group": "connection", "keep": "no",
            "about": "nothing comes, and the connection stays open",
            "kinds": Mode::find("hang").unwrap().kinds(),
        });
        assert!(list.as_array().unwrap().contains(&hang));
    }

    #[test]
    fn a_scenario_is_played_shown_and_stopped() {
        let emulator = unlimited();
        let text = "name = 's'\n[[phase]]\nname = 'p'\nat = '0s'\n[[phase.fault]]\nmode = 'html'\n";
        let played = call(&emulator, "POST", "scenario?scale=7.5", text).json();
        assert_eq!(
            (&played["phase"], &played["scale"]),
            (&"p".into(), &7.5.into())
        );
        assert!(ask(&emulator, "").body.starts_with("<!DOCTYPE"));
        assert_eq!(
            call(&emulator, "GET", "scenario", "").json()["phases_begun"],
            1
        );
        assert_eq!(call(&emulator, "DELETE", "scenario", "").status, 200);
        assert_eq!(call(&emulator, "DELETE", "scenario", "").status, 404);
        assert_eq!(call(&emulator, "GET", "scenario", "").json(), Value::Null);
        ask(&emulator, "").token();
        let wrong = call(&emulator, "POST", "scenario", &text.replace("html", "htm"));
        assert_eq!(wrong.status, 400);
        let told = "6:8: there is no fault mode `htm`; did you mean `html`?";
        assert_eq!(wrong.json()["error"], told);
        assert_eq!(
            call(&emulator, "POST", "scenario?scale=0", text).status,
            400
        );
    }

    #[test]
    fn weather_is_set_shown_and_cleared() {
        let emulator = unlimited();
        let latency = r#"{"uniform":{"from_ms":1.0,"to_ms":2.0}}"#;
        assert_eq!(call(&emulator, "POST", "latency", latency).status, 200);
        assert_eq!(call(&emulator, "GET", "latency", "").body, latency);
        assert_eq!(call(&emulator, "DELETE", "latency", "").status, 200);
        assert_eq!(call(&emulator, "GET", "latency", "").json(), Value::Null);
        let pressure = r#"{"from_per_s":1,"to_per_s":9,"heals_in_ms":9000000,"setback_ms":0,
            "status":502}"#;
        assert_eq!(call(&emulator, "POST", "pressure", pressure).status, 200);
        let statuses = [(); 2].map(|()| ask(&emulator, "").status);
        assert_eq!(statuses, [200, 502]);
        assert_eq!(call(&emulator, "GET", "counts", "").json()["overloaded"], 1);
        assert_eq!(call(&emulator, "DELETE", "pressure", "").status, 200);
        assert_eq!(
            call(&emulator, "GET", "pressure", "").json()["capacity_per_s"],
            Value::Null
        );
        assert_eq!(ask(&emulator, "").status, 200);
        for (action, wrong) in [
            ("latency", r#"{"uniform":{"from_ms":2,"to_ms":1}}"#),
            ("latency", r#"{"gamma":1}"#),
            (
                "pressure",
                r#"{"from_per_s":0,"to_per_s":9,"heals_in_ms":9,"setback_ms":0}"#,
            ),
        ] {
            assert_eq!(
                call(&emulator, "POST", action, wrong).status,
                400,
                "{wrong}"
            );
        }
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

        let status =
            |peer: &str| answer(&world, &request, "counts", peer.parse().unwrap(), false).status;
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
