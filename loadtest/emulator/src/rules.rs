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

#[cfg(test)]
mod tests {
    use crate::testing::{Connection, Response, ask, get, token_target, unlimited};

    const ARM_ID: &str = "/subscriptions/0/resourceGroups/rg/providers/\
                          Microsoft.ManagedIdentity/userAssignedIdentities/one";
    const NO_METADATA: &str = r#"{"error":"invalid_request","error_description":"Required metadata header not specified"}"#;

    /// A token request with these header lines in place of `Metadata: true`.
    fn with_headers(header_lines: &str) -> Response {
        let emulator = unlimited();
        let mut connection = Connection::open(&emulator);
        connection
            .request("GET", &token_target(""), header_lines, "")
            .unwrap()
    }

    fn error_of(more: &str) -> String {
        let reply = ask(&unlimited(), more);
        assert_eq!(reply.status, 400, "{more}: {}", reply.body);
        reply.json()["error_description"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn a_request_without_the_metadata_header_is_refused() {
        for lines in [
            "",
            "Metadata: false\r\n",
            "Metadata: True\r\n",
            "Metadata:\r\n",
        ] {
            let reply = with_headers(lines);
            assert_eq!(
                (reply.status, reply.body.as_str()),
                (400, NO_METADATA),
                "{lines}"
            );
        }
        assert_eq!(
            with_headers("Metadata: true\r\nMetadata: true\r\n").status,
            400
        );
        assert_eq!(with_headers("mEtAdAtA: true\r\n").status, 200);
    }

    #[test]
    fn a_bare_probe_gets_the_refusal_clients_look_for() {
        let emulator = unlimited();
        let reply = Connection::open(&emulator)
            .request("GET", "/metadata/identity/oauth2/token", "", "")
            .unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (400, NO_METADATA));
        let counts = emulator.counts();
        assert_eq!((counts.refused, counts.token_calls), (1, 0));
    }

    #[test]
    fn a_forwarded_request_is_refused() {
        let reply = with_headers("Metadata: true\r\nX-Forwarded-For: 10.0.0.1\r\n");
        assert_eq!(reply.status, 400);
        assert!(reply.body.contains("X-Forwarded-For"));
    }

    #[test]
    fn other_methods_than_get_are_refused_with_405() {
        let emulator = unlimited();
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let reply = Connection::open(&emulator)
                .request(method, &token_target(""), "Metadata: true\r\n", "")
                .unwrap();
            assert_eq!(
                (reply.status, reply.header("allow")),
                (405, Some("GET")),
                "{method}"
            );
        }
    }

    #[test]
    fn a_request_without_api_version_is_told_the_newest_ones() {
        let path = "/metadata/identity/oauth2/token";
        for target in [
            format!("{path}?resource=r"),
            format!("{path}?resource=r&api-version="),
        ] {
            let reply = get(&unlimited(), &target);
            assert_eq!(reply.status, 400);
            let error = "Bad request. api-version was not specified in the request. ";
            assert!(reply.json()["error"].as_str().unwrap().starts_with(error));
            assert!(
                !reply.json()["newest-versions"]
                    .as_array()
                    .unwrap()
                    .is_empty()
            );
        }
    }

    #[test]
    fn api_versions_from_2018_on_are_taken_and_others_refused() {
        let path = "/metadata/identity/oauth2/token?resource=r&api-version=";
        let emulator = unlimited();
        let status = |version: &str| get(&emulator, &format!("{path}{version}")).status;
        assert_eq!((status("2018-02-01"), status("2019-08-01")), (200, 200));
        assert_eq!((status("2017-09-01"), status("latest")), (400, 400));
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        assert!(error_of("&resource=other").contains("'resource'"));
        assert!(error_of("&Api-Version=2018-02-01").contains("more than once"));
    }

    #[test]
    fn a_request_without_resource_is_refused() {
        let path = "/metadata/identity/oauth2/token?api-version=2018-02-01";
        for target in [path.to_owned(), format!("{path}&resource=")] {
            let reply = get(&unlimited(), &target);
            assert_eq!(reply.status, 400);
            assert!(reply.body.contains("'resource' is missing"));
        }
    }

    #[test]
    fn a_query_that_cannot_be_decoded_is_refused() {
        assert!(error_of("&x=%zz").contains("not properly encoded"));
    }

    #[test]
    fn several_selectors_are_refused_and_empty_ones_ignored() {
        let guid = "aaaaaaaa-1111-4222-8333-444444444444";
        let several = format!("&client_id={guid}&object_id={guid}");
        assert!(error_of(&several).starts_with("Only one of"));
        let both = format!("&msi_res_id={ARM_ID}&mi_res_id={ARM_ID}");
        assert!(error_of(&both).starts_with("Only one of"));
        let emulator = unlimited();
        assert_eq!(
            ask(&emulator, "&client_id=&object_id=").json()["client_id"],
            ask(&emulator, "").json()["client_id"],
        );
    }

    #[test]
    fn both_spellings_of_the_resource_id_mean_the_same() {
        let emulator = unlimited();
        let one = ask(&emulator, &format!("&msi_res_id={ARM_ID}"));
        let other = ask(&emulator, &format!("&mi_res_id={}", ARM_ID.to_uppercase()));
        assert_eq!(one.json()["client_id"], other.json()["client_id"]);
    }

    #[test]
    fn only_the_first_path_segment_ignores_case() {
        let emulator = unlimited();
        let query = "?api-version=2018-02-01&resource=r";
        let status = |path: &str| get(&emulator, &format!("{path}{query}")).status;
        assert_eq!(status("/METAdata/identity/oauth2/token"), 200);
        for path in [
            "/metadata/Identity/oauth2/token",
            "/metadata/identity/oauth2/token/",
            "//metadata/identity/oauth2/token",
            "/metadata/identity//oauth2/token",
            "/metadata/identity/oauth2/toke%6e",
            "/metadata/identity/getplatformmetadata",
            "/metadata",
            "/",
        ] {
            assert_eq!(status(path), 404, "{path}");
        }
    }
}
