//! The metadata service of a virtual machine: `GET /metadata/identity/oauth2/token`.

use crate::fields::Fields;
use crate::http::Request;
use crate::identities::Selector;
use crate::query::Query;
use crate::refusals::{ErrorShape, Refusal};
use crate::rules::{ApiVersions, MetadataTrue, RenewBy, Rules, TokenPath};
use crate::token_reply::Success;

pub(super) fn rules() -> Rules<'static> {
    Rules {
        path: TokenPath::FirstSegmentInAnyCase("/metadata/identity/oauth2/token"),
        methods: &["GET"],
        metadata: Some(MetadataTrue::Exactly),
        secret: None,
        // The first version with identities.
        api_versions: ApiVersions::From("2018-02-01"),
        selectors: &[
            ("client_id", Selector::ClientId),
            ("object_id", Selector::ObjectId),
            ("msi_res_id", Selector::ResourceId),
            ("mi_res_id", Selector::ResourceId),
        ],
        renew_by: RenewBy::BypassCache,
        forms: false,
        errors: ErrorShape::OAuth,
    }
}

/// Every value a string, in the order of the real endpoint.
pub(super) fn success(it: &Success<'_>) -> Fields {
    Fields::default()
        .with("access_token", it.token)
        .with("client_id", it.client_id)
        .with("expires_in", it.expires_in_s.to_string())
        .with("expires_on", it.expires_on_s.to_string())
        .with("ext_expires_in", it.expires_in_s.to_string())
        .with("not_before", it.not_before_s.to_string())
        .with("resource", it.resource)
        .with("token_type", "Bearer")
}

/// What every metadata path except `versions` asks of a request; its query.
pub(crate) fn metadata_query(request: &Request) -> Result<Query, Refusal> {
    metadata_headers(request)?;
    let query = rules().parameters(request)?;
    rules().check_api_version(&query)?;
    Ok(query)
}

/// What every metadata path asks of the method and headers of a request.
pub(crate) fn metadata_headers(request: &Request) -> Result<(), Refusal> {
    rules().check_headers(request)
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
    fn parameters_for_other_kinds_change_nothing() {
        let emulator = unlimited();
        let token = ask(&emulator, "").token();
        for more in ["&xms_cc=CP1%2CCP2", "&token_sha256_to_refresh=00", "&x=y"] {
            assert_eq!(ask(&emulator, more).token(), token, "{more}");
        }
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
