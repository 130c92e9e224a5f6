//! The managed identities of the emulated machine, and which one a request means.
//!
//! Without a file there is one system-assigned identity, and a user-assigned one for every
//! well-formed selector: its other names are a hash of the one asked for, so they are the same at
//! every start. With a file there are exactly those it names. GUIDs and resource ids are compared
//! without regard to case.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use ring::digest;
use serde::Deserialize;

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

/// Why an identity file is refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It is not TOML, or has unknown keys.
    #[error("the identity file cannot be read: {0}")]
    Toml(#[from] toml::de::Error),
    /// A client or object id is not a GUID.
    #[error("identity `{name}`: `{value}` is not a GUID")]
    NotAGuid {
        /// The identity.
        name: String,
        /// What stands in place of the GUID.
        value: String,
    },
    /// A resource id is not that of a user-assigned identity.
    #[error("identity `{name}`: `{value}` is not the resource id of a user-assigned identity")]
    NotAResourceId {
        /// The identity.
        name: String,
        /// What stands in place of the resource id.
        value: String,
    },
    /// A user-assigned identity has no name.
    #[error("every user-assigned identity needs a name")]
    NoName,
    /// Two identities share an id.
    #[error("two identities have the id `{0}`")]
    Twice(String),
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
    /// Reads an identity file; the README describes it.
    ///
    /// # Errors
    /// If the text is not TOML, has unknown keys, an id is malformed or stands there twice.
    pub fn from_toml(text: &str) -> Result<Self, IdentityError> {
        let file: IdentityFile = toml::from_str(text)?;
        let system = file
            .system
            .map(|entry| entry.into_identity("system", machine_resource_id(), false))
            .transpose()?;
        let mut users = Vec::new();
        for entry in file.user {
            let name = entry.name.clone().ok_or(IdentityError::NoName)?;
            let resource_id = user_resource_id(&name);
            users.push(entry.into_identity(&name, resource_id, true)?);
        }
        let mut seen = HashSet::new();
        let user_resource_ids = users.iter().map(|user| &user.resource_id);
        let all = || system.iter().chain(&users);
        let ids = all()
            .map(|identity| &identity.client_id)
            .chain(all().map(|identity| &identity.object_id))
            .chain(user_resource_ids);
        for id in ids {
            if !seen.insert(id.to_ascii_lowercase()) {
                return Err(IdentityError::Twice(id.clone()));
            }
        }
        Ok(Self::Exactly { system, users })
    }

    /// The identity a selector means, or IMDS's refusal.
    pub(crate) fn find(&self, selector: &Selector) -> Result<Identity, Refusal> {
        match self {
            Self::AnyAsked => made_up(selector).ok_or(Refusal::IdentityNotFound),
            Self::Exactly { system, users } => find_among(system.as_ref(), users, selector),
        }
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
fn guid_from(text: &str) -> String {
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

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// `/subscriptions/<id>/resourceGroups/<name>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>`
fn is_user_resource_id(text: &str) -> bool {
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

fn user_resource_id(name: &str) -> String {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    system: Option<IdentityEntry>,
    #[serde(default)]
    user: Vec<IdentityEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityEntry {
    name: Option<String>,
    client_id: Option<String>,
    object_id: Option<String>,
    resource_id: Option<String>,
    #[serde(default)]
    roles: BTreeMap<String, Vec<String>>,
}

impl IdentityEntry {
    /// Fills in what the file leaves out with hashes of the name, and checks what it says.
    fn into_identity(
        self,
        name: &str,
        default_resource_id: String,
        user_assigned: bool,
    ) -> Result<Identity, IdentityError> {
        let guid_or = |given: Option<String>, kind: &str| match given {
            None => Ok(guid_from(&format!("{kind} {name}"))),
            Some(value) if is_guid(&value) => Ok(value.to_ascii_lowercase()),
            Some(value) => Err(IdentityError::NotAGuid {
                name: name.to_owned(),
                value,
            }),
        };
        let resource_id = self.resource_id.unwrap_or(default_resource_id);
        if user_assigned && !is_user_resource_id(&resource_id) {
            let name = name.to_owned();
            return Err(IdentityError::NotAResourceId {
                name,
                value: resource_id,
            });
        }
        Ok(Identity {
            client_id: guid_or(self.client_id, "client")?,
            object_id: guid_or(self.object_id, "object")?,
            name: name.to_owned(),
            resource_id,
            roles: self.roles,
        })
    }
}
