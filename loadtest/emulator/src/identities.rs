//! The managed identities of the emulated machine, and which one a request means.
//!
//! Without a file there is one system-assigned identity, and a user-assigned one for every
//! well-formed selector: its other names are a hash of the one asked for, so they are the same at
//! every start. With a file there are exactly those it names. GUIDs and resource ids are compared
//! without regard to case.

use std::collections::BTreeMap;
use std::fmt;

use ring::digest;

use crate::refusals::Refusal;

/// The subscription of everything the emulator makes up.
pub(crate) const SUBSCRIPTION_ID: &str = "f07e70ce-0000-4000-8000-00000000005b";
/// The resource group of everything the emulator makes up.
pub(crate) const RESOURCE_GROUP: &str = "foretoken-emulator";
/// The name of the emulated virtual machine.
pub(crate) const MACHINE_NAME: &str = "emulated-vm";

/// One managed identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A name for people.
    pub name: String,
    /// The client (application) id, a GUID in lower case.
    pub client_id: String,
    /// The object (principal) id, a GUID in lower case.
    pub object_id: String,
    /// The ARM resource id: of the identity, or of the machine if it is system-assigned.
    pub resource_id: String,
    /// The app roles the identity holds, by resource exactly as a request names it.
    pub roles: BTreeMap<String, Vec<String>>,
}

/// The identities of the emulated machine.
#[derive(Debug, Clone, Default)]
pub enum Identities {
    /// A system-assigned identity, and any user-assigned one that is asked for.
    #[default]
    AnyAsked,
    /// These and no others.
    Exactly {
        /// The system-assigned identity, if the machine has one.
        system: Option<Identity>,
        /// The user-assigned identities.
        users: Vec<Identity>,
    },
}

/// What a request says about the identity it wants; at most one, and no two spellings of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    None,
    ClientId(String),
    ObjectId(String),
    ResourceId(String),
}

impl fmt::Display for Selector {
    /// One spelling per identity asked for, as the counts show it: `system`, `client_id=…`,
    /// `object_id=…` or `msi_res_id=…`, the value in lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("system"),
            Self::ClientId(id) => write!(f, "client_id={}", id.to_ascii_lowercase()),
            Self::ObjectId(id) => write!(f, "object_id={}", id.to_ascii_lowercase()),
            Self::ResourceId(id) => write!(f, "msi_res_id={}", id.to_ascii_lowercase()),
        }
    }
}

impl Identities {
    /// The identity a selector means, or IMDS's refusal.
    pub(crate) fn find(&self, selector: &Selector) -> Result<Identity, Refusal> {
        match self {
            Self::AnyAsked => made_up(selector).ok_or(Refusal::IdentityNotFound),
            Self::Exactly { system, users } => find_among(system.as_ref(), users, selector),
        }
    }
}

impl Identities {
    /// The client id to name when any would do: the first user-assigned identity, or the
    /// system-assigned one.
    pub(crate) fn first_client_id(&self) -> Option<&str> {
        let Self::Exactly { system, users } = self else {
            return None;
        };
        let first = users.first().or(system.as_ref())?;
        Some(&first.client_id)
    }
}

fn find_among(
    system: Option<&Identity>,
    users: &[Identity],
    selector: &Selector,
) -> Result<Identity, Refusal> {
    // A selector that names the system-assigned identity finds it, except by resource id: that
    // is the machine's, not an identity's.
    let mut by_guid = system.into_iter().chain(users);
    let found = match selector {
        Selector::None => match (system, users) {
            (Some(system), _) => Some(system),
            (None, []) => None,
            (None, [only]) => Some(only),
            (None, _) => return Err(Refusal::MultipleIdentities),
        },
        Selector::ClientId(id) => by_guid.find(|it| it.client_id.eq_ignore_ascii_case(id)),
        Selector::ObjectId(id) => by_guid.find(|it| it.object_id.eq_ignore_ascii_case(id)),
        Selector::ResourceId(id) => users
            .iter()
            .find(|it| it.resource_id.eq_ignore_ascii_case(id)),
    };
    found.cloned().ok_or(Refusal::IdentityNotFound)
}

/// An identity that has the name asked for, and hashes of it for its other names.
fn made_up(selector: &Selector) -> Option<Identity> {
    let label = selector.to_string();
    let mut identity = Identity {
        name: label.clone(),
        client_id: guid_from(&format!("client {label}")),
        object_id: guid_from(&format!("object {label}")),
        resource_id: user_resource_id(&format!("id-{}", &guid_from(&label)[..8])),
        roles: BTreeMap::new(),
    };
    match selector {
        Selector::None => identity.resource_id = machine_resource_id(),
        Selector::ClientId(id) if is_guid(id) => identity.client_id = id.to_ascii_lowercase(),
        Selector::ObjectId(id) if is_guid(id) => identity.object_id = id.to_ascii_lowercase(),
        Selector::ResourceId(id) if is_user_resource_id(id) => {
            id.clone_into(&mut identity.resource_id);
        }
        _ => return None,
    }
    Some(identity)
}

/// A GUID that is a hash of the text, marked as version 8 ("custom") of RFC 9562.
pub(crate) fn guid_from(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    guid(bytes)
}

