//! The key that signs tokens, and its public half as a JWKS.
//!
//! Unless told otherwise the emulator signs with a key that is published in this repository, so
//! that a verifier can be set up before the emulator runs. It guards nothing.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};

/// The signing key everyone knows, as PKCS#8 PEM (RSA, 2048 bits). Never trust it anywhere.
pub const PUBLISHED_TEST_KEY_PEM: &str = include_str!("../PUBLIC-TEST-KEY-not-a-secret.pem");

/// Why a signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the key file holds no `BEGIN PRIVATE KEY` block (PKCS#8 PEM)")]
    NoBlock,
    #[error("the key block is not base64")]
    NotBase64(#[from] base64::DecodeError),
    #[error("the key is not a usable RSA key of 2048 bits or more: {0}")]
    Rejected(ring::error::KeyRejected),
}

pub(crate) struct SigningKey {
    pair: RsaKeyPair,
    modulus: String,
    exponent: String,
    kid: String,
}

impl SigningKey {
    /// Reads a PKCS#8 PEM text; anything around the key block is ignored.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (_, rest) = pem
            .split_once("-----BEGIN PRIVATE KEY-----")
            .ok_or(KeyError::NoBlock)?;
        let (block, _) = rest
            .split_once("-----END PRIVATE KEY-----")
            .ok_or(KeyError::NoBlock)?;
        let base64: String = block.split_whitespace().collect();
        let der = STANDARD.decode(base64)?;
        let pair = RsaKeyPair::from_pkcs8(&der).map_err(KeyError::Rejected)?;

        let public: PublicKeyComponents<Vec<u8>> = pair.public().into();
        let modulus = URL_SAFE_NO_PAD.encode(&public.n);
        let exponent = URL_SAFE_NO_PAD.encode(&public.e);
        // The JWK thumbprint of RFC 7638: the required members in this order, without spaces.
        let thumbprint = format!(r#"{{"e":"{exponent}","kty":"RSA","n":"{modulus}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, thumbprint.as_bytes()));
        Ok(Self {
            pair,
            modulus,
            exponent,
            kid,
        })
    }

    /// A compact JWS of these claims, signed with RS256.
    pub(crate) fn sign(&self, claims_json: &str) -> String {
        let header = format!(r#"{{"typ":"JWT","alg":"RS256","kid":"{}"}}"#, self.kid);
        let mut token = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims_json)
        );
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                token.as_bytes(),
                &mut signature,
            )
            .expect("the buffer has the length of the modulus");
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        token
    }

    /// The claims of a compact JWS, if this key has signed it with RS256.
    pub(crate) fn verified_claims(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header["alg"] != "RS256" {
            return None;
        }
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.pair.public().as_ref())
            .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?)
            .ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The JSON Web Key Set with the public half.
    pub(crate) fn jwks(&self) -> String {
        json!({"keys": [{
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": self.kid,
            "n": self.modulus,
            "e": self.exponent,
        }]})
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::RsaPublicKeyComponents;

    use super::*;
    use crate::testing::{ask, decode_part, get, unlimited};

    #[test]
    fn the_published_key_is_a_2048_bit_rsa_key() {
        let key = SigningKey::from_pem(PUBLISHED_TEST_KEY_PEM).unwrap();
        assert_eq!(key.pair.public().modulus_len(), 256);
    }

    #[test]
    fn a_file_without_a_private_key_is_refused() {
        assert!(matches!(
            SigningKey::from_pem("-----BEGIN CERTIFICATE-----"),
            Err(KeyError::NoBlock)
        ));
        let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
        assert!(matches!(
            SigningKey::from_pem(garbage),
            Err(KeyError::Rejected(_))
        ));
    }

    /// Verifies a token as a resource would: by the key set that discovery leads to.
    fn verify(emulator: &crate::Emulator, token: &str) -> bool {
        let configuration = get(emulator, "/.well-known/openid-configuration").json();
        let uri = configuration["jwks_uri"].as_str().unwrap();
        let path = uri
            .strip_prefix(&format!("http://{}", emulator.address()))
            .unwrap();
        let keys = get(emulator, path).json();
        let kid = decode_part(token, 0)["kid"].clone();
        let keys = keys["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["kid"] == kid).unwrap();
        let number = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        RsaPublicKeyComponents {
            n: number("n"),
            e: number("e"),
        }
        .verify(
            &RSA_PKCS1_2048_8192_SHA256,
            signed.as_bytes(),
            &URL_SAFE_NO_PAD.decode(signature).unwrap(),
        )
        .is_ok()
    }

    #[test]
    fn tokens_verify_against_the_published_key_set() {
        let emulator = unlimited();
        let token = ask(&emulator, "").token();
        assert!(verify(&emulator, &token));
        assert_eq!(decode_part(&token, 0)["alg"], "RS256");

        // The same claims under another resource's signature are no good.
        let other = ask(&emulator, "/").token();
        let (signed, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        assert!(!verify(&emulator, &format!("{signed}.{signature}")));
    }

    #[test]
    fn the_handle_and_the_wire_show_the_same_key_set() {
        let emulator = unlimited();
        assert_eq!(get(&emulator, "/discovery/keys").body, emulator.jwks());
    }
}
