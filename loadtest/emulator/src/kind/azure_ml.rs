//! A compute instance of Azure Machine Learning: asked as App Service was in 2017, answers with
//! an epoch.

use super::DEFAULT_SECRET;
use super::app_service_2017::rules_2017;
use crate::expiry_form::ExpiryForm;
use crate::fields::Fields;
use crate::rules::Rules;
use crate::token_reply::Success;

/// Choices for [`crate::Kind::AzureMl`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureMl {
    /// The path of tokens, as in [`crate::AppService`]. Default `/MSI/token`.
    pub path: String,
    /// What the header `secret` must say. Default [`DEFAULT_SECRET`].
    pub secret: String,
    /// How `expires_on` is written. Default [`ExpiryForm::EpochNumber`].
    pub expires_on: ExpiryForm,
    /// Whether the reply names the client id. Default false.
    pub client_id_in_reply: bool,
}

impl Default for AzureMl {
    fn default() -> Self {
        Self {
            path: "/MSI/token".to_owned(),
            secret: DEFAULT_SECRET.to_owned(),
            expires_on: ExpiryForm::EpochNumber,
            client_id_in_reply: false,
        }
    }
}

impl AzureMl {
    pub(super) fn rules(&self) -> Rules<'_> {
        rules_2017(&self.path, &self.secret)
    }

    pub(super) fn success(&self, it: &Success<'_>) -> Fields {
        let mut fields = Fields::default().with("access_token", it.token);
        if self.client_id_in_reply {
            fields = fields.with("client_id", it.client_id);
        }
        fields
            .with("expires_on", self.expires_on.write(it.expires_on_s))
            .with("resource", it.resource)
            .with("token_type", "Bearer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::testing::{Asker, RESOURCE, names};

    fn asker(options: AzureMl) -> Asker {
        Asker::new(Kind::AzureMl(options)).with_lines(&format!("secret: {DEFAULT_SECRET}\r\n"))
    }

    #[test]
    fn the_expiry_is_a_number_and_the_client_id_is_named_on_demand() {
        let target = format!("/MSI/token/?api-version=2017-09-01&resource={RESOURCE}&clientid=");
        let reply = asker(AzureMl::default()).get(&target);
        assert_eq!(
            names(&reply.body),
            ["access_token", "expires_on", "resource", "token_type"]
        );
        assert_eq!(reply.json()["expires_on"], reply.claims()["exp"]);

        let reply = asker(AzureMl {
            client_id_in_reply: true,
            expires_on: ExpiryForm::EpochString,
            ..AzureMl::default()
        })
        .get(&target);
        assert_eq!(names(&reply.body)[..2], ["access_token", "client_id"]);
        assert!(reply.json()["expires_on"].is_string());
    }

    #[test]
    fn it_is_asked_as_app_service_was() {
        let asker = asker(AzureMl::default());
        let target = format!("/MSI/token?api-version=2017-09-01&resource={RESOURCE}");
        assert_eq!(asker.send("GET", &target, "secret: x\r\n", "").status, 401);
        assert_eq!(asker.send("POST", &target, asker.lines(), "").status, 405);
        let environment = asker.emulator.environment();
        assert_eq!(environment[1], ("MSI_SECRET", DEFAULT_SECRET.to_owned()));
    }
}
