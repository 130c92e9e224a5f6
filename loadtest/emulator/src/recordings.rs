//! Replays what real clients sent: the emulator must take their requests byte for byte.
//!
//! The recordings lie in `tests/golden/recordings` of the repository. They were answered by
//! another server that played the endpoints, so the members of its replies are a second opinion
//! on ours.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::testing::{Asker, names};
use crate::{AppService, ArcAgent, AzureMl, Kind, ServiceFabric};

/// The secret of the machine on which the clients were recorded.
const SECRET: &str = "69418689F1E342DD946CB82994CDA3CB";

/// One request and the reply it got then.
struct Exchange {
    file: String,
    endpoint: String,
    /// The path alone.
    path: String,
    /// Head and body.
    request: String,
    status: u64,
    reply: String,
    /// Whether the playing server meant to answer as the real one does.
    proper: bool,
}

fn exchanges(endpoints: &[&str]) -> Vec<Exchange> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/recordings");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let recording: Value = serde_json::from_str(&text).unwrap();
        let proper = recording["server_behaviour"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        for it in recording["exchanges"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let target = text(&it["request"]["target"]);
            let raw = STANDARD.decode(text(&it["request"]["raw_b64"])).unwrap();
            found.push(Exchange {
                file: path.file_name().unwrap().display().to_string(),
                endpoint: text(&it["endpoint"]),
                path: target.split('?').next().unwrap().to_owned(),
                request: String::from_utf8(raw).unwrap(),
                status: it["reply"]["status"].as_u64().unwrap_or_default(),
                reply: text(&it["reply"]["body"]),
                proper,
            });
        }
    }
    found.retain(|it| endpoints.contains(&it.endpoint.as_str()));
    assert!(!found.is_empty());
    found
}

/// Sends the request of an exchange, and holds the reply against the one of then.
fn replay(asker: &Asker, it: &Exchange) {
    let reply = asker.raw(&it.request);
    assert_eq!(
        reply.status, 200,
        "{}: {}\n{}",
        it.file, reply.body, it.request
    );
    if it.proper {
        assert_eq!(names(&reply.body), names(&it.reply), "{}", it.file);
    }
    let seen = asker.emulator.last_request().unwrap();
    assert_eq!(seen, it.request.as_bytes(), "{}", it.file);
}

#[test]
fn imds_takes_the_requests_of_real_clients_and_refuses_their_probes() {
    let asker = Asker::new(Kind::Imds);
    let (mut taken, mut probes) = (0, 0);
    for it in exchanges(&["imds", "pod"]) {
        if it.path.ends_with('/') {
            // One library adds a slash, which only a proxy has to put up with.
            assert_eq!(asker.raw(&it.request).status, 404, "{}", it.file);
        } else if !it.request.to_lowercase().contains("\r\nmetadata: true\r\n")
            || !it.request.contains("resource=")
        {
            assert_eq!(asker.raw(&it.request).status, 400, "{}", it.file);
            probes += 1;
        } else if it.status == 200 {
            replay(&asker, &it);
            taken += 1;
        }
    }
    assert!(taken >= 50 && probes >= 10, "{taken} {probes}");
}

#[test]
fn app_service_takes_the_requests_of_real_clients() {
    let asker = Asker::new(Kind::AppService(AppService {
        secret: SECRET.to_owned(),
        ..AppService::default()
    }));
    for it in exchanges(&["appservice"]) {
        if it.status == 200 {
            replay(&asker, &it);
        }
    }
}

#[test]
fn azure_ml_takes_the_requests_of_real_clients() {
    for it in exchanges(&["aml"]) {
        // Two spellings of the path occur, and one client adds a slash to the one it has.
        let path = it.path.strip_suffix('/').unwrap_or(&it.path).to_owned();
        let asker = Asker::new(Kind::AzureMl(AzureMl {
            path,
            secret: SECRET.to_owned(),
            ..AzureMl::default()
        }));
        replay(&asker, &it);
    }
}

#[test]
fn arc_takes_the_requests_of_real_clients() {
    let key_folder =
        std::env::temp_dir().join(format!("emulator-recordings-{}", std::process::id()));
    let asker = Asker::new(Kind::Arc(ArcAgent {
        key_folder: key_folder.clone(),
        ..ArcAgent::default()
    }));
    let mut key = String::new();
    for mut it in exchanges(&["arc"]) {
        let authorization = "Authorization: Basic ";
        if it.request.contains("api-version=2019-08-01") {
            // A client that takes the agent for App Service.
            assert_eq!(asker.raw(&it.request).status, 400);
        } else if let Some((before, rest)) = it.request.split_once(authorization) {
            let (_, after) = rest.split_once("\r\n").unwrap();
            it.request = format!("{before}{authorization}{key}\r\n{after}");
            replay(&asker, &it);
        } else {
            let reply = asker.raw(&it.request);
            assert_eq!(reply.status, 401, "{}", it.file);
            let challenge = reply.header("www-authenticate").unwrap();
            let realm = challenge.strip_prefix("Basic realm=").unwrap();
            key = fs::read_to_string(realm).unwrap();
        }
    }
    drop(asker);
    fs::remove_dir(key_folder).unwrap();
}

#[test]
fn service_fabric_takes_the_requests_of_real_clients() {
    let asker = Asker::new(Kind::ServiceFabric(ServiceFabric {
        secret: SECRET.to_owned(),
        ..ServiceFabric::default()
    }));
    for it in exchanges(&["sf"]) {
        replay(&asker, &it);
    }
}

#[test]
fn cloud_shell_and_the_extension_take_the_requests_of_real_clients() {
    for (kind, endpoint) in [
        (Kind::CloudShell, "cloudshell"),
        (Kind::VmExtension, "vmext"),
    ] {
        let asker = Asker::new(kind);
        for it in exchanges(&[endpoint]) {
            replay(&asker, &it);
        }
    }
}
