//! The metadata documents beside tokens: `/metadata/instance` and `/metadata/versions`.
//!
//! They are here so that a pass-through has something to pass through, and that clients which
//! ask for their region find one. The values are made up.

use serde_json::{Value, json};

use crate::http::Request;
use crate::identities::{MACHINE_NAME, RESOURCE_GROUP, SUBSCRIPTION_ID, machine_resource_id};
use crate::kind::imds::{metadata_headers, metadata_query};
use crate::refusals::Refusal;
use crate::reply::Reply;

/// The instance document, or the part of it that a path such as `compute/location` names. A
/// single value is sent as plain text.
pub(crate) fn instance(request: &Request, path: &str) -> Result<Reply, Refusal> {
    metadata_query(request)?;
    let document = instance_document();
    let part = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .try_fold(&document, |value, segment| match value {
            Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
            other => other.get(segment),
        })
        .ok_or_else(|| Refusal::NoSuchPath(request.target()))?;
    Ok(match part {
        Value::String(text) => Reply::text(200, text.as_str()),
        other => Reply::json(200, other.to_string()),
    })
}

/// The versions document; the one path that asks for no `api-version`.
pub(crate) fn versions(request: &Request) -> Result<Reply, Refusal> {
    metadata_headers(request)?;
    let versions = json!({"apiVersions": [
        "2018-02-01", "2019-03-11", "2019-06-04", "2019-08-01", "2020-06-01", "2021-02-01",
        "2021-11-01", "2021-11-15", "2021-12-13",
    ]});
    Ok(Reply::json(200, versions.to_string()))
}

fn instance_document() -> Value {
    json!({
        "compute": {
            "azEnvironment": "AzurePublicCloud",
            "location": "westeurope",
            "name": MACHINE_NAME,
            "offer": "ubuntu-24_04-lts",
            "osType": "Linux",
            "placementGroupId": "",
            "platformFaultDomain": "0",
            "platformUpdateDomain": "0",
            "provider": "Microsoft.Compute",
            "publisher": "canonical",
            "resourceGroupName": RESOURCE_GROUP,
            "resourceId": machine_resource_id(),
            "sku": "server",
            "subscriptionId": SUBSCRIPTION_ID,
            "tags": "",
            "version": "24.04.202601010",
            "vmId": "f07e70ce-0000-4000-8000-0000000000a1",
            "vmScaleSetName": "",
            "vmSize": "Standard_D2s_v5",
            "zone": "1",
        },
        "network": {"interface": [{
            "ipv4": {
                "ipAddress": [{"privateIpAddress": "10.0.0.4", "publicIpAddress": ""}],
                "subnet": [{"address": "10.0.0.0", "prefix": "24"}],
            },
            "ipv6": {"ipAddress": []},
            "macAddress": "000D3A000001",
        }]},
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{Connection, get, unlimited};

    #[test]
    fn the_instance_document_is_found_whole_and_in_parts() {
        let emulator = unlimited();
        let part = |path: &str| {
            get(
                &emulator,
                &format!("/metadata/instance{path}?api-version=2021-02-01"),
            )
        };
        assert_eq!(part("").json()["compute"]["location"], "westeurope");
        assert_eq!(part("/compute").json()["osType"], "Linux");
        assert_eq!(part("/network/interface/0/macAddress").body, "000D3A000001");
        assert_eq!(
            (
                part("/compute/location").body.as_str(),
                part("/none").status
            ),
            ("westeurope", 404)
        );
    }

    #[test]
    fn the_documents_keep_the_rules_of_the_endpoint() {
        let emulator = unlimited();
        assert_eq!(get(&emulator, "/metadata/instance").status, 400);
        assert_eq!(get(&emulator, "/metadata/versions").status, 200);
        let mut connection = Connection::open(&emulator);
        for target in [
            "/metadata/versions",
            "/metadata/instance?api-version=2021-02-01",
        ] {
            assert_eq!(
                connection.request("GET", target, "", "").unwrap().status,
                400,
                "{target}"
            );
        }
        assert_eq!(emulator.counts().token_calls, 0);
    }
}
