//! The identity provider's keys: fetched as its discovery document says, kept, and fetched again
//! when a token names one that is not known. Keys are exchanged without notice, so that must work;
//! anyone can make up a name, so it happens at most once in [`PAUSE`].

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use serde_json::Value;

const PAUSE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Keys {
    discovery: String,
    issuer: String,
    known: Mutex<Known>,
}

struct Known {
    keys: JwkSet,
    fetched: Instant,
}

impl Keys {
    /// Fetches the keys; fails unless the document is this issuer's.
    pub fn fetch(discovery: String, issuer: String) -> Result<Self> {
        let keys = fetch(&discovery, &issuer)?;
        let known = Mutex::new(Known {
            keys,
            fetched: Instant::now(),
        });
        Ok(Self {
            discovery,
            issuer,
            known,
        })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key of this name. May take as long as two calls to the identity provider, so it is not
    /// for a thread that others wait for; those that ask meanwhile wait for the same answer.
    pub fn find(&self, name: &str) -> Option<DecodingKey> {
        let mut known = self
            .known
            .lock()
            .expect("no thread panics while it holds the keys");
        if known.keys.find(name).is_none() && known.fetched.elapsed() >= PAUSE {
            known.fetched = Instant::now();
            match fetch(&self.discovery, &self.issuer) {
                Ok(keys) => known.keys = keys,
                Err(error) => eprintln!("cannot fetch the keys again: {error:#}"),
            }
        }
        DecodingKey::from_jwk(known.keys.find(name)?).ok()
    }
}

fn fetch(discovery: &str, issuer: &str) -> Result<JwkSet> {
    let document: Value = get(discovery)?;
    let found = document["issuer"].as_str().unwrap_or_default();
    ensure!(
        found == issuer,
        "{discovery} is of {found:?}, not of {issuer:?}"
    );
    let uri = document["jwks_uri"]
        .as_str()
        .context("no jwks_uri in the discovery document")?;
    Ok(serde_json::from_value(get(uri)?)?)
}

fn get(url: &str) -> Result<Value> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .build()
        .into();
    let mut answer = agent
        .get(url)
        .call()
        .with_context(|| format!("cannot get {url}"))?;
    answer
        .body_mut()
        .read_json()
        .with_context(|| format!("{url} is not JSON"))
}
