//! Which managed identity a token is for.

use std::fmt;

/// The identity a caller selected, with the selector's value in lower case: Azure compares client
/// ids, object ids and ARM resource ids without regard to case.
///
/// `System` means that no selector was sent. It is never merged with a named identity, even where
/// both turn out to be the same principal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// No selector: the system-assigned identity, or the only user-assigned one.
    System,
    /// User-assigned, by application (client) id.
    ClientId(Box<str>),
    /// User-assigned, by object (principal) id.
    ObjectId(Box<str>),
    /// User-assigned, by ARM resource id.
    ResourceId(Box<str>),
}

/// Why a selector's value was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// Longer than [`Identity::MAX_SELECTOR_BYTES`].
    #[error(
        "the identity selector is longer than {} bytes",
        Identity::MAX_SELECTOR_BYTES
    )]
    TooLong,
    /// Anything but printable ASCII, or blanks at its ends.
    #[error("the identity selector holds characters that no identity has")]
    NotText,
}

impl Identity {
    /// An ARM resource id of a user-assigned identity stays well below this.
    pub const MAX_SELECTOR_BYTES: usize = 512;

    /// Checks and lower-cases a selector's decoded value. An empty value selects nothing, as
    /// MSAL Go's `clientid=` means (`protocols.md` §5), and gives [`Identity::System`].
    ///
    /// # Errors
    /// Too long, or anything but printable ASCII.
    pub fn select(
        make: fn(Box<str>) -> Identity,
        decoded: &[u8],
    ) -> Result<Identity, InvalidSelector> {
        if decoded.is_empty() {
            return Ok(Self::System);
        }
        if decoded.len() > Self::MAX_SELECTOR_BYTES {
            return Err(InvalidSelector::TooLong);
        }
        // A source that trims blanks would take one for no selector at all.
        let trimmed = decoded.trim_ascii().len() == decoded.len();
        if !trimmed || !decoded.iter().all(|b| (b' '..=b'~').contains(b)) {
            return Err(InvalidSelector::NotText);
        }
        let text: String = decoded
            .iter()
            .map(|b| char::from(b.to_ascii_lowercase()))
            .collect();
        Ok(make(text.into()))
    }

    /// The selector's kind in the words of IMDS, and its value; `None` for the system identity.
    #[must_use]
    pub fn selector(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::System => None,
            Self::ClientId(v) => Some(("client_id", v)),
            Self::ObjectId(v) => Some(("object_id", v)),
            Self::ResourceId(v) => Some(("msi_res_id", v)),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.selector() {
            None => f.write_str("system"),
            Some((kind, value)) => write!(f, "{kind}={value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_compare_without_regard_to_case() {
        let upper = Identity::select(Identity::ClientId, b"AAAA-BBBB").unwrap();
        let lower = Identity::select(Identity::ClientId, b"aaaa-bbbb").unwrap();
        assert_eq!(upper, lower);
    }

    #[test]
    fn an_empty_selector_means_the_system_identity() {
        assert_eq!(
            Identity::select(Identity::ClientId, b""),
            Ok(Identity::System)
        );
    }

    #[test]
    fn the_same_value_under_two_selectors_names_two_identities() {
        let client = Identity::select(Identity::ClientId, b"x").unwrap();
        let object = Identity::select(Identity::ObjectId, b"x").unwrap();
        assert_ne!(client, object);
    }

    #[test]
    fn control_bytes_and_long_values_are_refused() {
        assert_eq!(
            Identity::select(Identity::ClientId, b"a\nb"),
            Err(InvalidSelector::NotText)
        );
        for blank in [&b" "[..], b" a", b"a "] {
            let refused = Identity::select(Identity::ObjectId, blank);
            assert_eq!(refused, Err(InvalidSelector::NotText));
        }
        assert_eq!(
            Identity::select(Identity::ObjectId, &[b'a'; 513]),
            Err(InvalidSelector::TooLong)
        );
        assert!(Identity::select(Identity::ObjectId, &[b'a'; 512]).is_ok());
    }

    #[test]
    fn an_identity_is_told_in_the_words_of_imds() {
        for (make, told) in [
            (Identity::ClientId as fn(_) -> _, "client_id=x"),
            (Identity::ObjectId, "object_id=x"),
            (Identity::ResourceId, "msi_res_id=x"),
        ] {
            let identity = Identity::select(make, b"X").unwrap();
            assert_eq!(identity.to_string(), told);
        }
        assert_eq!(Identity::System.to_string(), "system");
        assert_eq!(Identity::System.selector(), None);
    }
}
