//! Which caller may have which token.

use super::{Caller, Client, Clients, Permit, Proven};
use crate::token::{Identity, TokenKey};

/// The rules. A caller that shows no secret may have, as with IMDS itself, whatever this machine
/// may have, if it runs on it. A client that proves itself is held to its own list.
#[derive(Debug, Default)]
pub struct Policy {
    /// Who proves itself by a secret.
    pub clients: Clients,
    /// Whether callers from other machines are served: only where the configuration insists.
    pub remote_callers: bool,
}

/// The caller may not have the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// It is not on this machine.
    #[error("callers from other machines get no tokens")]
    Remote,
    /// The client is not allowed this identity.
    #[error("the client is not allowed this identity")]
    Identity,
    /// The client is not allowed this resource.
    #[error("the client is not allowed this resource")]
    Resource,
}

impl Policy {
    /// Whether the caller may have anything at all. Asked for every request: what a worker
    /// remembers of a target was permitted to whoever sent it first.
    #[must_use]
    pub fn knows(&self, caller: &Caller) -> bool {
        self.remote_callers || caller.is_local()
    }

    /// Judges one caller and one key. A client's key is narrowed to what it may ask: its default
    /// identity where it selects none, and no parameter that nobody here knows, which a source
    /// could take for a selector.
    ///
    /// # Errors
    /// The caller is not on this machine, or the client not allowed the identity or resource.
    pub fn permit(
        &self,
        caller: &Caller,
        proven: Option<Proven>,
        mut key: TokenKey,
    ) -> Result<Permit, Denial> {
        if !self.knows(caller) {
            return Err(Denial::Remote);
        }
        if let Some(proven) = proven {
            bind(self.clients.client(proven), &mut key)?;
        }
        Ok(Permit::new(key))
    }
}

fn bind(client: &Client, key: &mut TokenKey) -> Result<(), Denial> {
    if let (Identity::System, Some(own)) = (&key.identity, &client.default_identity) {
        key.identity = own.clone();
    }
    if !client.identities.contains(&key.identity) {
        return Err(Denial::Identity);
    }
    let any = client.resources.is_empty();
    if !any
        && !client
            .resources
            .iter()
            .any(|known| **known == *key.resource.as_str())
    {
        return Err(Denial::Resource);
    }
    key.extras.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Resource, Secret};

    fn key(identity: Identity, resource: &str) -> TokenKey {
        TokenKey {
            upstream: "imds".into(),
            identity,
            resource: Resource::from_decoded(resource.as_bytes()).unwrap(),
            capabilities: vec![],
            extras: vec![("x".into(), "1".into())],
            client: None,
        }
    }

    fn policy(default_identity: Option<Identity>, resources: &[&str]) -> (Policy, Proven) {
        let client = Client {
            name: "a".into(),
            secret: Secret::new(b"s".to_vec()),
            identities: vec![Identity::ClientId("mine".into())],
            resources: resources.iter().map(|r| Box::from(*r)).collect(),
            default_identity,
        };
        let policy = Policy {
            clients: Clients::new([client].into()),
            remote_callers: false,
        };
        let proven = policy.clients.prove(b"s").unwrap();
        (policy, proven)
    }

    const LOCAL: Caller = Caller::Unix {
        uid: 1000,
        gid: 1000,
    };

    #[test]
    fn only_callers_on_this_machine_are_permitted() {
        let judge = |ip: &str| {
            let caller = Caller::Tcp(ip.parse().unwrap());
            Policy::default().permit(&caller, None, key(Identity::System, "r"))
        };
        assert!(judge("127.0.0.1").is_ok());
        assert!(judge("127.8.9.1").is_ok());
        assert!(judge("::1").is_ok());
        assert!(judge("::ffff:127.0.0.1").is_ok());
        assert_eq!(judge("10.0.0.4").err(), Some(Denial::Remote));
        assert_eq!(judge("::ffff:10.0.0.4").err(), Some(Denial::Remote));
        assert!(
            Policy::default()
                .permit(&LOCAL, None, key(Identity::System, "r"))
                .is_ok()
        );
    }

    #[test]
    fn a_client_reaches_its_own_identities_only() {
        let (policy, proven) = policy(None, &[]);
        let judge = |identity| {
            policy
                .permit(&LOCAL, Some(proven), key(identity, "r"))
                .err()
        };
        assert_eq!(judge(Identity::ClientId("mine".into())), None);
        assert_eq!(
            judge(Identity::ClientId("theirs".into())),
            Some(Denial::Identity)
        );
        assert_eq!(
            judge(Identity::ObjectId("mine".into())),
            Some(Denial::Identity)
        );
        assert_eq!(judge(Identity::System), Some(Denial::Identity));
    }

    #[test]
    fn a_request_without_a_selector_gets_the_clients_own_identity() {
        let own = Identity::ClientId("mine".into());
        let (policy, proven) = policy(Some(own.clone()), &[]);
        let permit = policy
            .permit(&LOCAL, Some(proven), key(Identity::System, "r"))
            .unwrap();
        assert_eq!(permit.key().identity, own);
    }

    #[test]
    fn a_client_with_a_list_of_resources_gets_no_others() {
        let (policy, proven) = policy(None, &["https://a"]);
        let mine = || Identity::ClientId("mine".into());
        let judge = |resource| {
            policy
                .permit(&LOCAL, Some(proven), key(mine(), resource))
                .err()
        };
        assert_eq!(judge("https://a"), None);
        assert_eq!(judge("https://a/"), Some(Denial::Resource));
    }

    #[test]
    fn unknown_parameters_of_a_client_go_nowhere() {
        let (policy, proven) = policy(None, &[]);
        let mine = Identity::ClientId("mine".into());
        let permit = policy.permit(&LOCAL, Some(proven), key(mine, "r")).unwrap();
        assert!(permit.key().extras.is_empty());
        let anybody = policy
            .permit(&LOCAL, None, key(Identity::System, "r"))
            .unwrap();
        assert_eq!(anybody.key().extras.len(), 1);
    }
}
