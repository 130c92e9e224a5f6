//! Reads the identities of a machine from a TOML file; the README describes it.
//!
//! What an entry leaves out is a hash of its name, so a name is enough.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::identities::{
    guid_from, is_guid, is_user_resource_id, machine_resource_id, user_resource_id,
};
use crate::{Identities, Identity};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_identity_file_is_refused() {
        for wrong in [
            "[[users]]\nname = \"a\"",
            "[[user]]",
            "[[user]]\nname = \"a\"\nclient = \"x\"",
            "[[user]]\nname = \"a\"\nclient_id = \"x\"",
            "[[user]]\nname = \"a\"\nresource_id = \"/subscriptions/s\"",
            "[[user]]\nname = \"a\"\n[[user]]\nname = \"a\"",
        ] {
            assert!(Identities::from_toml(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_example_in_the_readme_is_a_proper_file() {
        let readme = include_str!("../README.md");
        let (_, rest) = readme.split_once("```toml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let Identities::Exactly { system, users } = Identities::from_toml(example).unwrap() else {
            panic!("a file names identities");
        };
        assert_eq!(
            system.unwrap().client_id,
            "5e29463d-71da-4fe0-8e69-999b57db23b0"
        );
        assert_eq!(users[0].roles["api://ledger"], ["Ledger.Read"]);
    }
}
