//! What can be chosen about an emulator: once at its start, and while it runs.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Identities, Kind};

/// The tenant of every token unless another is chosen; made up.
pub(crate) const DEFAULT_TENANT_ID: &str = "f07e70ce-0000-4000-8000-000000000001";

/// Everything chosen at the start of an emulator.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The token source to play. Default: IMDS.
    pub kind: Kind,
    /// Where to listen; port 0 takes any free port. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The identities of the emulated machine. Default: any that is asked for.
    pub identities: Identities,
    /// The directory tenant, a GUID, as `tid` and in the default issuer.
    pub tenant_id: String,
    /// The `iss` claim; `None` gives `https://sts.windows.net/<tenant_id>/`.
    pub issuer: Option<String>,
    /// Another RSA signing key as PKCS#8 PEM; `None` signs with the published test key.
    pub key_pem: Option<String>,
    /// A text put into every token as its first claim; see [`crate::Emulator::canary_in_tokens`].
    pub canary: Option<String>,
    /// Seconds from issuance to `expires_on`, at least 1. Default 86 400.
    pub lifetime_s: u64,
    /// Milliseconds a granted token request waits for its answer. Default 0.
    pub latency_ms: u64,
    /// The share of its life (0 to 1) at or below which a token is replaced by a new one when
    /// asked for again. 0 repeats a token until it expires, 1 never repeats one. Default 0.5.
    pub reissue_below: f64,
    /// How many token requests are served. Default: as IMDS does.
    pub limits: Limits,
    /// Where the control path listens besides; there it is in reach while a fault keeps callers
    /// from connecting. Default: nowhere.
    pub control: Option<SocketAddr>,
    /// The seed of everything that is left to chance: shares of faults, latency. Default 1.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let tuning = Tuning::default();
        Self {
            kind: Kind::default(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            identities: Identities::default(),
            tenant_id: DEFAULT_TENANT_ID.to_owned(),
            issuer: None,
            key_pem: None,
            canary: None,
            lifetime_s: tuning.lifetime_s,
            latency_ms: tuning.latency_ms,
            reissue_below: tuning.reissue_below,
            limits: tuning.limits,
            control: None,
            seed: 1,
        }
    }
}

/// How many token requests the emulator serves before it answers 429; 0 means no limit.
///
/// The defaults are the published limits of the managed identity category of IMDS, for one
/// virtual machine (azure-docs, `virtual-machines-imds.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Token requests admitted in any one second.
    pub requests_per_s: u32,
    /// Token requests being answered at the same time.
    pub at_once: u32,
}

impl Limits {
    /// No limits at all.
    pub const NONE: Self = Self {
        requests_per_s: 0,
        at_once: 0,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_s: 20,
            at_once: 5,
        }
    }
}

/// What can be changed while the emulator runs; the fields mean the same as in [`Settings`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Seconds from issuance to expiry of tokens issued from now on.
    pub lifetime_s: u64,
    /// Milliseconds a granted token request waits.
    pub latency_ms: u64,
    /// The share of its life at or below which a token is replaced.
    pub reissue_below: f64,
    /// Limits on token requests.
    pub limits: Limits,
}

impl Tuning {
    /// The longest life of a token: ten years, so that no sum of seconds can overflow.
    const MAX_LIFETIME_S: u64 = 10 * 366 * 86_400;

    /// Pulls every value into the range in which it has a meaning.
    pub(crate) fn in_range(self) -> Self {
        let share = if self.reissue_below.is_nan() {
            0.5
        } else {
            self.reissue_below
        };
        Self {
            lifetime_s: self.lifetime_s.clamp(1, Self::MAX_LIFETIME_S),
            reissue_below: share.clamp(0.0, 1.0),
            ..self
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            lifetime_s: 86_400,
            latency_ms: 0,
            reissue_below: 0.5,
            limits: Limits::default(),
        }
    }
}

impl From<&Settings> for Tuning {
    fn from(settings: &Settings) -> Self {
        Self {
            lifetime_s: settings.lifetime_s,
            latency_ms: settings.latency_ms,
            reissue_below: settings.reissue_below,
            limits: settings.limits,
        }
        .in_range()
    }
}
