//! App Service as it was before 2019: api-version 2017-09-01, a secret in the header `secret`,
//! and dates in place of epochs. Azure Machine Learning asks in the same way.

use super::DEFAULT_SECRET;
use crate::expiry_form::ExpiryForm;
use crate::fields::Fields;
use crate::identities::Selector;
use crate::refusals::{ErrorShape, Refusal, Words};
use crate::rules::{ApiVersions, RenewBy, Rules, TokenPath};
use crate::token_reply::Success;

/// Choices for [`crate::Kind::AppService2017`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppService2017 {
    /// The path of tokens, as in [`crate::AppService`]. Default `/MSI/token`.
    pub path: String,
    /// What the header `secret` must say. Default [`DEFAULT_SECRET`].
    pub secret: String,
    /// How `expires_on` is written. Default [`ExpiryForm::LinuxDate`].
    pub expires_on: ExpiryForm,
    /// Whether refusals and status faults come as status 200 with an `ExceptionMessage`.
    pub failures_as_200: bool,
}

impl Default for AppService2017 {
    fn default() -> Self {
        Self {
            path: "/MSI/token".to_owned(),
            secret: DEFAULT_SECRET.to_owned(),
            expires_on: ExpiryForm::LinuxDate,
            failures_as_200: false,
        }
    }
}

impl AppService2017 {
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            errors: if self.failures_as_200 {
                ErrorShape::ExceptionAs200
            } else {
                ErrorShape::PascalCase
            },
            ..rules_2017(&self.path, &self.secret)
        }
    }

    pub(super) fn success(&self, it: &Success<'_>) -> Fields {
        Fields::default()
            .with("access_token", it.token)
            .with("expires_on", self.expires_on.write(it.expires_on_s))
            .with("resource", it.resource)
            .with("token_type", "Bearer")
    }
}

/// What both users of 2017-09-01 ask of a request.
pub(super) fn rules_2017<'a>(path: &'a str, secret: &'a str) -> Rules<'a> {
    Rules {
        path: TokenPath::OrWithSlash(path),
        methods: &["GET"],
        metadata: None,
        secret: Some(("secret", secret)),
        api_versions: ApiVersions::OneOf(&["2017-09-01"]),
        selectors: &[("clientid", Selector::ClientId)],
        renew_by: RenewBy::Nothing,
        forms: false,
        errors: ErrorShape::PascalCase,
    }
}

pub(super) fn words(refusal: &Refusal) -> Option<Words> {
    match refusal {
        Refusal::IdentityNotFound | Refusal::MultipleIdentities => Some(Words::new(
            400,
            "invalid_request",
            "No MSI found for specified ClientId/ResourceId.",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asker, RESOURCE, names};
    use crate::{Fault, FaultKind, Identities, Kind};

    fn asker(options: AppService2017) -> Asker {
        Asker::new(Kind::AppService2017(options))
            .with_lines(&format!("Secret: {DEFAULT_SECRET}\r\n"))
    }

    fn target(more: &str) -> String {
        format!("/MSI/token?api-version=2017-09-01&resource={RESOURCE}{more}")
    }

    #[test]
    fn a_success_has_four_members_and_a_date() {
        let reply = asker(AppService2017::default()).get(&target(""));
        assert_eq!(
            names(&reply.body),
            ["access_token", "expires_on", "resource", "token_type"]
        );
        let exp = reply.claims()["exp"].as_u64().unwrap();
        assert_eq!(reply.json()["expires_on"], ExpiryForm::LinuxDate.write(exp));
    }

    #[test]
    fn the_form_of_the_date_can_be_chosen() {
        for form in [
            ExpiryForm::WindowsDate,
            ExpiryForm::Iso8601,
            ExpiryForm::EpochNumber,
        ] {
            let options = AppService2017 {
                expires_on: form,
                ..AppService2017::default()
            };
            let reply = asker(options).get(&target(""));
            let exp = reply.claims()["exp"].as_u64().unwrap();
            assert_eq!(reply.json()["expires_on"], form.write(exp));
        }
    }

    #[test]
    fn only_clientid_selects_and_an_empty_one_selects_nobody() {
        let asker = asker(AppService2017::default());
        let guid = "aaaaaaaa-1111-4222-8333-444444444444";
        let by_clientid = asker.get(&target(&format!("&clientid={guid}")));
        assert_eq!(by_clientid.claims()["appid"], guid);
        for more in ["&clientid=".to_owned(), format!("&client_id={guid}")] {
            asker.get(&target(&more)).token();
        }
        assert_eq!(asker.emulator.counts().calls_for("system", RESOURCE), 2);
    }

    #[test]
    fn refusals_are_in_pascal_case() {
        let asker =
            asker(AppService2017::default()).with_identities(Identities::from_toml("").unwrap());
        let reply = asker.get(&target(""));
        assert_eq!(
            names(&reply.body),
            ["StatusCode", "Message", "CorrelationId"]
        );
        assert_eq!(
            (reply.status, &reply.json()["Message"]),
            (
                400,
                &"No MSI found for specified ClientId/ResourceId.".into()
            )
        );
        assert_eq!(asker.send("GET", &target(""), "", "").status, 401);
        let newer = target("").replace("2017-09-01", "2019-08-01");
        assert_eq!(asker.get(&newer).status, 400);
    }

    #[test]
    fn failures_can_come_as_status_200_with_an_exception_message() {
        let asker = asker(AppService2017 {
            failures_as_200: true,
            ..AppService2017::default()
        });
        let refused = asker.send("GET", &target(""), "", "");
        asker.emulator.set_fault(Some(Fault::times(
            FaultKind::Status {
                status: 503,
                retry_after_s: None,
            },
            1,
        )));
        let failed = asker.get(&target(""));
        for (reply, status) in [(refused, 401), (failed, 503)] {
            assert_eq!(reply.status, 200);
            assert_eq!(
                names(&reply.body),
                [
                    "ExceptionMessage",
                    "ErrorCode",
                    "ServiceErrorCodes",
                    "StatusCode",
                    "Message",
                    "CorrelationId"
                ]
            );
            assert_eq!(reply.json()["StatusCode"], status);
        }
        asker.get(&target("")).token();
    }
}