/// Sixteen bytes in the usual spelling of a GUID.
pub(crate) fn guid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

pub(crate) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// `/subscriptions/<id>/resourceGroups/<name>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>`
pub(crate) fn is_user_resource_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let [
        before,
        subscriptions,
        id,
        groups,
        group,
        providers,
        provider,
        kind,
        name,
    ] = parts[..]
    else {
        return false;
    };
    before.is_empty()
        && subscriptions.eq_ignore_ascii_case("subscriptions")
        && groups.eq_ignore_ascii_case("resourceGroups")
        && providers.eq_ignore_ascii_case("providers")
        && provider.eq_ignore_ascii_case("Microsoft.ManagedIdentity")
        && kind.eq_ignore_ascii_case("userAssignedIdentities")
        && ![id, group, name].contains(&"")
}

pub(crate) fn user_resource_id(name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION_ID}/resourcegroups/{RESOURCE_GROUP}/providers/\
         Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    )
}

pub(crate) fn machine_resource_id() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION_ID}/resourcegroups/{RESOURCE_GROUP}/providers/\
         Microsoft.Compute/virtualMachines/{MACHINE_NAME}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask, start};
    use crate::{Limits, Settings};

    const TWO_USERS: &str = r#"
        [[user]]
        name = "one"
        client_id = "AAAAAAAA-1111-4222-8333-444444444444"
        object_id = "bbbbbbbb-1111-4222-8333-444444444444"
        resource_id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one"
        roles = { "https://management.azure.com" = ["Reader", "Writer"] }

        [[user]]
        name = "two"
    "#;
    const MULTIPLE: &str = "Multiple user assigned identities exist, please specify the clientId \
                            / resourceId of the identity in the token request";

    fn machine_of(file: &str) -> crate::Emulator {
        let identities = Identities::from_toml(file).unwrap();
        start(Settings {
            identities,
            limits: Limits::NONE,
            ..Settings::default()
        })
    }

    #[test]
    fn a_made_up_identity_is_the_same_at_every_start() {
        let selector = Selector::ObjectId("BBBBBBBB-1111-4222-8333-444444444444".to_owned());
        let identity = Identities::AnyAsked.find(&selector).unwrap();
        assert_eq!(identity.object_id, "bbbbbbbb-1111-4222-8333-444444444444");
        assert_eq!(identity.client_id, "99dbd5f1-d6cc-8527-97ec-eeba843a84c7");
        assert!(is_user_resource_id(&identity.resource_id));
    }

    #[test]
    fn an_ill_formed_selector_finds_nobody() {
        let emulator = machine_of("[system]");
        let anyone = start(Settings::default());
        for more in [
            "&client_id=nobody",
            "&object_id=1",
            "&msi_res_id=/subscriptions/s",
        ] {
            for emulator in [&emulator, &anyone] {
                let reply = ask(emulator, more);
                let body =
                    r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
                assert_eq!((reply.status, reply.body.as_str()), (400, body), "{more}");
            }
        }
    }

    #[test]
    fn an_identity_of_the_file_is_found_by_each_of_its_ids_in_any_case() {
        let emulator = machine_of(TWO_USERS);
        for more in [
            "&client_id=aaaaaaaa-1111-4222-8333-444444444444",
            "&object_id=BBBBBBBB-1111-4222-8333-444444444444",
            "&msi_res_id=/SUBSCRIPTIONS/s/resourcegroups/g/providers/microsoft.managedidentity/userassignedidentities/ONE",
        ] {
            let claims = ask(&emulator, more).claims();
            assert_eq!(
                claims["appid"], "aaaaaaaa-1111-4222-8333-444444444444",
                "{more}"
            );
            assert_eq!(
                claims["roles"],
                serde_json::json!(["Reader", "Writer"]),
                "{more}"
            );
        }
        let stranger = ask(&emulator, "&client_id=cccccccc-1111-4222-8333-444444444444");
        assert_eq!(stranger.json()["error_description"], "Identity not found");
    }

    #[test]
    fn without_a_selector_several_user_assigned_identities_are_too_many() {
        let emulator = machine_of(TWO_USERS);
        let reply = ask(&emulator, "");
        assert_eq!(
            (reply.status, &reply.json()["error_description"]),
            (400, &MULTIPLE.into())
        );
        assert_eq!(emulator.counts().no_identity, 1);
    }

    #[test]
    fn without_a_selector_a_single_user_assigned_identity_is_meant() {
        let reply = ask(&machine_of("[[user]]\nname = \"only\""), "");
        assert_eq!(reply.json()["client_id"], guid_from("client only"));
    }

    #[test]
    fn without_a_selector_the_system_assigned_identity_comes_first() {
        let reply = ask(&machine_of(&format!("[system]\n{TWO_USERS}")), "");
        assert_eq!(reply.json()["client_id"], guid_from("client system"));
        assert_eq!(reply.claims()["xms_mirid"], machine_resource_id());
    }

    #[test]
    fn a_machine_without_identities_has_none_to_offer() {
        assert_eq!(
            ask(&machine_of(""), "").json()["error_description"],
            "Identity not found"
        );
    }
}
