//! The Instance Metadata Service: `GET /metadata/identity/oauth2/token`.
//!
//! What callers send and need was taken from recordings of the real clients
//! (`tests/golden/recordings`); `docs/protocols.md` lists the sources.

use super::query::{self, InvalidQuery};
use super::{Rendered, TokenRequest};
use crate::token::{AccessToken, Identity, InvalidResource, InvalidSelector, MAX_EXTRAS, Resource};

/// The token endpoint as clients spell it, byte for byte: the documented path, msal-node's
/// trailing slash, and msal4j's double slash in front.
const TOKEN_PATHS: [&[u8]; 3] = [
    b"/metadata/identity/oauth2/token",
    b"/metadata/identity/oauth2/token/",
    b"//metadata/identity/oauth2/token",
];

/// The oldest version that the real endpoint takes; versions are dates.
const OLDEST_API_VERSION: &[u8] = b"2018-02-01";

/// Every parameter name that means something here, with the identity it selects, if it does.
const KNOWN: [(&[u8], Meaning); 8] = [
    (b"api-version", Meaning::ApiVersion),
    (b"resource", Meaning::Resource),
    (b"client_id", Meaning::Selects(Identity::ClientId)),
    (b"object_id", Meaning::Selects(Identity::ObjectId)),
    (b"msi_res_id", Meaning::Selects(Identity::ResourceId)),
    (b"mi_res_id", Meaning::Selects(Identity::ResourceId)),
    (b"msi-res-id", Meaning::Selects(Identity::ResourceId)),
    (b"xms_cc", Meaning::Capabilities),
];

#[derive(Clone, Copy)]
enum Meaning {
    ApiVersion,
    Resource,
    Selects(fn(Box<str>) -> Identity),
    Capabilities,
}

/// Why a token request was refused. All of them are the caller's mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// No `api-version`. The real endpoint answers with a list of its versions.
    #[error("api-version was not specified in the request")]
    NoApiVersion,
    /// Not a date, or one before the endpoint existed.
    #[error("the api-version is not supported")]
    BadApiVersion,
    /// No `resource`.
    #[error("the resource parameter is missing")]
    NoResource,
    /// A `resource` that no audience has.
    #[error(transparent)]
    BadResource(#[from] InvalidResource),
    /// Two selectors, even if both are empty: two readers could disagree on which one counts.
    #[error("more than one identity selector is given")]
    TwoSelectors,
    /// A selector that no identity has.
    #[error(transparent)]
    BadSelector(#[from] InvalidSelector),
    /// A name that a lenient reader upstream could take for one of ours: `Client_ID`, `clientid`.
    #[error("a parameter name is nearly, but not exactly, a known one")]
    NearlyKnown,
    /// Unknown parameters that are not text, or too many of them.
    #[error("an unknown parameter is not text, or there are more than {MAX_EXTRAS}")]
    BadExtra,
    /// The query string itself.
    #[error(transparent)]
    BadQuery(#[from] InvalidQuery),
}

/// Whether this path is the token endpoint. Exact: a path that merely resembles it is another.
#[must_use]
pub fn is_token_path(path: &[u8]) -> bool {
    TOKEN_PATHS.contains(&path)
}

/// Reads the query string of a token request.
///
/// # Errors
/// The first rule that it breaks.
pub fn parse(query: &[u8]) -> Result<TokenRequest, BadRequest> {
    let (mut version, mut resource, mut identity) = (None, None, None);
    let mut capabilities = Vec::new();
    let mut extras = Vec::new();
    for (name, value) in query::parse(query)? {
        match KNOWN
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, meaning)| *meaning)
        {
            Some(Meaning::ApiVersion) => version = Some(value),
            Some(Meaning::Resource) => resource = Some(value),
            Some(Meaning::Selects(make)) => {
                if identity.replace(Identity::select(make, &value)?).is_some() {
                    return Err(BadRequest::TwoSelectors);
                }
            }
            Some(Meaning::Capabilities) => capabilities = split_capabilities(&value)?,
            None if is_nearly_known(&name) => return Err(BadRequest::NearlyKnown),
            None => extras.push((text(&name)?, text(&value)?)),
        }
    }
    if extras.len() > MAX_EXTRAS {
        return Err(BadRequest::BadExtra);
    }
    extras.sort_unstable();
    check_version(&version.ok_or(BadRequest::NoApiVersion)?)?;
    Ok(TokenRequest {
        identity: identity.unwrap_or(Identity::System),
        resource: Resource::from_decoded(&resource.ok_or(BadRequest::NoResource)?)?,
        capabilities,
        extras,
    })
}

fn check_version(version: &[u8]) -> Result<(), BadRequest> {
    let is_date = version.len() == 10
        && version.iter().enumerate().all(|(at, b)| match at {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        });
    // Dates of this form sort like text.
    if is_date && version >= OLDEST_API_VERSION {
        Ok(())
    } else {
        Err(BadRequest::BadApiVersion)
    }
}

