//! The token service of a Service Fabric cluster: TLS with a certificate that callers know by its
//! thumbprint, and a secret that tells one service from another.

use super::DEFAULT_SECRET;
use crate::expiry_form::ExpiryForm;
use crate::fields::Fields;
use crate::refusals::{ErrorShape, Refusal, Words};
use crate::rules::{ApiVersions, RenewBy, Rules, TokenPath};
use crate::token_reply::Success;

/// Choices for [`crate::Kind::ServiceFabric`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFabric {
    /// What the header `Secret` must say. Default [`DEFAULT_SECRET`].
    pub secret: String,
    /// How `expires_on` is written. Default [`ExpiryForm::EpochNumber`], as documented; a string
    /// has been seen too.
    pub expires_on: ExpiryForm,
}

impl Default for ServiceFabric {
    fn default() -> Self {
        Self {
            secret: DEFAULT_SECRET.to_owned(),
            expires_on: ExpiryForm::EpochNumber,
        }
    }
}

impl ServiceFabric {
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            path: TokenPath::Exactly("/metadata/identity/oauth2/token"),
            methods: &["GET"],
            metadata: None,
            secret: Some(("Secret", &self.secret)),
            api_versions: ApiVersions::OneOf(&["2019-07-01-preview", "2020-05-01"]),
            // The cluster knows the identity of a service by its secret.
            selectors: &[],
            renew_by: RenewBy::TokenHash,
            forms: false,
            errors: ErrorShape::NestedWithId,
        }
    }

    pub(super) fn success(&self, it: &Success<'_>) -> Fields {
        Fields::default()
            .with("token_type", "Bearer")
            .with("access_token", it.token)
            .with("expires_on", self.expires_on.write(it.expires_on_s))
            .with("resource", it.resource)
    }
}

/// The codes and words of the documents.
pub(super) fn words(refusal: &Refusal) -> Option<Words> {
    let words = match refusal {
        Refusal::SecretMissing(_) => Words::new(
            400,
            "SecretHeaderNotFound",
            "Secret is not found in the request headers.",
        ),
        Refusal::SecretWrong | Refusal::IdentityNotFound | Refusal::MultipleIdentities => {
            Words::new(
                404,
                "ManagedIdentityNotFound",
                "Managed identity not found for the specified application host.",
            )
        }
        Refusal::ResourceMissing => Words::new(
            400,
            "ArgumentNullOrEmpty",
            "The parameter 'resource' should not be null or empty string.",
        ),
        Refusal::ApiVersionMissing => unsupported_version(""),
        Refusal::ApiVersionUnknown(version) => unsupported_version(version),
        _ => return None,
    };
    Some(words)
}

fn unsupported_version(version: &str) -> Words {
    Words::new(
        400,
        "InvalidApiVersion",
        format!(
            "The api-version '{version}' is not supported. Supported version is \
             '2019-07-01-preview'."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::testing::{Asker, RESOURCE, names, sha256_hex};

    fn cluster(options: ServiceFabric) -> Asker {
        Asker::new(Kind::ServiceFabric(options))
            .with_lines(&format!("secret: {DEFAULT_SECRET}\r\n"))
    }

    fn target(more: &str) -> String {
        format!(
            "/metadata/identity/oauth2/token?api-version=2019-07-01-preview\
             &resource={RESOURCE}{more}"
        )
    }

    #[test]
    fn a_success_has_four_members_and_the_expiry_in_the_form_chosen() {
        let reply = cluster(ServiceFabric::default()).get(&target(""));
        assert_eq!(
            names(&reply.body),
            ["token_type", "access_token", "expires_on", "resource"]
        );
        assert_eq!(reply.json()["expires_on"], reply.claims()["exp"]);
        let string = cluster(ServiceFabric {
            expires_on: ExpiryForm::EpochString,
            ..ServiceFabric::default()
        });
        assert!(string.get(&target("")).json()["expires_on"].is_string());
    }

    #[test]
    fn refusals_have_the_documented_codes() {
        let asker = cluster(ServiceFabric::default());
        let unknown = target("").replace("2019-07-01-preview", "2018-02-01");
        for (target, lines, status, code) in [
            (target(""), "", 400, "SecretHeaderNotFound"),
            (target(""), "Secret: x\r\n", 404, "ManagedIdentityNotFound"),
            (
                target("").replace("resource", "x"),
                asker.lines(),
                400,
                "ArgumentNullOrEmpty",
            ),
            (unknown, asker.lines(), 400, "InvalidApiVersion"),
        ] {
            let reply = asker.send("GET", &target, lines, "");
            assert_eq!(reply.status, status, "{code}");
            let error = &reply.json()["error"];
            assert_eq!(error["code"], code);
            assert!(reply.body.starts_with(r#"{"error":{"correlationId":""#));
        }
        let newer = target("").replace("2019-07-01-preview", "2020-05-01");
        assert_eq!(asker.get(&newer).status, 200);
    }

    #[test]
    fn the_hash_of_the_current_token_gets_a_new_one_and_another_hash_does_not() {
        let asker = cluster(ServiceFabric::default());
        let first = asker.get(&target("&xms_cc=CP1")).token();
        let refresh = format!("&xms_cc=CP1&token_sha256_to_refresh={}", sha256_hex(&first));
        let second = asker.get(&target(&refresh)).token();
        assert_ne!(second, first);
        assert_eq!(asker.get(&target(&refresh)).token(), second);
        assert_eq!(asker.get(&target("")).token(), second);
    }

    #[test]
    fn the_environment_leads_to_it() {
        let asker = cluster(ServiceFabric::default());
        let environment = asker.emulator.environment();
        let names: Vec<&str> = environment.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "IDENTITY_ENDPOINT",
                "IDENTITY_HEADER",
                "IDENTITY_SERVER_THUMBPRINT",
                "IDENTITY_API_VERSION"
            ]
        );
        assert!(environment[0].1.starts_with("https://127.0.0.1:"));
        assert_eq!(Some(environment[2].1.clone()), asker.emulator.thumbprint());
    }
}
