//! Two queries have one token key if and only if they mean the same, by a second, plainer reader.
//! A key says everything: written out and read again it is itself.

#![no_main]

use foretoken::protocol::{Dialect, parse};
use foretoken::token::{Identity, TokenKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // A byte that no query of a well-formed target holds.
    let mut queries = data.splitn(2, |b| *b == 0);
    let first = queries.next().unwrap_or_default();
    let second = queries.next().unwrap_or_default();
    let (one, two) = (key(first), key(second));
    for (query, key) in [(first, &one), (second, &two)] {
        let Some(key) = key else { continue };
        let bytes = key.canonical_bytes();
        assert_eq!(TokenKey::from_canonical_bytes(&bytes).as_ref(), Ok(key));
        let again = written(key);
        assert_eq!(
            self::key(&again).as_ref(),
            Some(key),
            "{} became {}",
            query.escape_ascii(),
            again.escape_ascii()
        );
        // A name that means something stands in the query as it is.
        for pair in query.split(|b| *b == b'&') {
            let name = pair.split(|b| *b == b'=').next().unwrap_or_default();
            let plain = decoded(name);
            assert!(
                name == plain || !KNOWN.contains(&&*plain),
                "{}",
                query.escape_ascii()
            );
        }
        // Order never matters, and neither does what is encoded.
        let mut pairs: Vec<_> = query.split(|b| *b == b'&').collect();
        pairs.reverse();
        assert_eq!(self::key(&pairs.join(&b'&')).as_ref(), Some(key));
    }
    if let (Some(one), Some(two)) = (one, two) {
        let same = one.canonical_bytes() == two.canonical_bytes();
        assert_eq!(same, one == two);
        assert_eq!(same, meaning(first) == meaning(second));
    }
});

const KNOWN: [&[u8]; 13] = [
    b"api-version",
    b"resource",
    b"client_id",
    b"clientid",
    b"object_id",
    b"principal_id",
    b"principalId",
    b"msi_res_id",
    b"mi_res_id",
    b"msi-res-id",
    b"xms_cc",
    b"bypass_cache",
    b"token_sha256_to_refresh",
];

fn key(query: &[u8]) -> Option<TokenKey> {
    Some(
        parse(Dialect::Imds, query, b"")
            .ok()?
            .into_key("imds http://upstream"),
    )
}

/// The shortest query that asks for a key.
fn written(key: &TokenKey) -> Vec<u8> {
    let mut query = b"api-version=2018-02-01&resource=".to_vec();
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            query.extend_from_slice(format!("%{byte:02x}").as_bytes());
        }
    };
    put(key.resource.as_str().as_bytes());
    let mut pair = |name: &[u8], value: &str| {
        query.push(b'&');
        if KNOWN.contains(&name) {
            query.extend_from_slice(name);
        } else {
            for byte in name {
                query.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
        query.push(b'=');
        for byte in value.bytes() {
            query.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    };
    match &key.identity {
        Identity::System => {}
        Identity::ClientId(value) => pair(b"client_id", value),
        Identity::ObjectId(value) => pair(b"object_id", value),
        Identity::ResourceId(value) => pair(b"mi_res_id", value),
    }
    if !key.capabilities.is_empty() {
        pair(b"xms_cc", &key.capabilities.join(","));
    }
    for (name, value) in &key.extras {
        pair(name.as_bytes(), value);
    }
    query
}

/// What a query that was accepted asks for: a sorted list of what may change the answer.
fn meaning(query: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut asked = Vec::new();
    for pair in query.split(|b| *b == b'&') {
        if pair.is_empty() {
            continue;
        }
        let mut halves = pair.splitn(2, |b| *b == b'=');
        let name = decoded(halves.next().unwrap_or_default());
        let value = decoded(halves.next().unwrap_or_default());
        match &*name {
            // What asks for another token of the same kind asks for the same kind.
            b"api-version" | b"bypass_cache" | b"token_sha256_to_refresh" => {}
            b"resource" => asked.push((b"=resource".to_vec(), value)),
            b"client_id" | b"clientid" | b"object_id" | b"principal_id" | b"principalId"
            | b"msi_res_id" | b"mi_res_id" | b"msi-res-id" => {
                let kind: &[u8] = match name[0] {
                    b'c' => b"=client id",
                    b'm' => b"=resource id",
                    _ => b"=object id",
                };
                if !value.is_empty() {
                    asked.push((kind.to_vec(), value.to_ascii_lowercase()));
                }
            }
            b"xms_cc" => asked.extend(
                value
                    .split(|b| *b == b',')
                    .filter(|one| !one.is_empty())
                    .map(|one| (b"=capability".to_vec(), one.to_vec())),
            ),
            _ => asked.push(([b"?", &*name].concat(), value)),
        }
    }
    asked.sort();
    asked.dedup();
    asked
}

/// Decodes what is known to be well formed.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'%' {
            let digits = str::from_utf8(&text[at + 1..at + 3]).expect("digits");
            out.push(u8::from_str_radix(digits, 16).expect("two of them"));
            at += 3;
        } else {
            out.push(if text[at] == b'+' { b' ' } else { text[at] });
            at += 1;
        }
    }
    out
}
