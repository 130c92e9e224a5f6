//! What a token says: the claims Entra puts into a version 1 application token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;

use crate::Identity;

/// Entra dates a token five minutes back, for resources whose clock is behind.
pub(crate) const BACKDATED_S: u64 = 300;

/// The claims in the order in which they are written. The canary comes first, so that the same
/// base64 text opens the payload of every token.
#[derive(Serialize)]
pub(crate) struct Claims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<&'a str>,
    pub aud: &'a str,
    pub iss: &'a str,
    pub iat: u64,
    pub nbf: u64,
    pub exp: u64,
    pub appid: &'a str,
    pub appidacr: &'static str,
    pub idp: &'a str,
    pub idtyp: &'static str,
    pub oid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub roles: &'a [String],
    pub sub: &'a str,
    pub tid: &'a str,
    pub uti: String,
    pub ver: &'static str,
    pub xms_mirid: &'a str,
}

/// The parts of a token that do not depend on who asks for what.
#[derive(Debug, Clone)]
pub(crate) struct Issuance {
    pub tenant_id: String,
    pub issuer: String,
    pub canary: Option<String>,
}

impl Issuance {
    /// The claims of a new token as JSON, valid from now for `lifetime_s` seconds.
    pub(crate) fn claims_json(
        &self,
        identity: &Identity,
        resource: &str,
        now_s: u64,
        lifetime_s: u64,
    ) -> String {
        let dated_s = now_s.saturating_sub(BACKDATED_S);
        let claims = Claims {
            canary: self.canary.as_deref(),
            aud: resource,
            iss: &self.issuer,
            iat: dated_s,
            nbf: dated_s,
            exp: now_s + lifetime_s,
            appid: &identity.client_id,
            // 2: the application proved itself with a certificate, as managed identities do.
            appidacr: "2",
            idp: &self.issuer,
            idtyp: "app",
            oid: &identity.object_id,
            roles: identity.roles.get(resource).map_or(&[], Vec::as_slice),
            sub: &identity.object_id,
            tid: &self.tenant_id,
            uti: unique_token_identifier(),
            ver: "1.0",
            xms_mirid: &identity.resource_id,
        };
        serde_json::to_string(&claims).expect("strings and numbers always serialise")
    }

    /// The text that stands in every token because of the canary: the start of the payload, cut
    /// to whole base64 groups so that what follows cannot change it.
    pub(crate) fn canary_in_tokens(&self) -> Option<String> {
        let quoted = serde_json::to_string(self.canary.as_ref()?).expect("a string serialises");
        let opening = format!(r#"{{"canary":{quoted},"#);
        let whole_groups = opening.len() / 3 * 3;
        Some(URL_SAFE_NO_PAD.encode(&opening.as_bytes()[..whole_groups]))
    }
}

/// 16 random bytes as 22 characters: no two tokens are alike, even of the same second.
fn unique_token_identifier() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes())
}

/// 16 bytes from the system's source of randomness.
pub(crate) fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use crate::testing::{ask, start, unlimited};
    use crate::{Limits, Settings};

    #[test]
    fn a_token_has_the_claims_of_a_version_1_application_token() {
        let claims = ask(&unlimited(), "").claims();
        let tenant = crate::settings::DEFAULT_TENANT_ID;
        let issuer = format!("https://sts.windows.net/{tenant}/");
        for (name, value) in [
            ("aud", "https://management.azure.com"),
            ("iss", &issuer),
            ("idp", &issuer),
            ("tid", tenant),
            ("appidacr", "2"),
            ("idtyp", "app"),
            ("ver", "1.0"),
        ] {
            assert_eq!(claims[name], value, "{name}");
        }
        assert_eq!(claims["oid"], claims["sub"]);
        assert_eq!(claims["uti"].as_str().unwrap().len(), 22);
        assert!(claims.get("roles").is_none() && claims.get("canary").is_none());
    }

    #[test]
    fn tenant_and_issuer_can_be_chosen() {
        let claims = ask(
            &start(Settings {
                tenant_id: "t".to_owned(),
                issuer: Some("https://issuer.test/".to_owned()),
                ..Settings::default()
            }),
            "",
        )
        .claims();
        assert_eq!(
            (&claims["tid"], &claims["iss"]),
            (&"t".into(), &"https://issuer.test/".into())
        );
    }

    #[test]
    fn the_canary_stands_in_every_token_and_is_found_by_its_text() {
        for canary in ["a", "bird", "canary \"7\"", "ünïcode"] {
            let emulator = start(Settings {
                canary: Some(canary.to_owned()),
                limits: Limits::NONE,
                reissue_below: 1.0,
                ..Settings::default()
            });
            let text = emulator.canary_in_tokens().unwrap();
            for more in [
                "",
                "",
                "/",
                "&client_id=aaaaaaaa-1111-4222-8333-444444444444",
            ] {
                let reply = ask(&emulator, more);
                assert_eq!(reply.claims()["canary"], canary);
                assert!(reply.token().contains(&text), "{canary}");
            }
        }
        assert_eq!(unlimited().canary_in_tokens(), None);
    }
}
