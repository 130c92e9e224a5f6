//! The rules of IMDS as pure functions: which path is which, and what makes a token request.
//!
//! The checks run in this order, and the first that fails answers: method, `Metadata` header,
//! `X-Forwarded-For`, `api-version`, duplicates, selectors, `resource`. So a client's bare probe
//! always gets the refusal it looks for.

use crate::http::Request;
use crate::identities::Selector;
use crate::query::Query;
use crate::refusals::Refusal;

/// Which part of the emulator a path belongs to.
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
    /// The path is taken as it is written. A trailing slash, a double slash or an encoded letter
    /// makes it another path, because a proxy must not rely on the endpoint to tidy it up.
    pub(crate) fn of(path: &'a str) -> Self {
        if let Some(rest) = path.strip_prefix("/_emulator/") {
            return Self::Control(rest);
        }
        match path {
            "/.well-known/openid-configuration" => return Self::OpenIdConfiguration,
            "/discovery/keys" => return Self::Keys,
            _ => {}
        }
        // The case of the first segment is ignored, that of the others is not.
        let Some((first, rest)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
        else {
            return Self::Unknown;
        };
        if !first.eq_ignore_ascii_case("metadata") {
            return Self::Unknown;
        }
        match rest {
            "identity/oauth2/token" => Self::Token,
            "versions" => Self::Versions,
            "instance" => Self::Instance(""),
            _ => rest
                .strip_prefix("instance/")
                .map_or(Self::Unknown, Self::Instance),
        }
    }
}

/// A token request that keeps the rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    /// The value of the parameter, decoded once.
    pub resource: String,
    pub selector: Selector,
    /// `bypass_cache=true`: an undocumented parameter that asks for a new token.
    pub bypass_cache: bool,
}

/// Holds a request against the rules of the token endpoint.
pub(crate) fn token_request(request: &Request) -> Result<TokenRequest, Refusal> {
    let query = metadata_query(request)?;
    if let Some(name) = query.duplicate() {
        return Err(Refusal::DuplicateParameter(name.to_owned()));
    }
    let selector = selector(&query)?;
    let resource = query.text("resource").ok_or(Refusal::ResourceMissing)?;
    Ok(TokenRequest {
        resource: resource.to_owned(),
        selector,
        bypass_cache: query
            .value("bypass_cache")
            .is_some_and(|it| it.eq_ignore_ascii_case("true")),
    })
}

/// What every metadata path except `versions` asks of a request; its query.
pub(crate) fn metadata_query(request: &Request) -> Result<Query, Refusal> {
    metadata_headers(request)?;
    let query = Query::parse(&request.query).ok_or(Refusal::BadQuery)?;
    match query.text("api-version") {
        None => Err(Refusal::ApiVersionMissing),
        Some(version) if !is_known_version(version) => {
            Err(Refusal::ApiVersionUnknown(version.to_owned()))
        }
        Some(_) => Ok(query),
    }
}

/// What every metadata path asks of the method and headers of a request.
pub(crate) fn metadata_headers(request: &Request) -> Result<(), Refusal> {
    if request.method != "GET" {
        return Err(Refusal::MethodNotAllowed);
    }
    // Exactly `true`, as the documents say; one line of it.
    let mut values = request.header("metadata");
    if (values.next(), values.next()) != (Some(b"true"), None) {
        return Err(Refusal::MetadataHeaderMissing);
    }
    if request.header("x-forwarded-for").next().is_some() {
        return Err(Refusal::ForwardedFor);
    }
    Ok(())
}

/// The identity asked for. An empty value asks for none.
fn selector(query: &Query) -> Result<Selector, Refusal> {
    let of = |name: &str| query.text(name).map(ToOwned::to_owned);
    let mut asked = [
        of("client_id").map(Selector::ClientId),
        of("object_id").map(Selector::ObjectId),
        of("msi_res_id").map(Selector::ResourceId),
        of("mi_res_id").map(Selector::ResourceId),
    ]
    .into_iter()
    .flatten();
    match (asked.next(), asked.next()) {
        (None, _) => Ok(Selector::None),
        (Some(selector), None) => Ok(selector),
        (Some(_), Some(_)) => Err(Refusal::SeveralSelectors),
    }
}

/// Any date from 2018-02-01 on, the first version with identities.
fn is_known_version(version: &str) -> bool {
    let shape = version.len() == 10
        && version.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    shape && version >= "2018-02-01"
}
