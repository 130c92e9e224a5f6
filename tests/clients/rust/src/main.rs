//! One Rust client, asked for tokens; run by `doors.py`, which verifies what it says.
//!
//! Arguments: the client, and a JSON list of `{"selector", "id", "resource"}`. Prints one JSON
//! object for each: `{"token", "expires_on"}` or `{"error"}`. Standard output has to be a pipe:
//! tokens go there.

use std::error::Error;

use azure_core::credentials::TokenCredential as _;
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use object_store::azure::{AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [client, asks] = arguments.as_slice() else {
        return Err("the arguments are a client and a list".into());
    };
    let asks: Vec<Value> = serde_json::from_str(asks)?;
    // Only because aws-lc is left out, see Cargo.toml.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for ask in &asks {
        let field = |name: &str| ask[name].as_str().unwrap_or_default();
        let (selector, id, resource) = (field("selector"), field("id"), field("resource"));
        let answer = match client.as_str() {
            "azure_identity" => azure_identity(selector, id, resource).await,
            "object_store" => object_store(selector, id).await,
            _ => Err("no such client".into()),
        };
        println!(
            "{}",
            answer.unwrap_or_else(|error| json!({ "error": error.to_string() }))
        );
    }
    Ok(())
}

async fn azure_identity(selector: &str, id: &str, resource: &str) -> Result<Value, Box<dyn Error>> {
    let user_assigned_id = match selector {
        "client_id" => Some(UserAssignedId::ClientId(id.to_owned())),
        "object_id" => Some(UserAssignedId::ObjectId(id.to_owned())),
        "resource_id" => Some(UserAssignedId::ResourceId(id.to_owned())),
        _ => None,
    };
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id,
        ..Default::default()
    };
    let credential = ManagedIdentityCredential::new(Some(options))?;
    let scope = format!("{resource}/.default");
    let answer = credential.get_token(&[&scope], None).await?;
    Ok(json!({ "token": answer.token.secret(), "expires_on": answer.expires_on.unix_timestamp() }))
}

/// Always of <https://storage.azure.com>; it tells no expiry.
async fn object_store(selector: &str, id: &str) -> Result<Value, Box<dyn Error>> {
    let key = match selector {
        "client_id" => Some(AzureConfigKey::ClientId),
        "object_id" => Some(AzureConfigKey::ObjectId),
        "resource_id" => Some(AzureConfigKey::MsiResourceId),
        _ => None,
    };
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account("account")
        .with_container_name("container");
    if let Some(key) = key {
        builder = builder.with_config(key, id);
    }
    let store = builder.build()?;
    match store.credentials().get_credential().await?.as_ref() {
        AzureCredential::BearerToken(token) => Ok(json!({ "token": token, "expires_on": null })),
        _ => Err("not a bearer token".into()),
    }
}
