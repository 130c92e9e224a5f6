//! The identity provider's keys: fetched as its discovery document says, kept, and fetched again
//! when a token names one that is not known. Keys are exchanged without notice, so that must work;
//! anyone can make up a name, so it happens at most once in [`PAUSE`].

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use serde_json::Value;

const PAUSE: Duration = Duration::from_mins(1);
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
    pub fn new(discovery: String, issuer: String) -> Result<Self> {
        let keys = fetch(&discovery, &issuer)?;
        let fetched = Instant::now();
        Ok(Self {
            discovery,
            issuer,
            known: Mutex::new(Known { keys, fetched }),
        })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key of this name. May call the identity provider, so it is not for a thread that others
    /// wait for. Meanwhile known keys are found, and unknown ones are not.
    pub fn find(&self, name: &str) -> Option<DecodingKey> {
        let found = self.known().keys.find(name).cloned();
        let found = found.or_else(|| {
            self.fetch_again();
            self.known().keys.find(name).cloned()
        })?;
        DecodingKey::from_jwk(&found).ok()
    }

    fn fetch_again(&self) {
        let mut known = self.known();
        if known.fetched.elapsed() < PAUSE {
            return;
        }
        known.fetched = Instant::now();
        drop(known);
        match fetch(&self.discovery, &self.issuer) {
            Ok(keys) => self.known().keys = keys,
            Err(error) => eprintln!("cannot fetch the keys again: {error:#}"),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let known = self.known.lock();
        known.expect("no thread panics while it holds the keys")
    }
}

fn fetch(discovery: &str, issuer: &str) -> Result<JwkSet> {
    let document = get(discovery)?;
    let found = document["issuer"].as_str().unwrap_or_default();
    ensure!(
        found == issuer,
        "{discovery} is of {found:?}, not of {issuer:?}"
    );
    let uri = document["jwks_uri"].as_str();
    let uri = uri.context("no jwks_uri in the discovery document")?;
    Ok(serde_json::from_value(get(uri)?)?)
}

fn get(url: &str) -> Result<Value> {
    let settings = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT));
    let agent: ureq::Agent = settings.build().into();
    let mut answer = agent
        .get(url)
        .call()
        .with_context(|| format!("cannot get {url}"))?;
    let body = answer.body_mut().read_json();
    body.with_context(|| format!("{url} is not JSON"))
}
