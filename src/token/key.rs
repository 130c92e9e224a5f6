//! The token key: everything that decides which token an upstream would give.

use super::{Identity, Resource};

/// How many unknown query parameters a key may carry. Real clients send none or one.
pub const MAX_EXTRAS: usize = 8;

/// Names one token. Two requests have equal keys only if the upstream would be asked the same
/// question for both, so a key can index the cache, name a flight and bind a stored record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey {
    /// Kind and endpoint of the source, for example `imds 169.254.169.254:80`.
    pub upstream: Box<str>,
    /// Whose token.
    pub identity: Identity,
    /// For which audience.
    pub resource: Resource,
    /// Client capabilities (`xms_cc`), sorted and without doubles.
    pub capabilities: Vec<Box<str>>,
    /// Query parameters that we do not know, decoded once and sorted: they may change the answer,
    /// so they are part of the question.
    pub extras: Vec<(Box<str>, Box<str>)>,
    /// The calling client's name, where the upstream tells clients apart.
    pub client: Option<Box<str>>,
}

/// The bytes are not the canonical form of any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the canonical form of a token key")]
pub struct InvalidKey;

impl TokenKey {
    /// One byte string per key and one key per byte string: every field is preceded by its length,
    /// so no two keys run into each other. MACs of keys are taken over this form, and stored
    /// records carry it (sealed).
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        put(&mut out, &self.upstream);
        let (kind, value) = match &self.identity {
            Identity::System => (0, ""),
            Identity::ClientId(v) => (1, &**v),
            Identity::ObjectId(v) => (2, &**v),
            Identity::ResourceId(v) => (3, &**v),
        };
        out.push(kind);
        put(&mut out, value);
        put(&mut out, self.resource.as_str());
        put_len(&mut out, self.capabilities.len());
        self.capabilities.iter().for_each(|c| put(&mut out, c));
        put_len(&mut out, self.extras.len());
        for (name, value) in &self.extras {
            put(&mut out, name);
            put(&mut out, value);
        }
        out.push(u8::from(self.client.is_some()));
        put(&mut out, self.client.as_deref().unwrap_or(""));
        out
    }

    /// Reads what [`canonical_bytes`](Self::canonical_bytes) wrote.
    ///
    /// # Errors
    /// Anything that `canonical_bytes` would not have written.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Result<Self, InvalidKey> {
        let mut rest = bytes;
        let upstream = take_str(&mut rest)?;
        let kind = take(&mut rest, 1)?[0];
        let value = take_str(&mut rest)?;
        let identity = match kind {
            0 => Identity::System,
            1 => Identity::ClientId(value),
            2 => Identity::ObjectId(value),
            3 => Identity::ResourceId(value),
            _ => return Err(InvalidKey),
        };
        let resource =
            Resource::from_decoded(take_str(&mut rest)?.as_bytes()).map_err(|_| InvalidKey)?;
        let capabilities = (0..take_len(&mut rest)?)
            .map(|_| take_str(&mut rest))
            .collect::<Result<_, _>>()?;
        let extras = (0..take_len(&mut rest)?)
            .map(|_| Ok((take_str(&mut rest)?, take_str(&mut rest)?)))
            .collect::<Result<_, _>>()?;
        let has_client = take(&mut rest, 1)?[0] == 1;
        let client = take_str(&mut rest)?;
        let key = Self {
            upstream,
            identity,
            resource,
            capabilities,
            extras,
            client: has_client.then_some(client),
        };
        // Re-encoding is the whole check: trailing bytes, odd flags and the like all differ.
        if key.canonical_bytes() == bytes {
            Ok(key)
        } else {
            Err(InvalidKey)
        }
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("key parts are bounded by the request that named them");
    out.extend_from_slice(&len.to_be_bytes());
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], InvalidKey> {
    let (head, tail) = rest.split_at_checked(len).ok_or(InvalidKey)?;
    *rest = tail;
    Ok(head)
}

fn take_len(rest: &mut &[u8]) -> Result<usize, InvalidKey> {
    let bytes = take(rest, 4)?.try_into().map_err(|_| InvalidKey)?;
    Ok(u32::from_be_bytes(bytes) as usize)
}

fn take_str(rest: &mut &[u8]) -> Result<Box<str>, InvalidKey> {
    let len = take_len(rest)?;
    let bytes = take(rest, len)?;
    std::str::from_utf8(bytes)
        .map(Box::from)
        .map_err(|_| InvalidKey)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = TokenKey> {
        let text = "[ -~é]{0,12}";
        let identity = (0..4u8, text).prop_map(|(kind, v)| {
            let v: Box<str> = v.into();
            match kind {
                0 => Identity::System,
                1 => Identity::ClientId(v),
                2 => Identity::ObjectId(v),
                _ => Identity::ResourceId(v),
            }
        });
        (
            text,
            identity,
            "[ -~]{1,12}",
            prop::collection::vec(text, 0..3),
            prop::collection::vec((text, text), 0..3),
            prop::option::of(text),
        )
            .prop_map(
                |(upstream, identity, resource, capabilities, extras, client)| TokenKey {
                    upstream: upstream.into(),
                    identity,
                    resource: Resource::from_decoded(resource.as_bytes()).unwrap(),
                    capabilities: capabilities.into_iter().map(Into::into).collect(),
                    extras: extras
                        .into_iter()
                        .map(|(n, v)| (n.into(), v.into()))
                        .collect(),
                    client: client.map(Into::into),
                },
            )
    }

    proptest! {
        #[test]
        fn canonical_bytes_read_back_as_the_same_key(key in keys()) {
            prop_assert_eq!(TokenKey::from_canonical_bytes(&key.canonical_bytes()), Ok(key));
        }

        #[test]
        fn different_keys_have_different_canonical_bytes(a in keys(), b in keys()) {
            prop_assert_eq!(a == b, a.canonical_bytes() == b.canonical_bytes());
        }

        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = TokenKey::from_canonical_bytes(&bytes);
        }

        #[test]
        fn truncated_bytes_are_no_key(key in keys(), cut in 1usize..20) {
            let bytes = key.canonical_bytes();
            let cut = bytes.len().saturating_sub(cut);
            prop_assert_eq!(TokenKey::from_canonical_bytes(&bytes[..cut]), Err(InvalidKey));
        }

        #[test]
        fn the_system_identity_with_a_value_is_no_key(mut key in keys()) {
            key.identity = Identity::ClientId("x".into());
            let mut bytes = key.canonical_bytes();
            bytes[4 + key.upstream.len()] = 0;
            prop_assert_eq!(TokenKey::from_canonical_bytes(&bytes), Err(InvalidKey));
        }
    }
}
