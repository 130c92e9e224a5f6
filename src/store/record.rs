//! The bytes of one record in clear, before sealing and after opening.
//!
//! Every variable part is preceded by its length (u32), integers are big-endian:
//! token key (canonical bytes) · token · received at (ms, u64) · expires on (s, u64) ·
//! not before (s) · refresh in (s) · client id · last used (ms, u64). An optional part is preceded
//! by 0 or 1 and absent after 0.
//!
//! Decoding is total: any bytes give a record or [`BadRecord`], never a panic. It is also exact:
//! what it accepts is what encoding would have written.

use crate::clock::UnixMs;
use crate::token::{AccessToken, Lifetime, Secret, TokenKey};

/// The version of this layout and of the sealed envelope around it. Records of any other version
/// are dropped: a cold start is cheaper than a migration. Version 1 was bound to no machine and
/// named no key.
pub const VERSION: u8 = 2;

/// A record about to be written.
pub struct Record<'a> {
    /// [`TokenKey::canonical_bytes`].
    pub key: &'a [u8],
    /// The token.
    pub token: &'a AccessToken,
    /// When it was last served.
    pub last_used: UnixMs,
}

/// A record that was read.
pub struct Decoded {
    /// What the token is for.
    pub key: TokenKey,
    /// The token.
    pub token: AccessToken,
    /// When it was last served.
    pub last_used: UnixMs,
}

/// The bytes are no record of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record of this version")]
pub struct BadRecord;

impl Record<'_> {
    /// How many bytes [`write`](Self::write) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let optional = |present: bool, len: usize| 1 + if present { len } else { 0 };
        let life = &self.token.lifetime;
        let client_id = self.token.client_id.as_deref();
        4 + self.key.len()
            + 4
            + self.token.secret.expose().len()
            + 8
            + 8
            + optional(life.not_before_s.is_some(), 8)
            + optional(life.refresh_in_s.is_some(), 8)
            + optional(client_id.is_some(), 4 + client_id.map_or(0, str::len))
            + 8
    }

    /// Appends the record. The caller reserves [`encoded_len`](Self::encoded_len) bytes first, so
    /// that the buffer never moves with a token inside, and wipes the buffer.
    pub fn write(&self, out: &mut Vec<u8>) {
        let life = &self.token.lifetime;
        put_bytes(out, self.key);
        put_bytes(out, self.token.secret.expose());
        put_u64(out, life.received_at.0);
        put_u64(out, life.expires_on_s);
        put_option(out, life.not_before_s, put_u64);
        put_option(out, life.refresh_in_s, put_u64);
        put_option(out, self.token.client_id.as_deref(), |out, id| {
            put_bytes(out, id.as_bytes());
        });
        put_u64(out, self.last_used.0);
    }
}

impl Decoded {
    /// Reads a record.
    ///
    /// # Errors
    /// Anything that [`Record::write`] would not have written.
    pub fn read(bytes: &[u8]) -> Result<Self, BadRecord> {
        let mut rest = bytes;
        let key = take_bytes(&mut rest)?;
        let key = TokenKey::from_canonical_bytes(key).map_err(|_| BadRecord)?;
        let secret = take_bytes(&mut rest)?;
        if secret.is_empty() {
            return Err(BadRecord);
        }
        let lifetime = Lifetime {
            received_at: UnixMs(take_u64(&mut rest)?),
            expires_on_s: take_u64(&mut rest)?,
            not_before_s: take_option(&mut rest, take_u64)?,
            refresh_in_s: take_option(&mut rest, take_u64)?,
        };
        let client_id = take_option(&mut rest, |rest| {
            let id = std::str::from_utf8(take_bytes(rest)?).map_err(|_| BadRecord)?;
            Ok(id.to_owned())
        })?;
        let last_used = UnixMs(take_u64(&mut rest)?);
        if !rest.is_empty() {
            return Err(BadRecord);
        }
        Ok(Self {
            key,
            token: AccessToken {
                secret: Secret::new(secret.to_vec()),
                lifetime,
                client_id,
            },
            last_used,
        })
    }
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys and tokens are bounded where they are read");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadRecord> {
    let (head, tail) = rest.split_first_chunk().ok_or(BadRecord)?;
    *rest = tail;
    Ok(*head)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, BadRecord> {
    Ok(u64::from_be_bytes(take(rest)?))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadRecord> {
    let len = u32::from_be_bytes(take(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(len).ok_or(BadRecord)?;
    *rest = tail;
    Ok(head)
}

fn take_option<'a, T>(
    rest: &mut &'a [u8],
    take_value: impl FnOnce(&mut &'a [u8]) -> Result<T, BadRecord>,
) -> Result<Option<T>, BadRecord> {
    match take(rest)? {
        [0] => Ok(None),
        [1] => take_value(rest).map(Some),
        _ => Err(BadRecord),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::tests::key;

    /// A token's parts: tokens themselves cannot be printed, as a failing property would.
    type Parts = (
        Vec<u8>,
        (u64, u64, Option<u64>, Option<u64>),
        Option<String>,
    );

    fn parts() -> impl Strategy<Value = Parts> {
        (
            prop::collection::vec(any::<u8>(), 1..64),
            any::<(u64, u64, Option<u64>, Option<u64>)>(),
            prop::option::of("[ -~é]{0,12}"),
        )
    }

    fn token((secret, times, client_id): Parts) -> AccessToken {
        AccessToken {
            secret: Secret::new(secret),
            lifetime: Lifetime {
                received_at: UnixMs(times.0),
                expires_on_s: times.1,
                not_before_s: times.2,
                refresh_in_s: times.3,
            },
            client_id,
        }
    }

    fn encode(key: &TokenKey, token: &AccessToken, last_used: UnixMs) -> Vec<u8> {
        let key = key.canonical_bytes();
        let record = Record {
            key: &key,
            token,
            last_used,
        };
        let mut out = Vec::new();
        record.write(&mut out);
        assert_eq!(out.len(), record.encoded_len());
        out
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was_written(parts in parts(), used: u64) {
            let token = token(parts);
            let key = key("https://vault.azure.net");
            let read = Decoded::read(&encode(&key, &token, UnixMs(used))).unwrap();
            prop_assert_eq!(read.key, key);
            prop_assert_eq!(read.token.secret.expose(), token.secret.expose());
            prop_assert_eq!(read.token.lifetime, token.lifetime);
            prop_assert_eq!(read.token.client_id, token.client_id);
            prop_assert_eq!(read.last_used, UnixMs(used));
        }

        #[test]
        fn reading_is_total_and_accepts_only_what_writing_gives(
            parts in parts(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut: prop::sample::Index,
            tail in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = encode(&key("r"), &token(parts), UnixMs(1));
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(2 * bytes.len()));
            bytes.extend(tail);
            if let Ok(read) = Decoded::read(&bytes) {
                prop_assert_eq!(encode(&read.key, &read.token, read.last_used), bytes);
            }
        }

        #[test]
        fn reading_random_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            let _ = Decoded::read(&bytes);
        }
    }
}
