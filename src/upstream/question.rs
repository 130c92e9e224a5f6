//! What goes out: one request per source, built from checked values only.
//!
//! A pure function of the source and what is asked. Nothing of the caller's own request is in it
//! but the parts of the token key, each escaped.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use zeroize::Zeroizing;

use super::settings::{Endpoint, Federation, Source};
use super::{Ask, Class, FetchError};
use crate::token::{Identity, Secret, TokenKey};

/// What needs no escape in a query (RFC 3986, unreserved characters).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One request.
pub(super) struct Question {
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// All headers but those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, a form. Wiped when the last copy of the pointer goes.
    pub form: Option<Bytes>,
}

/// How a kind of source wants to be asked (`protocols.md` §3 and §5).
struct Manner<'s> {
    endpoint: &'s Endpoint,
    method: Method,
    api_version: Option<&'static str>,
    metadata: bool,
    secret: Option<(&'static str, &'s Secret)>,
    /// What it calls a client id, an object id and an ARM resource id; `None` where it takes none.
    selectors: [Option<&'static str>; 3],
}

/// The request that asks `source` for a token.
///
/// # Errors
/// `Unsupported` where the source cannot be asked for that identity; nothing is sent then. It would
/// ignore the selector and give another identity's token.
pub(super) fn question(source: &Source, ask: &Ask) -> Result<Question, FetchError> {
    let manner = match source {
        Source::WorkloadIdentity(federation) => return exchange(federation, &ask.key),
        Source::Imds(endpoint) => Manner {
            selectors: [Some("client_id"), Some("object_id"), Some("msi_res_id")],
            ..Manner::get(endpoint, "2018-02-01")
        },
        // Automation wants `Metadata` too, and the others do not mind.
        Source::AppService(endpoint, secret) => Manner {
            secret: Some(("x-identity-header", secret)),
            selectors: [Some("client_id"), Some("principal_id"), Some("mi_res_id")],
            ..Manner::get(endpoint, "2019-08-01")
        },
        Source::AppService2017(endpoint, secret)
        | Source::AzureMl {
            endpoint, secret, ..
        } => Manner {
            secret: Some(("secret", secret)),
            selectors: [Some("clientid"), None, None],
            ..Manner::get(endpoint, "2017-09-01")
        },
        Source::Arc { endpoint, .. } => Manner {
            selectors: [Some("client_id"), Some("object_id"), Some("msi_res_id")],
            ..Manner::get(endpoint, "2020-06-01")
        },
        Source::ServiceFabric {
            endpoint, secret, ..
        } => Manner {
            metadata: false,
            secret: Some(("secret", secret)),
            ..Manner::get(endpoint, "2019-07-01-preview")
        },
        Source::CloudShell(endpoint) => Manner::post(endpoint),
        Source::VmExtension(endpoint) => Manner {
            selectors: [Some("client_id"), Some("object_id"), Some("msi_res_id")],
            ..Manner::post(endpoint)
        },
    };
    manner.question(source, ask)
}

impl<'s> Manner<'s> {
    fn get(endpoint: &'s Endpoint, api_version: &'static str) -> Self {
        Self {
            endpoint,
            method: Method::GET,
            api_version: Some(api_version),
            metadata: true,
            secret: None,
            selectors: [None; 3],
        }
    }

    fn post(endpoint: &'s Endpoint) -> Self {
        Self {
            method: Method::POST,
            api_version: None,
            ..Self::get(endpoint, "")
        }
    }

