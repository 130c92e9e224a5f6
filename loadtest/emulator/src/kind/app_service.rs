//! App Service, Functions and Container Apps: api-version 2019-08-01, a secret in
//! `X-IDENTITY-HEADER`.

use super::DEFAULT_SECRET;
use crate::fields::Fields;
use crate::identities::Selector;
use crate::refusals::{ErrorShape, Refusal, Words};
use crate::rules::{ApiVersions, RenewBy, Rules, TokenPath};
use crate::token_reply::Success;

/// Choices for [`crate::Kind::AppService`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppService {
    /// The path of tokens, with or without a slash at its end. Default `/msi/token`. A slash
    /// more than it has is accepted, as the platform's samples add one.
    pub path: String,
    /// What `X-IDENTITY-HEADER` must say. Default [`DEFAULT_SECRET`].
    pub secret: String,
}

impl Default for AppService {
    fn default() -> Self {
        Self {
            path: "/msi/token".to_owned(),
            secret: DEFAULT_SECRET.to_owned(),
        }
    }
}

impl AppService {
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            path: TokenPath::OrWithSlash(&self.path),
            methods: &["GET"],
            metadata: None,
            secret: Some(("X-IDENTITY-HEADER", &self.secret)),
            api_versions: ApiVersions::OneOf(&["2019-08-01"]),
            selectors: &[
                ("client_id", Selector::ClientId),
                ("principal_id", Selector::ObjectId),
                ("object_id", Selector::ObjectId),
                ("mi_res_id", Selector::ResourceId),
            ],
            renew_by: RenewBy::Nothing,
            forms: false,
            errors: ErrorShape::CamelCase,
        }
    }
}

/// No `expires_in`; the dates are strings.
pub(super) fn success(it: &Success<'_>) -> Fields {
    Fields::default()
        .with("access_token", it.token)
        .with("client_id", it.client_id)
        .with("expires_on", it.expires_on_s.to_string())
        .with("not_before", it.not_before_s.to_string())
        .with("resource", it.resource)
        .with("token_type", "Bearer")
}

pub(super) fn words(refusal: &Refusal) -> Option<Words> {
    match refusal {
        Refusal::IdentityNotFound | Refusal::MultipleIdentities => Some(Words::new(
            400,
            "",
            "No User Assigned or Delegated Managed Identity found for specified \
             ClientId/ResourceId/PrincipalId.",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asker, RESOURCE, names};
    use crate::{Identities, Kind};

    const ARM_ID: &str = "/subscriptions/0/resourceGroups/rg/providers/\
                          Microsoft.ManagedIdentity/userAssignedIdentities/one";

    fn app_service() -> Asker {
        Asker::new(Kind::AppService(AppService::default()))
            .with_lines(&format!("X-IDENTITY-HEADER: {DEFAULT_SECRET}\r\n"))
    }

    fn target(more: &str) -> String {
        format!("/msi/token?api-version=2019-08-01&resource={RESOURCE}{more}")
    }

    #[test]
    fn a_success_has_string_dates_and_no_expires_in() {
        let reply = app_service().get(&target(""));
        let expected = [
            "access_token",
            "client_id",
            "expires_on",
            "not_before",
            "resource",
            "token_type",
        ];
        assert_eq!(names(&reply.body), expected);
        let json = reply.json();
        assert!(
            json.as_object()
                .unwrap()
                .values()
                .all(serde_json::Value::is_string)
        );
        assert_eq!(json["expires_on"], reply.claims()["exp"].to_string());
        assert_eq!(reply.header("server"), Some("foretoken-emulator"));
    }

    #[test]
    fn a_missing_or_wrong_secret_is_refused_with_401() {
        let asker = app_service();
        for lines in [
            String::new(),
            "X-IDENTITY-HEADER: wrong\r\n".to_owned(),
            format!("secret: {DEFAULT_SECRET}\r\n"),
            format!("X-IDENTITY-HEADER: {DEFAULT_SECRET}\r\nX-IDENTITY-HEADER: x\r\n"),
        ] {
            let reply = asker.send("GET", &target(""), &lines, "");
            assert_eq!(reply.status, 401, "{lines}");
            assert_eq!(
                names(&reply.body),
                ["statusCode", "message", "correlationId"]
            );
            assert_eq!(reply.json()["statusCode"], 401);
        }
        assert_eq!(asker.emulator.counts().refused, 4);
    }

    #[test]
    fn an_identity_is_selected_by_each_of_its_names() {
        let asker = app_service();
        let guid = "AAAAAAAA-1111-4222-8333-444444444444";
        for more in [
            format!("&client_id={guid}"),
            format!("&principal_id={guid}"),
            format!("&object_id={guid}"),
            format!("&mi_res_id={ARM_ID}"),
        ] {
            asker.get(&target(&more)).token();
        }
        let counts = asker.emulator.counts();
        let lower = guid.to_ascii_lowercase();
        assert_eq!(counts.calls_for(&format!("client_id={lower}"), RESOURCE), 1);
        assert_eq!(counts.calls_for(&format!("object_id={lower}"), RESOURCE), 2);
        // The spelling of IMDS is no parameter here.
        let system = asker.get(&target("")).json()["client_id"].clone();
        let other = asker.get(&target(&format!("&msi_res_id={ARM_ID}")));
        assert_eq!(other.json()["client_id"], system);
    }

    #[test]
    fn refusals_have_the_shape_of_app_service() {
        let asker = app_service().with_identities(Identities::from_toml("[system]").unwrap());
        let guid = "aaaaaaaa-1111-4222-8333-444444444444";
        for (target, message) in [
            (target(&format!("&client_id={guid}")), "No User Assigned or"),
            (
                target(&format!("&client_id={guid}&principal_id={guid}")),
                "Only one of",
            ),
            (target("&resource=b"), "more than once"),
            (
                "/msi/token?api-version=2019-08-01".to_owned(),
                "'resource' is missing",
            ),
            (
                target("").replace("2019-08-01", "2018-02-01"),
                "not supported",
            ),
            (target("").replace("api-version", "x"), "was not specified"),
        ] {
            let reply = asker.get(&target);
            assert_eq!(reply.status, 400, "{target}");
            let json = reply.json();
            assert!(
                json["message"].as_str().unwrap().contains(message),
                "{json}"
            );
            assert_eq!(json["correlationId"].as_str().unwrap().len(), 36);
        }
        assert_eq!(
            asker.send("POST", &target(""), asker.lines(), "").status,
            405
        );
    }

    #[test]
    fn the_path_can_be_chosen_and_may_have_one_slash_more() {
        let path = "/a/b/".to_owned();
        let asker = app_service().with_kind(Kind::AppService(AppService {
            path,
            ..AppService::default()
        }));
        let status = |path: &str| asker.get(&target("").replace("/msi/token", path)).status;
        assert_eq!((status("/a/b/"), status("/a/b//")), (200, 200));
        assert_eq!((status("/a/b"), status("/msi/token")), (404, 404));
        assert_eq!(
            asker.emulator.environment()[0],
            (
                "IDENTITY_ENDPOINT",
                format!("http://{}/a/b/", asker.emulator.address())
            )
        );
    }
}
