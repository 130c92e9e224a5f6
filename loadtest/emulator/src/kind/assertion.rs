//! The federated token by which a workload proves itself to Entra: a JWT signed with the
//! emulator's own published key.

use crate::fields::Fields;
use crate::key::SigningKey;

/// What a federated token must be for.
pub(crate) const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Who must have issued it.
pub(crate) const FEDERATION_ISSUER: &str = "https://oidc.foretoken-emulator.test/";

/// A federated token that is good for this many seconds from now.
pub(crate) fn issue(key: &SigningKey, subject: &str, now_s: u64, lifetime_s: u64) -> String {
    let claims = Fields::default()
        .with("aud", AUDIENCE)
        .with("exp", now_s.saturating_add(lifetime_s))
        .with("iat", now_s)
        .with("iss", FEDERATION_ISSUER)
        .with("nbf", now_s)
        .with("sub", subject);
    key.sign(&claims.to_json())
}

/// Whether a federated token holds; if not, in the words of Entra. The checks run in this order:
/// signature, `iss`, `aud`, `sub`, `exp`.
pub(super) fn check(
    assertion: &str,
    key: &SigningKey,
    subject: &str,
    now_s: u64,
) -> Result<(), String> {
    let Some(claims) = key.verified_claims(assertion) else {
        return Err("AADSTS700027: Client assertion failed signature validation.".to_owned());
    };
    for (name, wanted, number, what) in [
        ("iss", FEDERATION_ISSUER, 700_211, "issuer"),
        ("aud", AUDIENCE, 700_212, "audience"),
        ("sub", subject, 700_213, "subject"),
    ] {
        let found = claims[name].as_str().unwrap_or_default();
        if found != wanted {
            return Err(format!(
                "AADSTS{number}: No matching federated identity record found for presented \
                 assertion {what} '{found}'. Check your federated identity credential Subject, \
                 Audience and Issuer against the presented assertion."
            ));
        }
    }
    if claims["exp"].as_u64().is_none_or(|exp| exp <= now_s) {
        return Err(
            "AADSTS700024: Client assertion is not within its valid time range.".to_owned(),
        );
    }
    Ok(())
}
