//! Decodes a token for a person to read. Nothing that serves uses this: to it, tokens are opaque.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The claims of a JWT, its middle part. Header and signature are left out, nothing is verified.
///
/// # Errors
/// The token is not a JWT. The message never quotes it.
pub(super) fn decode(token: &str) -> Result<serde_json::Value> {
    let claims = token.split('.').nth(1).context("the token is not a JWT")?;
    let claims = URL_SAFE_NO_PAD
        .decode(claims)
        .ok()
        .context("the token is not a JWT")?;
    serde_json::from_slice(&claims)
        .ok()
        .context("the token's claims are not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_shown_without_the_signature() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"aud":"r","roles":["a"]}"#);
        let shown = decode(&format!("header.{claims}.c2lnbmF0dXJl")).unwrap();
        assert_eq!(shown, serde_json::json!({"aud": "r", "roles": ["a"]}));
    }

    #[test]
    fn an_opaque_token_is_not_quoted_in_the_error() {
        for token in ["canary", "a.canary.b", "a.Y2FuYXJ5.b"] {
            let error = format!("{:#}", decode(token).unwrap_err());
            assert!(
                !error.contains("canary") && !error.contains("Y2FuYXJ5"),
                "{error}"
            );
        }
    }
}
