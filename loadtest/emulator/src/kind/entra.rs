//! The token endpoint of Entra, version 2, as a workload identity asks it:
//! `POST /<tenant>/oauth2/v2.0/token` over TLS, with a federated token in place of a secret.

use std::path::PathBuf;

use super::assertion;
use crate::fields::Fields;
use crate::http::Request;
use crate::identities::Selector;
use crate::query::Query;
use crate::refusals::{ErrorShape, Refusal, Words};
use crate::rules::{ApiVersions, RenewBy, Rules, TokenPath, TokenRequest};
use crate::time;
use crate::token_reply::Success;
use crate::world::World;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The client id in the environment when the identities do not say one.
const ANY_CLIENT_ID: &str = "f07e70ce-0000-4000-8000-0000000000c1";

/// Choices for [`crate::Kind::Entra`]. The clients it knows are the identities of the settings,
/// by their client ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entra {
    /// The `sub` a federated token must have. Default `system:serviceaccount:default:foretoken`.
    pub subject: String,
    /// Adds `refresh_in`, this many seconds, to replies. Default none.
    pub refresh_in_s: Option<u64>,
    /// Where to write a federated token at the start, for [`Self::FILE_TOKEN_LIFETIME_S`]. It is
    /// not renewed. Default nowhere.
    pub federated_token_file: Option<PathBuf>,
}

impl Default for Entra {
    fn default() -> Self {
        Self {
            subject: "system:serviceaccount:default:foretoken".to_owned(),
            refresh_in_s: None,
            federated_token_file: None,
        }
    }
}

impl Entra {
    /// The life of the token in [`Self::federated_token_file`], in seconds: a day.
    pub const FILE_TOKEN_LIFETIME_S: u64 = 86_400;

    pub(super) fn rules() -> Rules<'static> {
        Rules {
            path: TokenPath::OfAnyTenant("/oauth2/v2.0/token"),
            methods: &["POST"],
            metadata: None,
            secret: None,
            api_versions: ApiVersions::Any,
            selectors: &[],
            renew_by: RenewBy::Nothing,
            forms: true,
            errors: ErrorShape::Entra,
        }
    }

    /// Holds a request against the rules. The checks run in this order: method, tenant, form,
    /// grant type, scope, client id, assertion.
    pub(super) fn token_request(
        &self,
        world: &World,
        request: &Request,
    ) -> Result<TokenRequest, Refusal> {
        let rules = Self::rules();
        rules.check_headers(request)?;
        check_tenant(&request.path, &world.issuance.tenant_id)?;
        let form = Query::parse(rules.form(request)?).ok_or(Refusal::BadQuery)?;
        if let Some(name) = form.duplicate() {
            return Err(Refusal::DuplicateParameter(name.to_owned()));
        }
        if required(&form, "grant_type")? != "client_credentials" {
            return Err(own(
                400,
                "unsupported_grant_type",
                "AADSTS70003: The app requested an unsupported grant type.",
            ));
        }
        let resource = resource_of(required(&form, "scope")?)?;
        let client_id = required(&form, "client_id")?.to_owned();
        if form.text("client_assertion_type") != Some(ASSERTION_TYPE) {
            return Err(no_assertion());
        }
        let assertion = form.text("client_assertion").ok_or_else(no_assertion)?;
        let now_s = time::unix_ms() / 1000;
        assertion::check(assertion, &world.key, &self.subject, now_s)
            .map_err(|message| own(401, "invalid_client", message))?;
        Ok(TokenRequest {
            resource,
            selector: Selector::ClientId(client_id),
            asked_by: None,
            bypass_cache: false,
            refused_token: None,
        })
    }

    /// Numbers are numbers, and the resource is not named.
    pub(super) fn success(&self, it: &Success<'_>) -> Fields {
        let fields = Fields::default()
            .with("token_type", "Bearer")
            .with("expires_in", it.expires_in_s)
            .with("ext_expires_in", it.expires_in_s);
        match self.refresh_in_s {
            Some(refresh_in_s) => fields.with("refresh_in", refresh_in_s),
            None => fields,
        }
        .with("access_token", it.token)
    }

    pub(super) fn environment(&self, world: &World) -> Vec<(&'static str, String)> {
        let client_id = world.identities.first_client_id();
        let mut variables = vec![
            (
                "AZURE_AUTHORITY_HOST",
                format!("https://{}/", world.address),
            ),
            ("AZURE_TENANT_ID", world.issuance.tenant_id.clone()),
            (
                "AZURE_CLIENT_ID",
                client_id.unwrap_or(ANY_CLIENT_ID).to_owned(),
            ),
        ];
        if let Some(file) = &self.federated_token_file {
            variables.push(("AZURE_FEDERATED_TOKEN_FILE", file.display().to_string()));
        }
        variables
    }
}

