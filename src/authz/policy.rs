//! Which caller may have which token.

use super::{Caller, Permit};
use crate::token::TokenKey;

/// The rules. There is one so far: whoever runs on this machine may have what IMDS would give it.
#[derive(Debug, Clone, Default)]
pub struct Policy {}

/// The caller may not have the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("callers from other machines get no tokens")]
pub struct Denial;

impl Policy {
    /// Whether the caller may have anything at all. Asked for every request: what a worker
    /// remembers of a target was permitted to whoever sent it first.
    #[must_use]
    pub fn knows(&self, caller: &Caller) -> bool {
        caller.is_local()
    }

    /// Judges one caller and one key.
    ///
    /// # Errors
    /// The caller is not on this machine.
    pub fn permit(&self, caller: &Caller, key: TokenKey) -> Result<Permit, Denial> {
        if self.knows(caller) {
            Ok(Permit::new(key))
        } else {
            Err(Denial)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Identity, Resource};

    #[test]
    fn only_callers_on_this_machine_are_permitted() {
        let key = || TokenKey {
            upstream: "imds".into(),
            identity: Identity::System,
            resource: Resource::from_decoded(b"r").unwrap(),
            capabilities: vec![],
            extras: vec![],
            client: None,
        };
        let judge = |ip: &str| Policy::default().permit(&Caller::Tcp(ip.parse().unwrap()), key());
        assert!(judge("127.0.0.1").is_ok());
        assert!(judge("127.8.9.1").is_ok());
        assert!(judge("::1").is_ok());
        assert!(judge("::ffff:127.0.0.1").is_ok());
        assert_eq!(judge("10.0.0.4").err(), Some(Denial));
        assert_eq!(judge("::ffff:10.0.0.4").err(), Some(Denial));
        assert!(
            Policy::default()
                .permit(
                    &Caller::Unix {
                        uid: 1000,
                        gid: 1000
                    },
                    key()
                )
                .is_ok()
        );
    }
}
