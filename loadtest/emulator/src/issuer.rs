//! Which token an identity gets for a resource: a new one, or the one it got before.
//!
//! The real endpoint has a cache of its own, and repeats a token until little of its life is
//! left. Here that point is the setting `reissue_below`.

use std::collections::HashMap;

/// Most tokens remembered; beyond it all are forgotten, and new ones issued.
const CAPACITY: usize = 100_000;

/// An issued token and its dates, in seconds and milliseconds since the Unix epoch.
#[derive(Clone)]
pub(crate) struct Issued {
    pub token: String,
    pub expires_on_s: u64,
    pub not_before_s: u64,
    pub lifetime_s: u64,
}

impl Issued {
    /// Whether more than this share of its life is left.
    fn has_more_left_than(&self, share: f64, now_ms: u64) -> bool {
        let left_ms = (self.expires_on_s * 1000).saturating_sub(now_ms);
        as_f64(left_ms) > share * as_f64(self.lifetime_s * 1000)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "spans of years in milliseconds fit 52 bits"
)]
fn as_f64(ms: u64) -> f64 {
    ms as f64
}

/// The tokens issued so far, by client id and resource.
#[derive(Default)]
pub(crate) struct Issuer {
    issued: HashMap<(String, String), Issued>,
}

impl Issuer {
    /// The token to repeat, if there is one with more than `share` of its life left.
    pub(crate) fn repeated(
        &self,
        client_id: &str,
        resource: &str,
        share: f64,
        now_ms: u64,
    ) -> Option<Issued> {
        let last = self
            .issued
            .get(&(client_id.to_owned(), resource.to_owned()))?;
        last.has_more_left_than(share, now_ms).then(|| last.clone())
    }

    pub(crate) fn remember(&mut self, client_id: &str, resource: &str, issued: Issued) {
        if self.issued.len() >= CAPACITY {
            self.issued.clear();
        }
        self.issued
            .insert((client_id.to_owned(), resource.to_owned()), issued);
    }

    pub(crate) fn forget_all(&mut self) {
        self.issued.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> Issuer {
        let issued = Issued {
            token: "t".to_owned(),
            expires_on_s: 1100,
            not_before_s: 700,
            lifetime_s: 100,
        };
        let mut tokens = Issuer::default();
        tokens.remember("client", "resource", issued);
        tokens
    }

    fn repeats(share: f64, now_ms: u64) -> bool {
        issuer()
            .repeated("client", "resource", share, now_ms)
            .is_some()
    }

    #[test]
    fn a_token_is_repeated_while_more_than_the_share_of_its_life_is_left() {
        assert!(repeats(0.5, 1_000_000));
        assert!(repeats(0.5, 1_049_999));
        assert!(!repeats(0.5, 1_050_000));
    }

    #[test]
    fn a_share_of_zero_repeats_until_expiry_and_a_share_of_one_never() {
        assert!(repeats(0.0, 1_099_999));
        assert!(!repeats(0.0, 1_100_000));
        assert!(!repeats(1.0, 1_000_000));
    }

    #[test]
    fn another_resource_has_another_token() {
        assert!(
            issuer()
                .repeated("client", "resource/", 0.0, 1_000_000)
                .is_none()
        );
    }
}
