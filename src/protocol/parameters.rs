//! Query and form parameters: what each name means, on every listener alike.
//!
//! Clients mix the dialects' spellings (`object_store` sends `msi_res_id` to App Service), so every
//! listed spelling is taken everywhere. Dialects differ only in the `api-version` that they take.

use super::query::{self, InvalidQuery, Parameter};
use super::{Dialect, Force, TokenRequest};
use crate::token::{Identity, InvalidResource, InvalidSelector, MAX_EXTRAS, Resource};

/// Every parameter name that means something, with the identity it selects, if it does.
const KNOWN: [(&[u8], Meaning); 13] = [
    (b"api-version", Meaning::ApiVersion),
    (b"resource", Meaning::Resource),
    (b"client_id", Meaning::Selects(Identity::ClientId)),
    (b"clientid", Meaning::Selects(Identity::ClientId)),
    (b"object_id", Meaning::Selects(Identity::ObjectId)),
    (b"principal_id", Meaning::Selects(Identity::ObjectId)),
    (b"principalId", Meaning::Selects(Identity::ObjectId)),
    (b"msi_res_id", Meaning::Selects(Identity::ResourceId)),
    (b"mi_res_id", Meaning::Selects(Identity::ResourceId)),
    (b"msi-res-id", Meaning::Selects(Identity::ResourceId)),
    (b"xms_cc", Meaning::Capabilities),
    (b"bypass_cache", Meaning::Bypass),
    (b"token_sha256_to_refresh", Meaning::RefreshHash),
];

#[derive(Clone, Copy)]
enum Meaning {
    ApiVersion,
    Resource,
    Selects(fn(Box<str>) -> Identity),
    Capabilities,
    Bypass,
    RefreshHash,
}

/// Why a token request was refused. All of them are the caller's mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// No `api-version` where the dialect has one.
    #[error("api-version was not specified in the request")]
    NoApiVersion,
    /// Not one that the dialect takes.
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
    /// A name that a lenient reader upstream could take for one of ours: `Client_ID`.
    #[error("a parameter name is nearly, but not exactly, a known one")]
    NearlyKnown,
    /// `client%5fid`: no client escapes these names, and who compares them raw would miss it.
    #[error("a known parameter name is written with escapes")]
    EscapedName,
    /// Unknown parameters that are not text, or too many of them.
    #[error("an unknown parameter is not text, or there are more than {MAX_EXTRAS}")]
    BadExtra,
    /// `token_sha256_to_refresh` is not a SHA-256 in hexadecimal, or `bypass_cache` no boolean.
    #[error("bypass_cache or token_sha256_to_refresh has no such value")]
    BadForce,
    /// The query string or the form itself.
    #[error(transparent)]
    BadQuery(#[from] InvalidQuery),
}

/// Reads a token request's parameters from its query string and its form.
///
/// # Errors
/// The first rule that it breaks.
pub fn parse(dialect: Dialect, query: &[u8], form: &[u8]) -> Result<TokenRequest, BadRequest> {
    let (mut version, mut resource, mut identity, mut force) = (None, None, None, None);
    let mut capabilities = Vec::new();
    let mut extras = Vec::new();
    for parameter in parameters(query, form)? {
        let meaning = parameter.meaning()?;
        let Parameter { name, value, .. } = parameter;
        match meaning {
            Some(Meaning::ApiVersion) => version = Some(value),
            Some(Meaning::Resource) => resource = Some(value),
            Some(Meaning::Selects(make)) => {
                if identity.replace(Identity::select(make, &value)?).is_some() {
                    return Err(BadRequest::TwoSelectors);
                }
            }
            Some(Meaning::Capabilities) => capabilities = split_capabilities(&value)?,
            Some(Meaning::Bypass) => {
                let on = boolean(&value).ok_or(BadRequest::BadForce)?;
                force = force.or(on.then_some(Force::Always));
            }
            Some(Meaning::RefreshHash) => {
                force = Some(Force::IfHash(hash(&value).ok_or(BadRequest::BadForce)?));
            }
            None => extras.push((text(&name)?, text(&value)?)),
        }
    }
    if extras.len() > MAX_EXTRAS {
        return Err(BadRequest::BadExtra);
    }
    extras.sort_unstable();
    check_version(dialect, version.as_deref())?;
    Ok(TokenRequest {
        identity: identity.unwrap_or(Identity::System),
        resource: Resource::from_decoded(&resource.ok_or(BadRequest::NoResource)?)?,
        capabilities,
        extras,
        force,
    })
}

