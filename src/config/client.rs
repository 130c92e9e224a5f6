//! `[[client]]`: callers that prove themselves by a secret of their own.
//!
//! Promises that names and secrets are not shared, that a client has at least one identity, and
//! that no complaint repeats a secret. Leaves the reading of secret files to `source.rs`, and the
//! hiding of lines that hold secrets to `veil.rs`.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::check::{Check, fixed};
use super::effective::{Meant, client_option};
use super::mistake::Complaint;
use super::raw::Table;
use super::value;
use crate::authz::Client;
use crate::token::{Identity, Resource, Secret};

const MAX_NAME_BYTES: usize = 64;

/// Shorter ones can be guessed at the rate of a local socket; longer ones are another file,
/// pasted by mistake.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// A way to name an identity.
type Selector = (&'static str, fn(Box<str>) -> Identity);

/// As IMDS spells them.
const SELECTORS: [Selector; 3] = [
    ("client_id", Identity::ClientId),
    ("object_id", Identity::ObjectId),
    ("msi_res_id", Identity::ResourceId),
];

/// What the clients before this one have taken.
#[derive(Default)]
struct Taken {
    names: Vec<Box<str>>,
    secrets: Vec<(usize, Zeroizing<Vec<u8>>)>,
}

impl Check<'_> {
    pub fn clients(&mut self, tables: &[Table<'_>]) -> Option<Arc<[Client]>> {
        let mut taken = Taken::default();
        // All are looked at before the first that is wrong ends it.
        let tables = tables.iter().enumerate();
        let clients: Vec<_> = tables
            .map(|(nth, table)| self.client(nth, table, &mut taken))
            .collect();
        clients.into_iter().collect()
    }

    fn client(&mut self, nth: usize, table: &Table<'_>, taken: &mut Taken) -> Option<Client> {
        let option = |key| client_option(nth, key);
        let typed = self.required(table, table.string("name"), || missing("name", "orders"));
        let meaning = |typed: &str| taken.name(typed);
        let name = self.option(&option("name"), typed, meaning, None);
        let secret = self.secret(nth, table, taken);

        let typed = table.strings("identities");
        let typed = self.required(table, typed, no_identities);
        let meaning = |typed| value::each(typed, no_identities(), |typed, _| identity(typed));
        let identities = self.settle(&option("identities"), typed, meaning, None);
        let typed = table.strings("resources");
        let meaning = |typed| value::each(typed, no_resources(), |typed, _| resource(typed));
        let resources = self.settle(&option("resources"), typed, meaning, fixed(Vec::new()));
        let typed = table.string("default_identity");
        let known = identities.as_ref().map(|known| known.value.as_slice());
        let meaning = |typed: &str| identity_among(typed, known).map(Some);
        let default = self.option(&option("default_identity"), typed, meaning, fixed(None));
        let (name, mut secret) = (name?, secret?);
        Some(Client {
            name: name.value,
            secret: Secret::new(std::mem::take(&mut *secret)),
            identities: identities?.value,
            resources: resources?.value,
            default_identity: default?.value,
        })
    }

    /// The secret, from whichever of the two options has it.
    fn secret(
        &mut self,
        nth: usize,
        table: &Table<'_>,
        taken: &mut Taken,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let name = client_option(nth, "secret");
        let (folder, files) = (self.folder.clone(), self.secret_files);
        let typed = table.string("secret");
        let settled = match table.string("secret_file") {
            Ok(None) => {
                let typed = self.required(table, typed, no_secret);
                let meaning = |typed: &str| taken.secret(nth, typed.as_bytes().to_vec().into());
                self.option(&name, typed, meaning, None)
            }
            Ok(Some(file)) if !matches!(typed, Ok(None)) => {
                self.found.push(two_secrets().at(file.span));
                return None;
            }
            file => {
                let meaning = |typed: &str| {
                    let path = value::path(typed, &folder)?;
                    taken.secret(nth, files(&path)?)
                };
                self.option(&name, file, meaning, None)
            }
        };
        settled.map(|Meant { value, .. }| value)
    }
}

impl Taken {
    fn name(&mut self, typed: &str) -> Result<Box<str>, Complaint> {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if typed.is_empty() || typed.len() > MAX_NAME_BYTES || !typed.bytes().all(word) {
            let hint = format!(
                "a name is made of a-z, 0-9, `-`, `_` and `.`, at most {MAX_NAME_BYTES} of them"
            );
            return Err(Complaint::new(
                format!("{typed:?} is no name for a client"),
                hint,
            ));
        }
        let name = Box::from(typed);
        if self.names.contains(&name) {
            let message = format!("another client is called {typed:?}");
            return Err(Complaint::new(message, "give each of the two its own name"));
        }
        self.names.push(name.clone());
        Ok(name)
    }

    fn secret(
        &mut self,
        nth: usize,
        typed: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, Complaint> {
        let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
        if !SECRET_BYTES.contains(&typed.len()) {
            return Err(Complaint::new(
                format!("the secret has {} bytes", typed.len()),
                format!("the least is {least}, the most {most}; `openssl rand -hex 32` makes one"),
            ));
        }
        if !typed.iter().all(u8::is_ascii_graphic) {
            let message = "the secret has a character that no header can carry";
            let hint = "use visible ASCII without spaces; `openssl rand -hex 32` makes one";
            return Err(Complaint::new(message, hint));
        }
        if let Some((other, _)) = self.secrets.iter().find(|(_, known)| *known == typed) {
            let message = format!("this is also the secret of `client[{}]`", other + 1);
            let hint = "give each its own: a client is known by its secret alone";
            return Err(Complaint::new(message, hint));
        }
        self.secrets.push((nth, typed.clone()));
        Ok(typed)
    }
}

/// `system`, or a selector and its value.
fn identity(typed: &str) -> Result<Identity, Complaint> {
    if typed == "system" {
        return Ok(Identity::System);
    }
    let wrong = |message: String| {
        let hint = "write \"system\", \"client_id=GUID\", \"object_id=GUID\" or \
                    \"msi_res_id=/subscriptions/…\"";
        Err(Complaint::new(message, hint))
    };
    let (kind, value) = typed.split_once('=').unwrap_or((typed, ""));
    let Some((_, make)) = SELECTORS.iter().find(|(known, _)| *known == kind) else {
        return wrong(format!("{typed:?} names no identity"));
    };
    if value.is_empty() || value.contains(' ') {
        return wrong(format!("{typed:?} has no value that an identity can have"));
    }
    Identity::select(*make, value.as_bytes()).or_else(|error| wrong(error.to_string()))
}

/// An identity out of a list, which is `None` where it is wrong itself.
fn identity_among(typed: &str, known: Option<&[Identity]>) -> Result<Identity, Complaint> {
    let identity = identity(typed)?;
    let known = known.unwrap_or(std::slice::from_ref(&identity));
    if known.contains(&identity) {
        return Ok(identity);
    }
    let message = format!("{typed:?} is none of the client's identities");
    let known: Vec<_> = known.iter().map(|it| format!("\"{it}\"")).collect();
    let hint = format!("`identities` has {}", known.join(", "));
    Err(Complaint::new(message, hint))
}

fn resource(typed: &str) -> Result<Box<str>, Complaint> {
    if typed.ends_with("/.default") {
        let hint = "leave out \"/.default\", as clients do before they ask";
        return Err(Complaint::new(
            format!("{typed:?} is a scope, not a resource"),
            hint,
        ));
    }
    let hint = "write it as clients send it, like \"https://vault.azure.net\"";
    let resource = Resource::from_decoded(typed.as_bytes());
    let resource = resource.map_err(|error| Complaint::new(error.to_string(), hint))?;
    Ok(resource.as_str().into())
}

fn missing(key: &str, example: &str) -> Complaint {
    let message = format!("this client has no `{key}`");
    Complaint::new(
        message,
        format!("give it one, like `{key} = \"{example}\"`"),
    )
}

fn no_secret() -> Complaint {
    let hint =
        "name a file that holds one and nothing else, like `secret_file = \"orders.secret\"`";
    Complaint::new("this client has no `secret` and no `secret_file`", hint)
}

fn two_secrets() -> Complaint {
    let hint = "keep one of the two; a file can be kept from more eyes";
    Complaint::new("this client has a `secret` and a `secret_file`", hint)
}

fn no_identities() -> Complaint {
    let hint = "name at least one, like `identities = [\"system\"]`";
    Complaint::new("this client has no identities", hint)
}

fn no_resources() -> Complaint {
    let hint = "leave the option out for any resource";
    Complaint::new("a client without resources gets no tokens", hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_named_as_imds_names_them() {
        let named = |typed| identity(typed).map(|it| it.to_string());
        assert_eq!(named("system").as_deref(), Ok("system"));
        assert_eq!(named("client_id=AB-1").as_deref(), Ok("client_id=ab-1"));
        assert_eq!(named("msi_res_id=/S/a").as_deref(), Ok("msi_res_id=/s/a"));
        for typed in [
            "",
            "System",
            "client_id",
            "client_id=",
            "clientid=a",
            "object_id= a",
        ] {
            assert!(named(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn a_secret_is_known_once_and_never_repeated_in_a_complaint() {
        let mut taken = Taken::default();
        let mut told = |nth, typed: &str| match taken.secret(nth, typed.as_bytes().to_vec().into())
        {
            Ok(_) => String::new(),
            Err(complaint) => format!("{complaint:?}"),
        };
        let secret = "0123456789abcdef";
        assert_eq!(told(0, secret), "");
        for typed in [secret, "0123456789 abcdef", "0123456789", "0123456789abcdé"] {
            let told = told(1, typed);
            assert!(!told.is_empty() && !told.contains("012345678"), "{told}");
        }
    }
}