pub(super) fn words(refusal: &Refusal) -> Option<Words> {
    let words = match refusal {
        Refusal::MethodNotAllowed(_) => Words::new(
            405,
            "invalid_request",
            "AADSTS900561: The endpoint only accepts POST requests.",
        ),
        Refusal::NotAForm => missing("grant_type"),
        Refusal::BadQuery => Words::new(
            400,
            "invalid_request",
            "AADSTS9000410: Malformed request body.",
        ),
        Refusal::DuplicateParameter(name) => Words::new(
            400,
            "invalid_request",
            format!(
                "AADSTS9000411: The request is not properly formatted. The parameter '{name}' is \
                 duplicated."
            ),
        ),
        Refusal::IdentityNotFound | Refusal::MultipleIdentities => Words::new(
            400,
            "unauthorized_client",
            "AADSTS700016: Application with the given identifier was not found in the directory. \
             This can happen if the application has not been installed by the administrator of \
             the tenant.",
        ),
        _ => return None,
    };
    Some(words)
}

fn check_tenant(path: &str, tenant_id: &str) -> Result<(), Refusal> {
    let tenant = path.trim_start_matches('/').split('/').next();
    match tenant {
        Some(tenant) if tenant.eq_ignore_ascii_case(tenant_id) => Ok(()),
        tenant => Err(own(
            404,
            "invalid_request",
            format!(
                "AADSTS90002: Tenant '{}' not found. Check to make sure you have the correct \
                 tenant ID.",
                tenant.unwrap_or_default()
            ),
        )),
    }
}

/// The resource of a scope: what stands before `/.default`.
fn resource_of(scope: &str) -> Result<String, Refusal> {
    match scope.strip_suffix("/.default") {
        Some(resource) if !resource.is_empty() && !resource.contains(' ') => {
            Ok(resource.to_owned())
        }
        _ => Err(own(
            400,
            "invalid_scope",
            format!(
                "AADSTS1002012: The provided value for scope {scope} is not valid. Client \
                 credential flows must have a scope value with /.default suffixed to the resource \
                 identifier (application ID URI)."
            ),
        )),
    }
}

fn required<'a>(form: &'a Query, name: &'static str) -> Result<&'a str, Refusal> {
    form.text(name).ok_or_else(|| Refusal::Own(missing(name)))
}

fn missing(name: &str) -> Words {
    Words::new(
        400,
        "invalid_request",
        format!("AADSTS900144: The request body must contain the following parameter: '{name}'."),
    )
}

fn no_assertion() -> Refusal {
    own(
        401,
        "invalid_client",
        "AADSTS7000216: 'client_assertion', 'client_secret' or 'request' is required for the \
         'client_credentials' grant type.",
    )
}

