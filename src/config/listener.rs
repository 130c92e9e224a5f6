//! `[[listener]]`: where callers connect, and what is spoken there.
//!
//! Promises that no listener speaks two dialects that cannot be told apart, and that an option
//! which means something to one dialect only is a mistake anywhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::check::{Check, fixed};
use super::effective::{Meant, listener_option};
use super::mistake::{At, Complaint};
use super::raw::{Table, Typed};
use super::value;
use crate::protocol::Dialect;
use crate::server::{Address, ArcSettings, ExpiresOn, Listener};

/// Below 32768, where Linux begins to hand out ports by itself.
const LISTENER_PORT: u16 = 16925;

/// What the default listeners speak: everything that asks for no listener of its own.
const DEFAULT_DIALECTS: [Dialect; 4] = [
    Dialect::Imds,
    Dialect::AppService,
    Dialect::AppService2017,
    Dialect::VmExtension,
];

/// Where Azure's own agent puts its key files, and where clients look for them.
const ARC_FOLDER: &str = "/var/opt/azcmagent/tokens";

/// Longest name of a group: useradd(8).
const MAX_GROUP_BYTES: usize = 32;

/// Every form of `expires_on_2017`.
const EXPIRES_ON: [ExpiresOn; 2] = [ExpiresOn::Epoch, ExpiresOn::Date];

impl Check<'_> {
    /// `remote` is `None` where nobody knows whether addresses of the network are allowed.
    pub fn listeners(
        &mut self,
        typed: Option<Vec<Table<'_>>>,
        remote: Option<bool>,
    ) -> Option<Vec<Listener>> {
        let Some(tables) = typed else {
            return Some(self.default_listeners());
        };
        // All are looked at before the first that is wrong ends it.
        let tables = tables.iter().enumerate();
        let listeners: Vec<_> = tables
            .map(|(nth, table)| self.listener(nth, table, remote.unwrap_or(true)))
            .collect();
        listeners.into_iter().collect()
    }

    /// IPv6 is switched off on many machines, so its listener is optional.
    fn default_listeners(&mut self) -> Vec<Listener> {
        let both = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let listeners = both.into_iter().enumerate().map(|(nth, ip)| {
            let address = Address::Tcp(SocketAddr::new(ip, LISTENER_PORT));
            let name = listener_option(nth, "address");
            self.rules.takes(&name, fixed(address.clone()));
            Listener {
                address,
                dialects: DEFAULT_DIALECTS.to_vec(),
                expires_on_2017: ExpiresOn::default(),
                without_metadata: false,
                tls: None,
                arc: None,
                optional: ip.is_ipv6(),
            }
        });
        listeners.collect()
    }

    fn listener(&mut self, nth: usize, table: &Table<'_>, remote: bool) -> Option<Listener> {
        let folder = self.folder.clone();
        let name = listener_option(nth, "address");
        let typed = self.required(table, table.string("address"), no_address);
        let meaning = |typed: &str| value::listener_address(typed, &folder, remote);
        let address = self.option(&name, typed, meaning, None);
        self.rules.takes(&name, address.clone());

        let name = listener_option(nth, "dialects");
        let typed = table.strings("dialects");
        let default = fixed(vec![Dialect::Imds]);
        let spoken = self.settle(&name, typed, dialects, default);
        let spoken = spoken.map(|spoken| spoken.value);
        let of = Of {
            nth,
            table,
            spoken: spoken.as_deref(),
        };
        let expires_on = self.expires_on(&of);
        let without_metadata = self.without_metadata(&of);
        let tls = self.tls(&of);
        let arc = self.arc(&of);
        Some(Listener {
            address: address?.value,
            dialects: spoken?,
            expires_on_2017: expires_on?,
            without_metadata: without_metadata?,
            tls: tls?.value,
            arc: arc?.value,
            optional: false,
        })
    }

    fn expires_on(&mut self, of: &Of<'_>) -> Option<ExpiresOn> {
        let name = listener_option(of.nth, "expires_on_2017");
        let typed = of.only(Dialect::AppService2017, "expires_on_2017", Table::string);
        let meaning = |typed: &str| value::choice(typed, &EXPIRES_ON, expires_on_name);
        let default = fixed(ExpiresOn::default());
        let settled = self.option(&name, typed, meaning, default)?;
        Some(settled.value)
    }

    fn without_metadata(&mut self, of: &Of<'_>) -> Option<bool> {
        let name = listener_option(of.nth, "without_metadata");
        let typed = of.only(Dialect::Imds, "without_metadata", Table::boolean);
        let settled = self.option(&name, typed, Ok, fixed(false))?;
        Some(settled.value)
    }

    fn tls(&mut self, of: &Of<'_>) -> Option<Meant<Option<PathBuf>>> {
        let folder = self.folder.clone();
        let name = listener_option(of.nth, "tls");
        let typed = of.only(Dialect::ServiceFabric, "tls", Table::string);
        let meaning = |typed: &str| value::path(typed, &folder).map(Some);
        let default = if of.speaks(Dialect::ServiceFabric) {
            self.in_state("tls", &typed).map(|path| path.map(Some))
        } else {
            fixed(None)
        };
        self.option(&name, typed, meaning, default)
    }

    fn arc(&mut self, of: &Of<'_>) -> Option<Meant<Option<ArcSettings>>> {
        let base = self.folder.clone();
        let option = |key| listener_option(of.nth, key);
        let typed = of.only(Dialect::Arc, "arc_folder", Table::string);
        let meaning = |typed: &str| key_folder(typed, &base);
        let default = fixed(ARC_FOLDER.into());
        let folder = self.option(&option("arc_folder"), typed, meaning, default);
        let typed = of.only(Dialect::Arc, "arc_group", Table::string);
        let meaning = |typed: &str| group(typed).map(Some);
        let group = self.option(&option("arc_group"), typed, meaning, fixed(None));
        let typed = of.only(Dialect::Arc, "arc_allow_agent", Table::boolean);
        let allow = self.option(&option("arc_allow_agent"), typed, Ok, fixed(false));
        let (folder, group, allow) = (folder?, group?, allow?);
        let settings = |folder| ArcSettings {
            folder,
            group: group.value,
            allow_agent: allow.value,
        };
        let spoken = of.speaks(Dialect::Arc);
        if spoken {
            self.rules.arc_folders.push(folder.value.clone());
        }
        Some(folder.map(|folder| spoken.then(|| settings(folder))))
    }
}