    fn question(self, source: &Source, ask: &Ask) -> Result<Question, FetchError> {
        let key = &ask.key;
        let mut parameters = Pairs::default();
        if let Some(version) = self.api_version {
            parameters.add("api-version", version);
        }
        parameters.add("resource", key.resource.as_str());
        if let Some((name, value)) = self.selector(source, key)? {
            parameters.add(name, value);
        }
        // Cloud Shell's callers put it on the URL, and so it goes there.
        let mut rest = Pairs::default();
        if !key.capabilities.is_empty() {
            rest.add("xms_cc", &key.capabilities.join(","));
        }
        match (source, &ask.revoked) {
            (Source::ServiceFabric { .. }, Some(hash)) => {
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                rest.add("token_sha256_to_refresh", &hash);
            }
            (Source::Imds(_), Some(_)) => rest.add("bypass_cache", "true"),
            _ => {}
        }
        for (name, value) in &key.extras {
            rest.add(name, value);
        }

        let mut target = self.endpoint.target.to_string();
        let mut headers = Vec::new();
        let form = if self.method == Method::POST {
            rest.append_to(&mut target);
            Some(Bytes::from_owner(parameters.0))
        } else {
            parameters.append_to(&mut target);
            rest.append_to(&mut target);
            None
        };
        if self.metadata {
            headers.push((
                HeaderName::from_static("metadata"),
                HeaderValue::from_static("true"),
            ));
        }
        if let Some((name, secret)) = self.secret {
            headers.push((
                HeaderName::from_static(name),
                hidden(Zeroizing::new(secret.expose().to_vec()))?,
            ));
        }
        Ok(Question {
            method: self.method,
            target,
            headers,
            form,
        })
    }

    fn selector<'k>(
        &self,
        source: &'k Source,
        key: &'k TokenKey,
    ) -> Result<Option<(&'static str, &'k str)>, FetchError> {
        let [client, object, resource] = self.selectors;
        let (name, value) = match (source.client_id_asked(&key.identity), &key.identity) {
            (Some(id), _) => (client, id),
            (None, Identity::ObjectId(id)) => (object, &**id),
            (None, Identity::ResourceId(id)) => (resource, &**id),
            (None, Identity::System | Identity::ClientId(_)) => return Ok(None),
        };
        let name = name.ok_or_else(|| unsupported(NO_SELECTOR))?;
        Ok(Some((name, value)))
    }
}

/// The exchange of a federated token for an access token, less the federated token itself.
fn exchange(federation: &Federation, key: &TokenKey) -> Result<Question, FetchError> {
    let client_id = match &key.identity {
        Identity::System => &federation.client_id,
        Identity::ClientId(id) => id,
        Identity::ObjectId(_) | Identity::ResourceId(_) => return Err(unsupported(NO_SELECTOR)),
    };
    // A space would make several scopes of it.
    if key.resource.as_str().contains(char::is_whitespace) {
        return Err(unsupported(
            "The upstream cannot be asked for a resource with a space in it",
        ));
    }
    let mut form = Pairs::default();
    form.add("client_id", client_id);
    // A slash at the end of a resource belongs to it: the scope then has two.
    form.add("scope", &format!("{}/.default", key.resource));
    form.add("grant_type", "client_credentials");
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    form.add("client_assertion_type", kind);
    if !key.capabilities.is_empty() {
        // As MSAL asks for a token that the resource may revoke. The caller's unknown parameters
        // stay here: they are of another protocol.
        let claims = serde_json::json!({
            "access_token": {"xms_cc": {"values": key.capabilities}}
        });
        form.add("claims", &claims.to_string());
    }
    Ok(Question {
        method: Method::POST,
        target: format!(
            "/{}/oauth2/v2.0/token",
            utf8_percent_encode(&federation.tenant, ESCAPED)
        ),
        headers: Vec::new(),
        form: Some(Bytes::from_owner(form.0)),
    })
}

impl Question {
    /// Adds the federated token.
    pub fn show(&mut self, federated: &Secret) {
        let form = self.form.take().unwrap_or_default();
        let name = b"&client_assertion=";
        // As long as it can get from the start, so that growing leaves no copy behind.
        let most = form.len() + name.len() + 3 * federated.expose().len();
        let mut whole = Zeroizing::new(Vec::with_capacity(most));
        whole.extend_from_slice(&form);
        whole.extend_from_slice(name);
        for part in percent_encode(federated.expose(), ESCAPED) {
            whole.extend_from_slice(part.as_bytes());
        }
        self.form = Some(Bytes::from_owner(whole));
    }

    /// Adds the content of the file that Arc's challenge named.
    pub fn redeem(&mut self, key: &Secret) -> Result<(), FetchError> {
        let value = Zeroizing::new([b"Basic ", key.expose()].concat());
        self.headers.push((AUTHORIZATION, hidden(value)?));
        Ok(())
    }
}

