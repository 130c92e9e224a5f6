//! Tokens taken apart, to see whose they are.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::http::Answer;

/// The token in a good answer.
pub fn token_of(answer: &Answer) -> String {
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let token = answer.json()["access_token"].as_str().map(str::to_owned);
    token.expect("a token")
}

/// What a token says.
pub fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&payload).expect("JSON claims")
}

/// The resource that the token in a good answer is for.
pub fn audience_of(answer: &Answer) -> String {
    let claims = claims_of(&token_of(answer));
    claims["aud"].as_str().expect("an audience").to_owned()
}