/// One listener's options that belong to one dialect.
struct Of<'a> {
    nth: usize,
    table: &'a Table<'a>,
    /// `None` where what is spoken is wrong.
    spoken: Option<&'a [Dialect]>,
}

impl<'a> Of<'a> {
    fn speaks(&self, dialect: Dialect) -> bool {
        self.spoken.is_some_and(|spoken| spoken.contains(&dialect))
    }

    /// What was typed, if it means something here.
    fn only<T>(
        &self,
        dialect: Dialect,
        key: &str,
        read: impl FnOnce(&Table<'a>, &str) -> Typed<T>,
    ) -> Typed<T> {
        match read(self.table, key) {
            Ok(Some(At { span, .. })) if self.spoken.is_some() && !self.speaks(dialect) => {
                let message = format!("`{key}` means nothing to this listener");
                let hint = format!(
                    "it is for the dialect {:?}: leave it out, or add that to `dialects`",
                    dialect.as_str()
                );
                Err(Complaint::new(message, hint).at(span))
            }
            typed => typed,
        }
    }
}

/// The name of a form of `expires_on` in the configuration.
pub(super) fn expires_on_name(form: ExpiresOn) -> &'static str {
    match form {
        ExpiresOn::Epoch => "epoch",
        ExpiresOn::Date => "date",
    }
}

/// `listener.dialects`: at least one, each once, and no two that cannot be told apart.
fn dialects(
    typed: At<Vec<Result<At<&str>, At<Complaint>>>>,
) -> Result<Vec<Dialect>, Vec<At<Complaint>>> {
    let empty = Complaint::new(
        "a listener without dialects answers nobody",
        "leave the option out for `dialects = [\"imds\"]`",
    );
    value::each(typed, empty, |typed, earlier| {
        let dialect = value::choice(typed, &Dialect::ALL, Dialect::as_str)?;
        let mut others = earlier.iter().filter(|other| **other != dialect);
        let clash = others.find_map(|other| clash(*other, dialect));
        clash.map_or(Ok(dialect), Err)
    })
}

/// Why two dialects may not stand on one listener.
fn clash(one: Dialect, other: Dialect) -> Option<Complaint> {
    let pair = [one, other];
    let shared = one.paths().iter().find(|path| other.paths().contains(path));
    let (why, hint) = if pair.contains(&Dialect::ServiceFabric) {
        (
            "only \"service-fabric\" is spoken over TLS".to_owned(),
            "give \"service-fabric\" a `[[listener]]` of its own",
        )
    } else if one.goes_with(other) {
        return None;
    } else {
        let path = shared.map_or("", |path| str::from_utf8(path).unwrap_or_default());
        (
            format!("both are asked at {path}, and answer differently"),
            "give one of them a `[[listener]]` of its own",
        )
    };
    let message = format!(
        "{:?} and {:?} cannot share a listener: {why}",
        one.as_str(),
        other.as_str()
    );
    Some(Complaint::new(message, hint))
}

/// `listener.arc_folder`.
fn key_folder(typed: &str, folder: &Path) -> Result<std::path::PathBuf, Complaint> {
    let path = value::path(typed, folder)?;
    if path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|b| *b == b'=' || *b < b' ')
    {
        let hint = "clients cut the challenge at its only `=`: choose a folder without one";
        let message = format!("{} cannot be named in a challenge", path.display());
        return Err(Complaint::new(message, hint));
    }
    Ok(path)
}

/// `listener.arc_group`: a name as groupadd(8) takes it.
fn group(typed: &str) -> Result<Box<str>, Complaint> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    let start = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let sound = typed.bytes().all(word) && typed.bytes().next().is_some_and(start);
    if sound && typed.len() <= MAX_GROUP_BYTES {
        Ok(typed.into())
    } else {
        let message = format!("{typed:?} is not the name of a group");
        Err(Complaint::new(
            message,
            "write a name from /etc/group, like \"himds\"",
        ))
    }
}

fn no_address() -> Complaint {
    let hint = "give it one, like `address = \"127.0.0.1:16925\"`";
    Complaint::new("this listener has no `address`", hint)
}