fn split_capabilities(value: &[u8]) -> Result<Vec<Box<str>>, BadRequest> {
    let value = text(value)?;
    let mut list: Vec<Box<str>> = value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(Box::from)
        .collect();
    list.sort_unstable();
    list.dedup();
    Ok(list)
}

fn is_nearly_known(name: &[u8]) -> bool {
    let plain = |name: &[u8]| -> Vec<u8> {
        let letters = name.iter().filter(|b| !matches!(b, b'-' | b'_'));
        letters.map(u8::to_ascii_lowercase).collect()
    };
    let name = plain(name);
    KNOWN.iter().any(|(known, _)| plain(known) == name)
}

/// Text that may go into a key, a header line's target and a log line.
fn text(bytes: &[u8]) -> Result<Box<str>, BadRequest> {
    if bytes.len() > Resource::MAX_BYTES {
        return Err(BadRequest::BadExtra);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadRequest::BadExtra)?;
    if text.chars().any(char::is_control) {
        return Err(BadRequest::BadExtra);
    }
    Ok(text.into())
}

/// The success body: strings only, in the real endpoint's order. `expires_on` stands behind
/// `expires_in` because MSAL .NET lets the later of the two win; `resource` is the caller's own
/// text because Python's aio client keys its cache on it.
#[must_use]
pub fn render(resource: &Resource, token: &AccessToken) -> Rendered {
    let mut head = Vec::with_capacity(256 + token.secret.expose().len());
    head.extend_from_slice(b"{\"access_token\":\"");
    head.extend_from_slice(token.secret.expose());
    head.push(b'"');
    if let Some(client_id) = &token.client_id {
        head.extend_from_slice(b",\"client_id\":");
        head.extend_from_slice(json_string(client_id).as_bytes());
    }
    head.extend_from_slice(b",\"expires_in\":\"");
    let head = zeroize::Zeroizing::new(head);

    let expires_on = token.lifetime.expires_on_s;
    let middle = format!("\",\"expires_on\":\"{expires_on}\",\"ext_expires_in\":\"");
    let mut tail = String::from("\"");
    if let Some(not_before) = token.lifetime.not_before_s {
        tail.push_str(&format!(",\"not_before\":\"{not_before}\""));
    }
    tail.push_str(",\"resource\":");
    tail.push_str(&json_string(resource.as_str()));
    tail.push_str(",\"token_type\":\"Bearer\"}");
    Rendered::new([&head, middle.as_bytes(), tail.as_bytes()])
}

/// An error body as the real endpoint writes it.
#[must_use]
pub fn render_error(error: &str, description: &str) -> Vec<u8> {
    let (error, description) = (json_string(error), json_string(description));
    format!("{{\"error\":{error},\"error_description\":{description}}}").into_bytes()
}

