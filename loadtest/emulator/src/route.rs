//! Which part of the emulator a path belongs to.

use crate::kind::Kind;
use crate::rules::split_first;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Token,
    /// `/metadata/instance`, and what follows it.
    Instance(&'a str),
    Versions,
    OpenIdConfiguration,
    Keys,
    Control(&'a str),
    /// Everything else, `getplatformmetadata` among it: this machine has no second version of
    /// the identity endpoint.
    Unknown,
}

impl<'a> Route<'a> {
    pub(crate) fn of(kind: &Kind, path: &'a str) -> Self {
        if let Some(rest) = path.strip_prefix("/_emulator/") {
            return Self::Control(rest);
        }
        match path {
            "/.well-known/openid-configuration" => return Self::OpenIdConfiguration,
            "/discovery/keys" => return Self::Keys,
            _ if kind.rules().path.is(path) => return Self::Token,
            _ => {}
        }
        match (kind, split_first(path)) {
            (Kind::Imds, Some((first, rest))) if first.eq_ignore_ascii_case("metadata") => {
                Self::of_document(rest)
            }
            _ => Self::Unknown,
        }
    }

    /// The documents that IMDS has beside tokens.
    fn of_document(rest: &'a str) -> Self {
        match rest {
            "versions" => Self::Versions,
            "instance" => Self::Instance(""),
            _ => rest
                .strip_prefix("instance/")
                .map_or(Self::Unknown, Self::Instance),
        }
    }
}
