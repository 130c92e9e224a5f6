//! What several options must not mean together.
//!
//! Promises that no address is taken twice, that Foretoken does not ask itself for tokens, and
//! that the key does not lie in the store it protects. An option that is already known to be
//! wrong takes part in no rule. Paths are compared as written, after `.` and `..`: what links
//! make of them is for the rooms that open them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::path::PathBuf;

use super::effective::{Meant, Origin};
use super::mistake::{At, Complaint};
use super::value::tidied;
use crate::server::Address;

/// The options that rules speak of, each once it is settled.
#[derive(Default)]
pub(super) struct Rules {
    taken: Vec<(String, Meant<Address>)>,
    pub endpoint: Option<Meant<SocketAddr>>,
    pub store: Option<Meant<PathBuf>>,
    pub key: Option<Meant<PathBuf>>,
    /// Where our own challenges put their keys.
    pub arc_folders: Vec<PathBuf>,
    /// Where another's challenges do.
    pub arc_upstream: Option<Meant<PathBuf>>,
}

/// Whether an address is one of this machine's own: only those can be bound.
pub(crate) fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

impl Rules {
    /// An option takes an address.
    pub fn takes(&mut self, option: &str, address: Option<Meant<Address>>) {
        self.taken
            .extend(address.map(|address| (option.to_owned(), address)));
    }

    /// Whether an address is one that Foretoken itself takes.
    pub fn is_ours(&self, asked: SocketAddr) -> bool {
        self.taker(asked).is_some()
    }

    /// The option that takes an address which a call to `asked` would reach.
    fn taker(&self, asked: SocketAddr) -> Option<&(String, Meant<Address>)> {
        let near = is_of_this_machine(asked.ip());
        let asked = Meant {
            value: Address::Tcp(asked),
            origin: Origin::Default,
        };
        let mut taken = self.taken.iter();
        taken.find(|(_, taken)| same(taken, &asked) || (near && in_the_way(taken, &asked)))
    }

    /// The rules that are broken. Each is told of an option that was typed: defaults alone break
    /// none.
    pub fn broken(&self) -> Vec<At<Complaint>> {
        let mut found = self.taken_twice();
        found.extend(self.upstream_is_us());
        found.extend(self.key_in_store());
        found.extend(self.keys_of_both());
        found
    }

    fn taken_twice(&self) -> Vec<At<Complaint>> {
        let mut found = Vec::new();
        for (nth, later) in self.taken.iter().enumerate() {
            let earlier = self.taken[..nth].iter();
            let Some(earlier) = earlier.rev().find(|(_, other)| in_the_way(&later.1, other)) else {
                continue;
            };
            let (told, span, other) = match (later.1.origin.span(), earlier.1.origin.span()) {
                (Some(span), _) => (later, span, earlier),
                (None, Some(span)) => (earlier, span, later),
                (None, None) => continue,
            };
            let complaint = Complaint::new(
                format!(
                    "{} is taken by `{}`{}",
                    told.1.value,
                    other.0,
                    by_default(&other.1)
                ),
                "give each of the two its own",
            );
            found.push(complaint.at(span));
        }
        found
    }

    /// A token asked from ourselves would wait for itself.
    fn upstream_is_us(&self) -> Option<At<Complaint>> {
        let endpoint = self.endpoint.as_ref()?;
        let (option, address) = self.taker(endpoint.value)?;
        let complaint = Complaint::new(
            format!(
                "the endpoint is Foretoken itself: `{option}`{}",
                by_default(address)
            ),
            "name the service that issues tokens; Azure's own is http://169.254.169.254",
        );
        Some(complaint.at(endpoint.origin.span()?))
    }

    fn key_in_store(&self) -> Option<At<Complaint>> {
        let (store, key) = (self.store.as_ref()?, self.key.as_ref()?);
        // A store that is off may have no path, and every path starts with none.
        let somewhere = !store.value.as_os_str().is_empty();
        let inside = somewhere && tidied(&key.value).starts_with(tidied(&store.value));
        let span: Range<usize> = key.origin.span().or_else(|| store.origin.span())?;
        let complaint = Complaint::new(
            format!(
                "the key {} is inside the store {}",
                key.value.display(),
                store.value.display()
            ),
            "keep them apart, so that a copied store is useless without its key",
        );
        inside.then(|| complaint.at(span))
    }
}

impl Rules {
    /// Whoever took the agent's place could have us show it a key of our own, and redeem that here.
    fn keys_of_both(&self) -> Option<At<Complaint>> {
        let theirs = self.arc_upstream.as_ref()?;
        let own = self.arc_folders.iter();
        let shared = own
            .map(|own| tidied(own))
            .any(|own| own == tidied(&theirs.value));
        let message = format!(
            "{} is also where Foretoken puts its own keys",
            theirs.value.display()
        );
        let hint = "give the listener another `arc_folder`";
        let span = theirs.origin.span()?;
        shared.then(|| Complaint::new(message, hint).at(span))
    }
}

/// Whether one of two addresses leaves no room for the other: they are the same, or one of them
/// is every address of the machine.
fn in_the_way(one: &Meant<Address>, other: &Meant<Address>) -> bool {
    let (Address::Tcp(a), Address::Tcp(b)) = (&one.value, &other.value) else {
        return same(one, other);
    };
    let every = (a.ip().is_unspecified() || b.ip().is_unspecified()) && a.is_ipv4() == b.is_ipv4();
    same(one, other) || (every && a.port() != 0 && a.port() == b.port())
}

/// Two ports 0 are two ports: the system chooses each.
fn same(one: &Meant<Address>, other: &Meant<Address>) -> bool {
    match (&one.value, &other.value) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            one.port() != 0 && (one.ip(), one.port()) == (other.ip(), other.port())
        }
        (Address::Unix(one), Address::Unix(other)) => tidied(one) == tidied(other),
        _ => false,
    }
}

fn by_default<T>(meant: &Meant<T>) -> &'static str {
    match meant.origin {
        Origin::File(_) | Origin::Found(..) => "",
        Origin::Default | Origin::Environment(_) => ", by default",
    }
}