/// A header's value that no log shows, wiped with its last copy.
fn hidden(value: Zeroizing<Vec<u8>>) -> Result<HeaderValue, FetchError> {
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(value));
    let mut value = value.map_err(|_| FetchError::of(Class::BadChallenge))?;
    value.set_sensitive(true);
    Ok(value)
}

const NO_SELECTOR: &str = "The upstream cannot be asked for an identity by this selector";

fn unsupported(why: &str) -> FetchError {
    FetchError {
        status: Some(400),
        detail: Some(("invalid_request".into(), why.into())),
        ..FetchError::of(Class::Unsupported)
    }
}

/// `name=value` pairs, escaped and joined.
#[derive(Default)]
struct Pairs(Zeroizing<String>);

impl Pairs {
    fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.extend(utf8_percent_encode(name, ESCAPED));
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, ESCAPED));
    }

    fn append_to(&self, target: &mut String) {
        if self.0.is_empty() {
            return;
        }
        // The platform's own variable may have a query already.
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::*;
    use crate::token::Resource;
    use crate::upstream::Thumbprint;

    const ID: &str = "aaaaaaaa-1111-4222-8333-444444444444";

    fn ask(identity: Identity) -> Ask {
        Ask {
            key: TokenKey {
                upstream: "any".into(),
                identity,
                resource: Resource::from_decoded("https://a+b&c=d/é".as_bytes()).unwrap(),
                capabilities: vec!["cp1".into(), "cp2".into()],
                extras: vec![("x y".into(), "1&2".into())],
                client: None,
            },
            revoked: None,
        }
    }

    fn source(kind: &str, target: &str) -> Source {
        let endpoint = Endpoint::plain("127.0.0.1:4000".parse().unwrap(), target);
        let secret = Secret::new(b"the secret".to_vec());
        match kind {
            "imds" => Source::Imds(endpoint),
            "app-service" => Source::AppService(endpoint, secret),
            "app-service-2017" => Source::AppService2017(endpoint, secret),
            "azure-ml" => Source::AzureMl {
                endpoint,
                secret,
                default_client_id: Some("default".into()),
            },
            "arc" => Source::Arc {
                endpoint,
                folder: "/tokens".into(),
            },
            "service-fabric" => Source::ServiceFabric {
                endpoint,
                secret,
                thumbprint: Thumbprint([0; 20]),
            },
            "cloud-shell" => Source::CloudShell(endpoint),
            "vm-extension" => Source::VmExtension(endpoint),
            "workload-identity" => Source::WorkloadIdentity(Federation {
                host: "login.example".into(),
                port: 443,
                tenant: "ten ant".into(),
                client_id: "workload".into(),
                token_file: "/token".into(),
                ca_file: None,
            }),
            other => panic!("{other}"),
        }
    }

    /// Method, target, headers and form, in a line.
    fn line(question: &Question) -> String {
        let headers = question.headers.iter();
        let headers = headers.map(|(name, value)| format!(" {name}: {}", value.to_str().unwrap()));
        let form = question.form.as_ref();
        let form = form.map(|form| String::from_utf8_lossy(form));
        format!(
            "{} {}{}{}",
            question.method,
            question.target,
            headers.collect::<String>(),
            form.map_or(String::new(), |form| format!(" | {form}"))
        )
    }

    #[test]
    fn each_kind_is_asked_in_its_own_words() {
        let resource = "resource=https%3A%2F%2Fa%2Bb%26c%3Dd%2F%C3%A9";
        let rest = "xms_cc=cp1%2Ccp2&x%20y=1%262";
        for (kind, wanted) in [
            (
                "imds",
                format!("GET /p?api-version=2018-02-01&{resource}&client_id=u&{rest} metadata: true"),
            ),
            (
                "app-service",
                format!(
                    "GET /p?api-version=2019-08-01&{resource}&client_id=u&{rest} metadata: true \
                     x-identity-header: the secret"
                ),
            ),
            (
                "app-service-2017",
                format!(
                    "GET /p?api-version=2017-09-01&{resource}&clientid=u&{rest} metadata: true \
                     secret: the secret"
                ),
            ),
            (
                "azure-ml",
                format!(
                    "GET /p?api-version=2017-09-01&{resource}&clientid=u&{rest} metadata: true \
                     secret: the secret"
                ),
            ),
            (
                "arc",
                format!("GET /p?api-version=2020-06-01&{resource}&client_id=u&{rest} metadata: true"),
            ),
            (
                "vm-extension",
                format!("POST /p?{rest} metadata: true | {resource}&client_id=u"),
            ),
            (
                "workload-identity",
                "POST /ten%20ant/oauth2/v2.0/token | client_id=u\
                 &scope=https%3A%2F%2Fa%2Bb%26c%3Dd%2F%C3%A9%2F.default\
                 &grant_type=client_credentials\
                 &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                 &claims=%7B%22access_token%22%3A%7B%22xms_cc%22%3A%7B%22values%22%3A%5B%22cp1%22%2C%22cp2%22%5D%7D%7D%7D"
                    .to_owned(),
            ),
        ] {
            let asked = question(&source(kind, "/p"), &ask(Identity::ClientId("u".into())));
            assert_eq!(line(&asked.ok().unwrap()), wanted, "{kind}");
        }
        let system = ask(Identity::System);
        let asked = |kind| line(&question(&source(kind, "/p"), &system).ok().unwrap());
        assert_eq!(
            asked("service-fabric"),
            format!("GET /p?api-version=2019-07-01-preview&{resource}&{rest} secret: the secret")
        );
        assert_eq!(
            asked("cloud-shell"),
            format!("POST /p?{rest} metadata: true | {resource}")
        );
        assert!(asked("azure-ml").contains("&clientid=default&"));
        assert!(asked("workload-identity").contains("client_id=workload&"));
    }

    #[test]
    fn each_selector_has_the_name_that_the_kind_gives_it_or_is_refused_unasked() {
        let selectors = [Identity::ClientId, Identity::ObjectId, Identity::ResourceId];
        for (kind, names) in [
            (
                "imds",
                [Some("client_id"), Some("object_id"), Some("msi_res_id")],
            ),
            (
                "app-service",
                [Some("client_id"), Some("principal_id"), Some("mi_res_id")],
            ),
            ("app-service-2017", [Some("clientid"), None, None]),
            ("azure-ml", [Some("clientid"), None, None]),
            (
                "arc",
                [Some("client_id"), Some("object_id"), Some("msi_res_id")],
            ),
            ("service-fabric", [None, None, None]),
            ("cloud-shell", [None, None, None]),
            (
                "vm-extension",
                [Some("client_id"), Some("object_id"), Some("msi_res_id")],
            ),
            ("workload-identity", [Some("client_id"), None, None]),
        ] {
            for (make, name) in selectors.into_iter().zip(names) {
                let asked = question(&source(kind, "/p"), &ask(make(ID.into())));
                match (asked, name) {
                    (Ok(asked), Some(name)) => {
                        let line = line(&asked);
                        assert_eq!(line.matches(ID).count(), 1, "{kind}: {line}");
                        assert!(line.contains(&format!("{name}={ID}")), "{kind}: {line}");
                    }
                    (Err(error), None) => assert_eq!(error.class, Class::Unsupported, "{kind}"),
                    (asked, _) => panic!("{kind} {name:?}: {}", asked.is_ok()),
                }
            }
        }
    }

    #[test]
    fn a_resource_with_a_space_is_one_resource_or_none() {
        let mut spaced = ask(Identity::System);
        spaced.key.resource = Resource::from_decoded(b"https://a/.default https://b").unwrap();
        let asked = |kind| question(&source(kind, "/p"), &spaced).map(|it| line(&it));
        let refused = asked("workload-identity").err().map(|error| error.class);
        assert_eq!(refused, Some(Class::Unsupported));
        let encoded = "resource=https%3A%2F%2Fa%2F.default%20https%3A%2F%2Fb";
        assert!(asked("imds").ok().unwrap().contains(encoded));
    }

    #[test]
    fn a_query_of_the_endpoint_itself_is_kept() {
        let asked = question(&source("app-service", "/p/?a=b"), &ask(Identity::System));
        let line = line(&asked.ok().unwrap());
        assert!(line.starts_with("GET /p/?a=b&api-version=2019-08-01&resource="));
    }

    #[test]
    fn a_revoked_token_is_told_to_sources_that_listen() {
        let revoked = Ask {
            revoked: Some([0xab; 32]),
            ..ask(Identity::System)
        };
        let asked = |kind| line(&question(&source(kind, "/p"), &revoked).ok().unwrap());
        let hash = format!("&token_sha256_to_refresh={}", "ab".repeat(32));
        assert!(asked("service-fabric").contains(&hash));
        assert!(asked("imds").contains("&bypass_cache=true"));
        for kind in ["app-service", "arc", "cloud-shell", "workload-identity"] {
            let line = asked(kind);
            assert!(
                !line.contains("bypass") && !line.contains("sha256"),
                "{kind}"
            );
        }
    }

    /// Keys of few parts that look alike, so that two of them are often equal, or nearly.
    fn any_key() -> impl Strategy<Value = TokenKey> {
        let id = || select(vec!["a", "default", "workload", "a&resource=b"]).prop_map(Box::from);
        let identity = prop_oneof![
            Just(Identity::System),
            id().prop_map(Identity::ClientId),
            id().prop_map(Identity::ObjectId),
            id().prop_map(Identity::ResourceId),
        ];
        let resource = select(vec!["r", "r/", "R", "r%2f", "r&client_id=a", "é", "é/"]);
        let capabilities = subsequence(vec!["cp1", "cp2", "x&y"], 0..=3);
        let extras = vec![("m", "1"), ("m", "1&n=2"), ("m=1&n", "2"), ("n", "2")];
        (identity, resource, capabilities, subsequence(extras, 0..=4)).prop_map(
            |(identity, resource, capabilities, extras)| TokenKey {
                upstream: "any".into(),
                identity,
                resource: Resource::from_decoded(resource.as_bytes()).unwrap(),
                capabilities: capabilities.into_iter().map(Box::from).collect(),
                extras: extras
                    .into_iter()
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect(),
                client: None,
            },
        )
    }

    /// A key, less what is not sent: a default that the platform named stands for no selector, and
    /// Entra is sent none of the callers' unknown parameters.
    fn as_sent(kind: &str, mut key: TokenKey) -> TokenKey {
        let default = match kind {
            "azure-ml" => "default",
            "workload-identity" => "workload",
            _ => "",
        };
        if key.identity == Identity::ClientId(default.into()) {
            key.identity = Identity::System;
        }
        if kind == "workload-identity" {
            key.extras.clear();
        }
        key
    }

    proptest! {
        #[test]
        fn two_keys_are_asked_in_the_same_words_if_and_only_if_they_are_equal(
            a in any_key(), other in any_key(), part in 0..4,
        ) {
            // They differ in one part at most.
            let mut b = a.clone();
            match part {
                0 => b.identity = other.identity,
                1 => b.resource = other.resource,
                2 => b.capabilities = other.capabilities,
                _ => b.extras = other.extras,
            }
            for kind in [
                "imds", "app-service", "app-service-2017", "azure-ml", "arc", "service-fabric",
                "cloud-shell", "vm-extension", "workload-identity",
            ] {
                let words = |key: &TokenKey| {
                    let ask = Ask { key: key.clone(), revoked: None };
                    question(&source(kind, "/p"), &ask).ok().map(|asked| line(&asked))
                };
                let (Some(of_a), Some(of_b)) = (words(&a), words(&b)) else {
                    continue;
                };
                let equal = as_sent(kind, a.clone()) == as_sent(kind, b.clone());
                prop_assert_eq!(of_a == of_b, equal, "{}: {} {}", kind, of_a, of_b);
            }
        }
    }

    #[test]
    fn secrets_are_sent_and_never_shown() {
        let system = ask(Identity::System);
        let mut asked = question(&source("arc", "/p"), &system).ok().unwrap();
        asked.redeem(&Secret::new(b"k3y".to_vec())).unwrap();
        assert!(line(&asked).ends_with(" authorization: Basic k3y"));
        assert!(!format!("{:?}", asked.headers).contains("k3y"));
        assert!(asked.redeem(&Secret::new(b"a\r\nb: c".to_vec())).is_err());

        let mut asked = question(&source("workload-identity", ""), &system)
            .ok()
            .unwrap();
        asked.show(&Secret::new(b"h.p.s+/=".to_vec()));
        assert!(line(&asked).ends_with("&client_assertion=h.p.s%2B%2F%3D"));
    }
}