/// The body for a request without `api-version`, which names the versions instead.
#[must_use]
pub fn render_no_api_version() -> Vec<u8> {
    b"{\"error\":\"Bad request. api-version was not specified in the request. For more information \
      refer to aka.ms/azureimds\",\"newest-versions\":[\"2018-02-01\"]}"
        .to_vec()
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string always has a JSON form")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::UnixMs;
    use crate::protocol::Digits;
    use crate::token::{Lifetime, Secret};

    const GUID: &str = "aaaaaaaa-1111-4222-8333-444444444444";

    fn parsed(query: &str) -> Result<TokenRequest, BadRequest> {
        parse(query.as_bytes())
    }

    fn token(client_id: Option<&str>) -> AccessToken {
        AccessToken {
            secret: Secret::new(b"a.b.c".to_vec()),
            lifetime: Lifetime {
                received_at: UnixMs(0),
                expires_on_s: 2000,
                not_before_s: Some(10),
                refresh_in_s: None,
            },
            client_id: client_id.map(Into::into),
        }
    }

    #[test]
    fn only_the_listed_paths_are_the_token_endpoint() {
        for path in TOKEN_PATHS {
            assert!(is_token_path(path));
        }
        for path in [
            "/metadata/identity/oauth2/token//",
            "/metadata//identity/oauth2/token",
            "/metadata/identity\\oauth2/token",
            "/metadata/identity/oauth2%2ftoken",
            "/metadata/identity/oauth2/../oauth2/token",
            "/metadata/identity/oauth2/token;x",
            "/METADATA/identity/oauth2/token",
            "/metadata/identity/oauth2/toke",
            "",
        ] {
            assert!(!is_token_path(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn raw_and_escaped_resources_in_any_order_are_one_request() {
        let a = parsed("api-version=2018-02-01&resource=https://vault.azure.net").unwrap();
        let b = parsed("resource=https%3A%2F%2Fvault.azure.net&api-version=2019-08-01").unwrap();
        assert_eq!(a, b);
    }

    #[test]
    fn every_spelling_of_a_selector_means_the_same_identity() {
        let of = |name: &str| {
            let query = format!("api-version=2018-02-01&resource=r&{name}={GUID}");
            parsed(&query).unwrap().identity
        };
        assert_eq!(of("client_id"), Identity::ClientId(GUID.into()));
        assert_eq!(of("object_id"), Identity::ObjectId(GUID.into()));
        for name in ["msi_res_id", "mi_res_id", "msi-res-id"] {
            assert_eq!(of(name), Identity::ResourceId(GUID.into()), "{name}");
        }
    }

    #[test]
    fn two_selectors_are_refused_even_when_one_is_empty() {
        for pair in [
            "client_id=a&object_id=b",
            "client_id=&object_id=b",
            "msi_res_id=a&mi_res_id=a",
        ] {
            let query = format!("api-version=2018-02-01&resource=r&{pair}");
            assert_eq!(parsed(&query), Err(BadRequest::TwoSelectors), "{pair}");
        }
    }

    #[test]
    fn names_that_are_nearly_known_are_refused() {
        for name in [
            "Client_ID",
            "client%5Fid%5f",
            "clientid",
            "Resource",
            "apiversion",
            "XMS_CC",
        ] {
            let query = format!("api-version=2018-02-01&resource=r&{name}=x");
            assert_eq!(parsed(&query), Err(BadRequest::NearlyKnown), "{name}");
        }
    }

    #[test]
    fn unknown_parameters_are_part_of_the_request() {
        let plain = parsed("api-version=2018-02-01&resource=r").unwrap();
        let extra = parsed("api-version=2018-02-01&resource=r&resource_id=/sub&b=1").unwrap();
        assert_ne!(plain, extra);
        assert_eq!(
            extra.extras,
            [
                ("b".into(), "1".into()),
                ("resource_id".into(), "/sub".into())
            ]
        );
    }

    #[test]
    fn capabilities_are_a_set() {
        let of =
            |value| parsed(&format!("api-version=2018-02-01&resource=r&xms_cc={value}")).unwrap();
        assert_eq!(of("b%2Ca,b"), of("a,b"));
        assert_ne!(of("a"), of("a,b"));
    }

    #[test]
    fn missing_and_bad_parameters_have_their_own_errors() {
        assert_eq!(parsed("resource=r"), Err(BadRequest::NoApiVersion));
        assert_eq!(parsed(""), Err(BadRequest::NoApiVersion));
        assert_eq!(
            parsed("api-version=2018-02-01"),
            Err(BadRequest::NoResource)
        );
        for version in ["", "2017-09-01", "latest", "2018-2-1", "2018-02-01x"] {
            let query = format!("api-version={version}&resource=r");
            assert_eq!(parsed(&query), Err(BadRequest::BadApiVersion), "{version}");
        }
        let empty = parsed("api-version=2018-02-01&resource=");
        assert_eq!(empty, Err(BadRequest::BadResource(InvalidResource::Empty)));
        let line = parsed("api-version=2018-02-01&resource=r&x=a%0d%0ab");
        assert_eq!(line, Err(BadRequest::BadExtra));
    }

    #[test]
    fn the_body_has_strings_only_and_expires_on_behind_expires_in() {
        let resource = Resource::from_decoded(b"https://r/\"x").unwrap();
        let body = render(&resource, &token(Some("id")))
            .with(&Digits::new(90))
            .concat();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"access_token\":\"a.b.c\",\"client_id\":\"id\",\"expires_in\":\"90\",\
             \"expires_on\":\"2000\",\"ext_expires_in\":\"90\",\"not_before\":\"10\",\
             \"resource\":\"https://r/\\\"x\",\"token_type\":\"Bearer\"}"
        );
    }

    #[test]
    fn a_token_without_client_id_has_none_in_its_body() {
        let resource = Resource::from_decoded(b"r").unwrap();
        let body = render(&resource, &token(None))
            .with(&Digits::new(1))
            .concat();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.get("client_id"), None);
        assert_eq!(body["access_token"], "a.b.c");
    }

    proptest! {
        #[test]
        fn order_and_escaping_never_change_the_request(
            resource in "[a-z:/.]{1,20}", id in "[a-f0-9-]{1,20}", extra in "[a-z]{1,5}", flip: bool,
        ) {
            let escaped: String = resource.bytes().map(|b| format!("%{b:02x}")).collect();
            let a = format!("api-version=2018-02-01&resource={resource}&client_id={id}&zz={extra}");
            let id = if flip { id.to_uppercase() } else { id };
            let b = format!("zz={extra}&client_id={id}&resource={escaped}&api-version=2018-02-01");
            prop_assert_eq!(parsed(&a).unwrap(), parsed(&b).unwrap());
        }

        #[test]
        fn parsing_never_panics(query in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&query);
        }
    }
}
