//! Writes a blob and reads it back with `object_store`, as a managed identity.
//!
//! `storage-example ACCOUNT_URL CONTAINER BLOB [TEXT]`: with a text it is written first. The text
//! that was read is printed.
//!
//! `object_store` does not know `AZURE_POD_IDENTITY_AUTHORITY_HOST`. It finds Foretoken by
//! `IDENTITY_ENDPOINT`, either with the `IDENTITY_HEADER` that `foretoken env NAME --dialect
//! app-service` prints, or without a secret at the path of IMDS:
//!
//! ```sh
//! export IDENTITY_ENDPOINT=http://127.0.0.1:16925/metadata/identity/oauth2/token
//! ```

use std::error::Error;

use object_store::azure::MicrosoftAzureBuilder;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [account_url, container, blob, text @ ..] = arguments.as_slice() else {
        return Err(
            "the arguments are an account's URL, a container, a blob and perhaps a text".into(),
        );
    };
    // Only because aws-lc is left out, see Cargo.toml.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let store = MicrosoftAzureBuilder::from_env()
        .with_endpoint(account_url.clone())
        // The name is of no account key: without one, a managed identity is used.
        .with_account(account_name(account_url))
        .with_container_name(container)
        .build()?;
    println!("{}", write_and_read(&store, blob, text.first()).await?);
    Ok(())
}

async fn write_and_read(
    store: &dyn ObjectStore,
    blob: &str,
    text: Option<&String>,
) -> Result<String, Box<dyn Error>> {
    let path = Path::from(blob);
    if let Some(text) = text {
        store.put(&path, text.clone().into()).await?;
    }
    let bytes = store.get(&path).await?.bytes().await?;
    Ok(String::from_utf8(bytes.to_vec())?)
}

/// `name` of `https://name.blob.core.windows.net`, and of Azurite's `https://127.0.0.1:10000/name`.
fn account_name(url: &str) -> &str {
    let rest = url
        .trim_end_matches('/')
        .split_once("://")
        .map_or(url, |(_, rest)| rest);
    match rest.rsplit_once('/') {
        Some((_, name)) => name,
        None => rest.split('.').next().unwrap_or(rest),
    }
}