fn own(
    status: u16,
    code: &'static str,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Refusal {
    Refusal::Own(Words::new(status, code, message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::assertion::{AUDIENCE, FEDERATION_ISSUER};
    use super::*;
    use crate::key::SigningKey;
    use crate::testing::{Asker, RESOURCE, Response, names};
    use crate::{Identities, Kind, PUBLISHED_TEST_KEY_PEM};

    const CLIENT_ID: &str = "aaaaaaaa-1111-4222-8333-444444444444";
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

    fn entra(options: Entra) -> Asker {
        Asker::new(Kind::Entra(options)).with_lines(FORM)
    }

    fn path() -> String {
        format!("/{}/oauth2/v2.0/token", crate::settings::DEFAULT_TENANT_ID)
    }

    fn form(assertion: &str) -> String {
        format!(
            "client_id={CLIENT_ID}&scope={RESOURCE}/.default&grant_type=client_credentials\
             &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3A\
             jwt-bearer&client_assertion={assertion}"
        )
    }

    fn assert_refused(reply: &Response, status: u16, error: &str, number: u64) {
        assert_eq!(reply.status, status, "{}", reply.body);
        let json = reply.json();
        assert_eq!(json["error"], error);
        assert_eq!(json["error_codes"], json!([number]));
        let description = json["error_description"].as_str().unwrap();
        assert!(description.starts_with(&format!("AADSTS{number}: ")));
        assert_eq!(
            names(&reply.body),
            [
                "error",
                "error_description",
                "error_codes",
                "timestamp",
                "trace_id",
                "correlation_id",
                "error_uri"
            ]
        );
    }

    #[test]
    fn a_federated_token_is_exchanged_for_one_of_the_resource() {
        let asker = entra(Entra::default());
        let body = form(&asker.emulator.federated_token(60));
        let reply = asker.post(&path(), &body);
        assert_eq!(
            names(&reply.body),
            ["token_type", "expires_in", "ext_expires_in", "access_token"]
        );
        assert_eq!(reply.json()["expires_in"], 86_400);
        let claims = reply.claims();
        assert_eq!(
            (&claims["aud"], &claims["appid"]),
            (&RESOURCE.into(), &CLIENT_ID.into())
        );
        let selector = format!("client_id={CLIENT_ID}");
        assert_eq!(asker.emulator.counts().calls_for(&selector, RESOURCE), 1);
    }

    #[test]
    fn refresh_in_is_there_when_it_is_asked_for() {
        let asker = entra(Entra {
            refresh_in_s: Some(43_200),
            ..Entra::default()
        });
        let reply = asker.post(&path(), &form(&asker.emulator.federated_token(60)));
        assert_eq!(reply.json()["refresh_in"], 43_200);
    }

    #[test]
    fn an_assertion_that_does_not_hold_is_refused() {
        let asker = entra(Entra::default());
        let key = SigningKey::from_pem(PUBLISHED_TEST_KEY_PEM).unwrap();
        let claims = |changes: Value| {
            let mut claims = json!({
                "aud": AUDIENCE, "iss": FEDERATION_ISSUER, "sub": Entra::default().subject,
                "exp": u64::MAX / 2,
            });
            for (name, value) in changes.as_object().unwrap() {
                claims[name] = value.clone();
            }
            key.sign(&claims.to_string())
        };
        let good = claims(json!({}));
        asker.post(&path(), &form(&good)).token();
        let tampered = good.replacen(".e", ".f", 1);
        for (assertion, number) in [
            (claims(json!({"iss": "https://other/"})), 700_211),
            (claims(json!({"aud": "api://other"})), 700_212),
            (claims(json!({"sub": "other"})), 700_213),
            (claims(json!({"exp": 1})), 700_024),
            (claims(json!({"exp": null})), 700_024),
            (tampered, 700_027),
            ("x.y".to_owned(), 700_027),
            (String::new(), 7_000_216),
        ] {
            let reply = asker.post(&path(), &form(&assertion));
            assert_refused(&reply, 401, "invalid_client", number);
        }
    }

    #[test]
    fn a_request_that_breaks_a_rule_is_refused_with_its_number() {
        let asker = entra(Entra::default());
        let good = form(&asker.emulator.federated_token(60));
        for (body, status, error, number) in [
            (
                good.replace("/.default", ""),
                400,
                "invalid_scope",
                1_002_012,
            ),
            (
                good.replace("client_credentials", "password"),
                400,
                "unsupported_grant_type",
                70_003,
            ),
            (good.replace("scope", "x"), 400, "invalid_request", 900_144),
            (format!("{good}&scope=x"), 400, "invalid_request", 9_000_411),
            (
                good.replace("jwt-bearer", "saml2"),
                401,
                "invalid_client",
                7_000_216,
            ),
            (
                good.replace(CLIENT_ID, "nobody"),
                400,
                "unauthorized_client",
                700_016,
            ),
        ] {
            assert_refused(&asker.post(&path(), &body), status, error, number);
        }
        let json = asker.send("POST", &path(), "Content-Type: application/json\r\n", &good);
        assert_refused(&json, 400, "invalid_request", 900_144);
        let in_query = asker.post(&format!("{}?{good}", path()), "");
        assert_refused(&in_query, 400, "invalid_request", 900_144);
        let elsewhere = asker.post("/common/oauth2/v2.0/token", &good);
        assert_refused(&elsewhere, 404, "invalid_request", 90_002);
        assert_eq!(asker.get(&path()).status, 405);
        assert_eq!(asker.post("/oauth2/v2.0/token", &good).status, 404);
    }

    #[test]
    fn only_the_clients_of_the_identities_are_known() {
        let file = "[[user]]\nname = \"one\"";
        let asker = entra(Entra::default()).with_identities(Identities::from_toml(file).unwrap());
        let body = form(&asker.emulator.federated_token(60));
        let stranger = asker.post(&path(), &body);
        assert_refused(&stranger, 400, "unauthorized_client", 700_016);
        let environment = asker.emulator.environment();
        let (name, client_id) = &environment[2];
        assert_eq!(*name, "AZURE_CLIENT_ID");
        asker
            .post(&path(), &body.replace(CLIENT_ID, client_id))
            .token();
    }

    #[test]
    fn the_federated_token_file_holds_a_token_that_is_accepted() {
        let file = std::env::temp_dir().join(format!("emulator-entra-{}", std::process::id()));
        let asker = entra(Entra {
            federated_token_file: Some(file.clone()),
            ..Entra::default()
        });
        let environment = asker.emulator.environment();
        let last = environment.last().unwrap();
        assert_eq!(
            *last,
            ("AZURE_FEDERATED_TOKEN_FILE", file.display().to_string())
        );
        let assertion = std::fs::read_to_string(&file).unwrap();
        asker.post(&path(), &form(&assertion)).token();
        std::fs::remove_file(file).unwrap();
    }
}
