//! What a kind asks of a token request, as a row of a table, and the check of a request against
//! it.
//!
//! The checks run in this order, and the first that fails answers: method, `Metadata` header,
//! `X-Forwarded-For`, secret, `api-version`, duplicates, selectors, `resource`. So a client's
//! bare probe always gets the refusal it looks for.

use crate::http::Request;
use crate::identities::Selector;
use crate::query::Query;
use crate::refusals::{ErrorShape, Refusal};

/// The rules of one kind. Its own file under `kind` fills them in.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    pub path: TokenPath<'a>,
    pub methods: &'static [&'static str],
    /// Whether there must be one `Metadata` line, and no `X-Forwarded-For`.
    pub metadata: Option<MetadataTrue>,
    /// The header that must carry a secret, and the secret.
    pub secret: Option<(&'static str, &'a str)>,
    pub api_versions: ApiVersions,
    /// The parameters that select an identity; others are ignored, as unknown ones are.
    pub selectors: &'static [(&'static str, SelectorOf)],
    pub renew_by: RenewBy,
    /// Whether a POST may carry the parameters in a form.
    pub forms: bool,
    pub errors: ErrorShape,
}

pub(crate) type SelectorOf = fn(String) -> Selector;

/// The path of tokens. It is taken as it is written: a double slash or an encoded letter makes it
/// another path, because a proxy must not rely on the endpoint to tidy it up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TokenPath<'a> {
    Exactly(&'a str),
    /// Only the first segment may be in any case.
    FirstSegmentInAnyCase(&'a str),
    /// As it is, or with one slash more: clients append `/?resource=…` to a variable.
    OrWithSlash(&'a str),
    /// After one segment that names a tenant, known or not.
    OfAnyTenant(&'a str),
}

/// How the value of the `Metadata` header may be spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetadataTrue {
    /// `true`, as the documents say.
    Exactly,
    /// `True` too.
    InAnyCase,
}

/// Which values of `api-version` are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ApiVersions {
    /// Any, or none at all.
    Any,
    /// Any date from this one on.
    From(&'static str),
    OneOf(&'static [&'static str]),
}

/// The parameter by which a caller gets a new token in place of the last one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RenewBy {
    Nothing,
    /// `bypass_cache=true`, which is not documented.
    BypassCache,
    /// `token_sha256_to_refresh`, the hash of a token that is no longer any good.
    TokenHash,
}

/// A token request that keeps the rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    /// The value of the parameter, decoded once.
    pub resource: String,
    pub selector: Selector,
    /// The name and value of the selector as they were written.
    pub asked_by: Option<(&'static str, String)>,
    /// Whether it asks for a new token.
    pub bypass_cache: bool,
    /// The hash of a token that is no longer any good.
    pub refused_token: Option<String>,
}

impl TokenPath<'_> {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Exactly(own)
            | Self::FirstSegmentInAnyCase(own)
            | Self::OrWithSlash(own)
            | Self::OfAnyTenant(own) => own,
        }
    }

    pub(crate) fn is(&self, path: &str) -> bool {
        match self {
            Self::Exactly(own) => path == *own,
            Self::OrWithSlash(own) => path
                .strip_prefix(own)
                .is_some_and(|rest| rest.is_empty() || rest == "/"),
            Self::OfAnyTenant(own) => path
                .strip_suffix(own)
                .and_then(|before| before.strip_prefix('/'))
                .is_some_and(|tenant| !tenant.is_empty() && !tenant.contains('/')),
            Self::FirstSegmentInAnyCase(own) => match (split_first(path), split_first(own)) {
                (Some((first, rest)), Some((own_first, own_rest))) => {
                    first.eq_ignore_ascii_case(own_first) && rest == own_rest
                }
                _ => false,
            },
        }
    }
}

