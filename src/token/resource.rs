//! The audience a token is asked for, as the managed identity endpoints name it.

use std::fmt;

/// A `resource` after one percent-decoding, otherwise byte for byte what the caller sent.
///
/// `https://vault.azure.net` and `https://vault.azure.net/` are two resources: Entra issues tokens
/// with different audiences for them, and several SDKs rely on one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource(Box<str>);

/// Why a `resource` value was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    /// Nothing was asked for.
    #[error("the resource is empty")]
    Empty,
    /// Longer than [`Resource::MAX_BYTES`].
    #[error("the resource is longer than {} bytes", Resource::MAX_BYTES)]
    TooLong,
    /// Control characters or bytes that are not UTF-8: they could not be echoed in JSON and could
    /// break a header or a log line.
    #[error("the resource holds control characters or is not UTF-8")]
    NotText,
}

impl Resource {
    /// Resources are URIs or GUIDs; Entra's own limit on an application ID URI is 255 characters.
    pub const MAX_BYTES: usize = 1024;

    /// Checks decoded bytes.
    ///
    /// # Errors
    /// Empty, too long, not UTF-8, or with control characters in it.
    pub fn from_decoded(bytes: &[u8]) -> Result<Self, InvalidResource> {
        if bytes.is_empty() {
            return Err(InvalidResource::Empty);
        }
        if bytes.len() > Self::MAX_BYTES {
            return Err(InvalidResource::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidResource::NotText)?;
        if text.chars().any(char::is_control) {
            return Err(InvalidResource::NotText);
        }
        Ok(Self(text.into()))
    }

    /// The decoded text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_makes_another_resource() {
        let bare = Resource::from_decoded(b"https://vault.azure.net").unwrap();
        let slash = Resource::from_decoded(b"https://vault.azure.net/").unwrap();
        assert_ne!(bare, slash);
        assert_eq!(slash.to_string(), slash.as_str());
    }

    #[test]
    fn empty_long_and_unprintable_resources_are_refused() {
        assert_eq!(Resource::from_decoded(b""), Err(InvalidResource::Empty));
        assert_eq!(
            Resource::from_decoded(&[b'a'; 1025]),
            Err(InvalidResource::TooLong)
        );
        assert!(Resource::from_decoded(&[b'a'; 1024]).is_ok());
        assert_eq!(
            Resource::from_decoded(b"a\r\nb"),
            Err(InvalidResource::NotText)
        );
        assert_eq!(
            Resource::from_decoded(b"\xff"),
            Err(InvalidResource::NotText)
        );
    }
}