impl Parameter {
    /// What a name means, if it is one of ours, as our clients write it. Everything else that
    /// somebody could read as one of ours is refused.
    fn meaning(&self) -> Result<Option<Meaning>, BadRequest> {
        match KNOWN.iter().find(|(known, _)| *known == self.name) {
            Some(_) if self.name_was_escaped => Err(BadRequest::EscapedName),
            Some((_, meaning)) => Ok(Some(*meaning)),
            None if is_nearly_known(&self.name) => Err(BadRequest::NearlyKnown),
            None => Ok(None),
        }
    }
}

/// Of both, with a name given in both refused like one given twice in either.
fn parameters(query: &[u8], form: &[u8]) -> Result<Vec<Parameter>, InvalidQuery> {
    let mut all = query::parse(query)?;
    for parameter in query::parse(form)? {
        if all.iter().any(|it| it.name == parameter.name) {
            return Err(InvalidQuery::Duplicate);
        }
        all.push(parameter);
    }
    Ok(all)
}

/// Versions are dates; dates of this form sort like text.
fn check_version(dialect: Dialect, version: Option<&[u8]>) -> Result<(), BadRequest> {
    let Some(version) = version else {
        let none_needed = matches!(dialect, Dialect::CloudShell | Dialect::VmExtension);
        return if none_needed {
            Ok(())
        } else {
            Err(BadRequest::NoApiVersion)
        };
    };
    let date = match dialect {
        Dialect::ServiceFabric => version.strip_suffix(b"-preview").unwrap_or(version),
        _ => version,
    };
    let is_date = date.len() == 10
        && date.iter().enumerate().all(|(at, b)| match at {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        });
    let known = match dialect {
        Dialect::Imds | Dialect::VmExtension | Dialect::CloudShell => {
            date >= b"2018-02-01".as_slice()
        }
        Dialect::AppService | Dialect::Arc => date >= b"2019-08-01".as_slice(),
        Dialect::AppService2017 => date == b"2017-09-01".as_slice(),
        Dialect::ServiceFabric => date >= b"2019-07-01".as_slice(),
    };
    if is_date && known {
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

fn boolean(value: &[u8]) -> Option<bool> {
    match value.to_ascii_lowercase().as_slice() {
        b"true" | b"1" => Some(true),
        b"false" | b"0" | b"" => Some(false),
        _ => None,
    }
}

fn hash(value: &[u8]) -> Option<[u8; 32]> {
    let digits = std::str::from_utf8(value)
        .ok()
        .filter(|v| v.len() == 64 && v.is_ascii())?;
    let mut out = [0; 32];
    for (byte, at) in out.iter_mut().zip((0..64).step_by(2)) {
        let pair = &digits[at..at + 2];
        *byte = u8::from_str_radix(pair, 16)
            .ok()
            .filter(|_| !pair.starts_with('+'))?;
    }
    Some(out)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUID: &str = "aaaaaaaa-1111-4222-8333-444444444444";

    fn parsed(query: &str) -> Result<TokenRequest, BadRequest> {
        parse(Dialect::Imds, query.as_bytes(), b"")
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
            "Resource",
            "apiversion",
            "XMS_CC",
        ] {
            let query = format!("api-version=2018-02-01&resource=r&{name}=x");
            assert_eq!(parsed(&query), Err(BadRequest::NearlyKnown), "{name}");
        }
    }

    #[test]
    fn known_names_are_refused_when_any_letter_is_escaped() {
        for (name, _) in KNOWN {
            for at in 0..name.len() {
                let (before, after) = (name[..at].escape_ascii(), name[at + 1..].escape_ascii());
                let escaped = format!("{before}%{:02x}{after}=x", name[at]);
                let refused = Err(BadRequest::EscapedName);
                assert_eq!(parsed(&escaped), refused, "{escaped}");
                let form = parse(Dialect::CloudShell, b"", escaped.as_bytes());
                assert_eq!(form, refused, "{escaped}");
            }
        }
        // What nobody knows may be written as it likes.
        let of = |name| parsed(&format!("api-version=2018-02-01&resource=r&{name}=1"));
        assert_eq!(of("z%5fz").unwrap(), of("z_z").unwrap());
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
    fn each_dialect_takes_its_own_versions() {
        let takes = |dialect, version: &str| {
            parse(
                dialect,
                format!("api-version={version}&resource=r").as_bytes(),
                b"",
            )
            .is_ok()
        };
        assert!(
            takes(Dialect::AppService, "2019-08-01") && takes(Dialect::AppService, "2025-03-30")
        );
        assert!(!takes(Dialect::AppService, "2017-09-01"));
        assert!(takes(Dialect::AppService2017, "2017-09-01"));
        assert!(!takes(Dialect::AppService2017, "2019-08-01"));
        assert!(takes(Dialect::Arc, "2020-06-01") && takes(Dialect::Arc, "2019-11-01"));
        assert!(takes(Dialect::ServiceFabric, "2019-07-01-preview"));
        assert!(takes(Dialect::ServiceFabric, "2020-05-01"));
        assert!(!takes(Dialect::Imds, "2019-07-01-preview"));
    }

    #[test]
    fn forms_and_queries_are_read_together() {
        let both = parse(
            Dialect::CloudShell,
            b"xms_cc=cp1",
            b"resource=r&client_id=c",
        )
        .unwrap();
        assert_eq!(both.capabilities, ["cp1".into()]);
        assert_eq!(both.identity, Identity::ClientId("c".into()));
        let twice = parse(Dialect::CloudShell, b"resource=r", b"resource=r");
        assert_eq!(twice, Err(BadRequest::BadQuery(InvalidQuery::Duplicate)));
        assert!(parse(Dialect::VmExtension, b"resource=r", b"").is_ok());
        assert_eq!(
            parse(Dialect::Imds, b"", b"resource=r"),
            Err(BadRequest::NoApiVersion)
        );
    }

    #[test]
    fn forced_refreshes_are_parsed_and_leave_the_key_alone() {
        let plain = parsed("api-version=2018-02-01&resource=r").unwrap();
        let hex = "00ff".repeat(16);
        let hashed = parsed(&format!(
            "api-version=2018-02-01&resource=r&token_sha256_to_refresh={hex}"
        ));
        let hashed = hashed.unwrap();
        assert!(matches!(hashed.force, Some(Force::IfHash(h)) if h[..2] == [0, 0xff]));
        let bypass = parsed("api-version=2018-02-01&resource=r&bypass_cache=true").unwrap();
        assert_eq!(bypass.force, Some(Force::Always));
        assert_eq!(plain.clone().into_key("u"), hashed.into_key("u"));
        assert_eq!(plain.into_key("u"), bypass.into_key("u"));
        for bad in [
            "token_sha256_to_refresh=abc",
            "token_sha256_to_refresh=",
            "bypass_cache=yes",
        ] {
            let query = format!("api-version=2018-02-01&resource=r&{bad}");
            assert_eq!(parsed(&query), Err(BadRequest::BadForce), "{bad}");
        }
    }

    /// A selector in one of its spellings, with a value or without.
    fn selector() -> impl Strategy<Value = (&'static str, String)> {
        let names: Vec<_> = KNOWN
            .iter()
            .filter(|(_, meaning)| matches!(meaning, Meaning::Selects(_)))
            .map(|(name, _)| str::from_utf8(name).unwrap())
            .collect();
        (prop::sample::select(names), "[a-cA-C]{0,2}")
    }

    proptest! {
        #[test]
        fn the_identity_is_the_one_that_was_named_and_the_default_only_if_none_was(
            selectors in prop::collection::vec((selector(), any::<bool>()), 0..4),
        ) {
            let written = |in_form| -> String {
                let here = selectors.iter().filter(|(_, place)| *place == in_form);
                here.map(|((name, value), _)| format!("{name}={value}&")).collect()
            };
            let (query, form) = (written(false) + "resource=r", written(true));
            let form = form.trim_end_matches('&');
            let found = parse(Dialect::VmExtension, query.as_bytes(), form.as_bytes());
            let named: Vec<_> = selectors.iter().map(|((name, value), _)| (*name, &**value)).collect();
            let expected = match named[..] {
                [] | [(_, "")] => Some(Identity::System),
                [(name, value)] => {
                    let value = value.to_ascii_lowercase().into();
                    Some(match name {
                        "client_id" | "clientid" => Identity::ClientId(value),
                        "object_id" | "principal_id" | "principalId" => Identity::ObjectId(value),
                        _ => Identity::ResourceId(value),
                    })
                }
                _ => None,
            };
            prop_assert_eq!(found.ok().map(|it| it.identity), expected);
        }

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
        fn parsing_never_panics(
            query in prop::collection::vec(any::<u8>(), 0..200),
            form in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            for dialect in Dialect::ALL {
                let _ = parse(dialect, &query, &form);
            }
        }
    }
}