/// `/a/b/c` as `a` and `b/c`.
pub(crate) fn split_first(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

impl ApiVersions {
    fn take(self, version: &str) -> bool {
        match self {
            Self::Any => true,
            Self::From(first) => is_date(version) && version >= first,
            Self::OneOf(known) => known.contains(&version),
        }
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

impl Rules<'_> {
    /// Holds a request on the token path against the rules.
    pub(crate) fn token_request(&self, request: &Request) -> Result<TokenRequest, Refusal> {
        self.check_headers(request)?;
        let parameters = self.parameters(request)?;
        self.check_api_version(&parameters)?;
        if let Some(name) = parameters.duplicate() {
            return Err(Refusal::DuplicateParameter(name.to_owned()));
        }
        let (selector, asked_by) = self.selector(&parameters)?;
        let resource = parameters
            .text("resource")
            .ok_or(Refusal::ResourceMissing)?;
        let renewed_by = |parameter, name| {
            (self.renew_by == parameter)
                .then(|| parameters.text(name))
                .flatten()
        };
        Ok(TokenRequest {
            resource: resource.to_owned(),
            selector,
            asked_by,
            bypass_cache: renewed_by(RenewBy::BypassCache, "bypass_cache")
                .is_some_and(|it| it.eq_ignore_ascii_case("true")),
            refused_token: renewed_by(RenewBy::TokenHash, "token_sha256_to_refresh")
                .map(ToOwned::to_owned),
        })
    }

    /// Method, `Metadata`, `X-Forwarded-For` and secret.
    pub(crate) fn check_headers(&self, request: &Request) -> Result<(), Refusal> {
        if !self.methods.contains(&request.method.as_str()) {
            return Err(Refusal::MethodNotAllowed(self.methods.join(", ")));
        }
        if let Some(spelling) = self.metadata {
            let mut values = request.header("metadata");
            let said = match (values.next(), values.next()) {
                (Some(value), None) => match spelling {
                    MetadataTrue::Exactly => value == b"true",
                    MetadataTrue::InAnyCase => value.eq_ignore_ascii_case(b"true"),
                },
                _ => false,
            };
            if !said {
                return Err(Refusal::MetadataHeaderMissing);
            }
            if request.header("x-forwarded-for").next().is_some() {
                return Err(Refusal::ForwardedFor);
            }
        }
        let Some((header, secret)) = self.secret else {
            return Ok(());
        };
        let mut values = request.header(header);
        match (values.next(), values.next()) {
            (None, _) => Err(Refusal::SecretMissing(header)),
            (Some(value), None) if value == secret.as_bytes() => Ok(()),
            _ => Err(Refusal::SecretWrong),
        }
    }

    /// The query, and after it the form if there is one.
    pub(crate) fn parameters(&self, request: &Request) -> Result<Query, Refusal> {
        let text = format!("{}&{}", request.query, self.form(request)?);
        Query::parse(&text).ok_or(Refusal::BadQuery)
    }

    /// The body of a POST if it is a form, still encoded; nothing where forms are not taken.
    pub(crate) fn form<'r>(&self, request: &'r Request) -> Result<&'r str, Refusal> {
        if !self.forms || request.method != "POST" || request.body.is_empty() {
            return Ok("");
        }
        let is_form = request.header("content-type").next().is_some_and(|value| {
            let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
            essence
                .trim_ascii()
                .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
        });
        if !is_form {
            return Err(Refusal::NotAForm);
        }
        str::from_utf8(&request.body).map_err(|_| Refusal::BadQuery)
    }

    pub(crate) fn check_api_version(&self, parameters: &Query) -> Result<(), Refusal> {
        if matches!(self.api_versions, ApiVersions::Any) {
            return Ok(());
        }
        match parameters.text("api-version") {
            None => Err(Refusal::ApiVersionMissing),
            Some(version) if !self.api_versions.take(version) => {
                Err(Refusal::ApiVersionUnknown(version.to_owned()))
            }
            Some(_) => Ok(()),
        }
    }

    /// The identity asked for, and how. An empty value asks for none.
    #[expect(clippy::type_complexity, reason = "the two belong to one parameter")]
    fn selector(
        &self,
        parameters: &Query,
    ) -> Result<(Selector, Option<(&'static str, String)>), Refusal> {
        let mut asked = self
            .selectors
            .iter()
            .filter_map(|(name, of)| Some((*name, of, parameters.text(name)?.to_owned())));
        match (asked.next(), asked.next()) {
            (None, _) => Ok((Selector::None, None)),
            (Some((name, of, value)), None) => Ok((of(value.clone()), Some((name, value)))),
            (Some(_), Some(_)) => Err(Refusal::SeveralSelectors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_as_it_is_written() {
        let exactly = TokenPath::Exactly("/oauth2/token");
        assert!(exactly.is("/oauth2/token"));
        assert!(!exactly.is("/oauth2/token/") && !exactly.is("/OAuth2/token"));

        let slash = TokenPath::OrWithSlash("/msi/token");
        assert!(slash.is("/msi/token") && slash.is("/msi/token/"));
        assert!(!slash.is("/msi/token//") && !slash.is("/msi/tokens") && !slash.is("/msi"));
        // A configured slash, and the one that clients add to it.
        let own_slash = TokenPath::OrWithSlash("/msi/token/");
        assert!(own_slash.is("/msi/token/") && own_slash.is("/msi/token//"));
        assert!(!own_slash.is("/msi/token"));
    }

    #[test]
    fn dates_are_compared_as_dates() {
        let from = ApiVersions::From("2018-02-01");
        assert!(from.take("2018-02-01") && from.take("2025-03-30"));
        assert!(!from.take("2017-09-01") && !from.take("latest") && !from.take("2019-08-01x"));
    }
}
