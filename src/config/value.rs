//! What a single value means.
//!
//! Pure functions from what was typed to the types of the rooms below, each with the complaint
//! for a value that cannot be. Promises that every TCP address of ours is a loopback one, unless
//! the operator has signed for it. Leaves the upstream's address to `endpoint.rs`, what clients
//! are made of to `client.rs`, and rules over several values to `rules.rs`.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use toml::de::DeInteger;

use super::mistake::{At, Complaint};
use super::names::{REMOTE, nearest};
use crate::server::Address;

/// Longest path of a Unix socket: `sun_path` less its closing zero byte, unix(7).
const MAX_SOCKET_PATH_BYTES: usize = 107;

const ONLY_THIS_MACHINE: &str =
    "Foretoken answers only this machine: use a loopback address, 127.0.0.1 or [::1]";

/// `listener.address`: `IP:PORT` or `unix:PATH`; `remote` allows addresses of the network.
pub(super) fn listener_address(
    typed: &str,
    folder: &Path,
    remote: bool,
) -> Result<Address, Complaint> {
    if let Some(path) = typed.strip_prefix("unix:") {
        return socket(path, folder).map(Address::Unix);
    }
    if typed.starts_with('/') {
        return Err(Complaint::new(
            format!("{typed:?} is a path, not an address"),
            format!("a Unix socket is written \"unix:{typed}\""),
        ));
    }
    let address = ip_and_port(typed)?;
    if remote {
        reachable(typed, address).map(Address::Tcp)
    } else {
        let hint = format!("{ONLY_THIS_MACHINE}; `{REMOTE}` under [server] allows any other");
        loopback(typed, address, &hint).map(Address::Tcp)
    }
}

/// `admin.address`: `IP:PORT`.
pub(super) fn admin_address(typed: &str) -> Result<SocketAddr, Complaint> {
    if typed.starts_with("unix:") || typed.starts_with('/') {
        return Err(Complaint::new(
            "`address` is the TCP side of the admin endpoints",
            "the Unix side is `socket`, a path without \"unix:\"",
        ));
    }
    loopback(typed, ip_and_port(typed)?, ONLY_THIS_MACHINE)
}

/// `admin.socket`: a path, or "off".
pub(super) fn admin_socket(typed: &str, folder: &Path) -> Result<Option<PathBuf>, Complaint> {
    match typed {
        "off" => Ok(None),
        _ if typed.starts_with("unix:") => Err(Complaint::new(
            "`socket` is a path and always a Unix socket",
            "leave out \"unix:\"",
        )),
        _ => socket(typed, folder).map(Some),
    }
}

fn ip_and_port(typed: &str) -> Result<SocketAddr, Complaint> {
    typed.parse::<SocketAddr>().map_err(|_| {
        let hint = match typed.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => format!("add a port, like \"{}\"", SocketAddr::new(ip, 16925)),
            Err(_) => "write IP:PORT, like \"127.0.0.1:16925\" or \"[::1]:16925\"; names are not \
                       looked up"
                .to_owned(),
        };
        let message = format!("{typed:?} is not an IP address with a port");
        Complaint::new(message, hint)
    })
}

fn loopback(typed: &str, address: SocketAddr, hint: &str) -> Result<SocketAddr, Complaint> {
    let message = || format!("{typed:?} is not a loopback address");
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(Complaint::new(message(), hint))
    }
}

/// An address that a machine can have, loopback or not.
fn reachable(typed: &str, address: SocketAddr) -> Result<SocketAddr, Complaint> {
    let ip = address.ip();
    if ip.to_canonical() != ip {
        let hint = format!("write the IPv4 address itself, {}", ip.to_canonical());
        let message = format!("{typed:?} is an IPv4 address in disguise");
        return Err(Complaint::new(message, hint));
    }
    if ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        let message = format!("{typed:?} is not the address of one machine");
        return Err(Complaint::new(message, "write an address of this machine"));
    }
    Ok(address)
}

/// A path, relative to the folder of the configuration file.
pub(super) fn path(typed: &str, folder: &Path) -> Result<PathBuf, Complaint> {
    if typed.is_empty() {
        let hint = "name a file; a relative path starts at the folder of the configuration";
        return Err(Complaint::new("the path is empty", hint));
    }
    if typed.contains(char::is_control) {
        let hint = "no file of ours has such a name; is it an escape gone wrong?";
        return Err(Complaint::new(
            "the path has a control character in it",
            hint,
        ));
    }
    Ok(folder.join(typed))
}

fn socket(typed: &str, folder: &Path) -> Result<PathBuf, Complaint> {
    let path = path(typed, folder)?;
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(Complaint::new(
            format!("{} is too long for a socket", path.display()),
            format!("the system allows {MAX_SOCKET_PATH_BYTES} bytes, with the folder"),
        ));
    }
    Ok(path)
}

/// A list of names, each once. `meaning` sees what came before in the list.
pub(super) fn each<T: PartialEq>(
    typed: At<Vec<Result<At<&str>, At<Complaint>>>>,
    empty: Complaint,
    meaning: impl Fn(&str, &[T]) -> Result<T, Complaint>,
) -> Result<Vec<T>, Vec<At<Complaint>>> {
    if typed.value.is_empty() {
        return Err(vec![empty.at(typed.span)]);
    }
    let (mut known, mut wrong) = (Vec::new(), Vec::new());
    for item in typed.value {
        let meant = item.and_then(|At { value, span }| {
            let again = || Complaint::new(format!("{value:?} is named twice"), "once is enough");
            let meant = meaning(value, &known).map_err(|complaint| complaint.at(span.clone()))?;
            let new = !known.contains(&meant);
            new.then_some(meant).ok_or_else(|| again().at(span))
        });
        match meant {
            Ok(meant) => known.push(meant),
            Err(complaint) => wrong.push(complaint),
        }
    }
    if wrong.is_empty() {
        Ok(known)
    } else {
        Err(wrong)
    }
}

/// A path without `.` and `..`, for comparing only: where links are involved, the system may
/// see it otherwise.
pub(super) fn tidied(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                tidy.pop();
            }
            other => tidy.push(other),
        }
    }
    tidy
}

/// A whole number within limits.
pub(super) fn number(
    typed: &DeInteger<'_>,
    limits: &RangeInclusive<usize>,
) -> Result<usize, Complaint> {
    let value = usize::from_str_radix(typed.as_str(), typed.radix()).ok();
    value.filter(|value| limits.contains(value)).ok_or_else(|| {
        let (least, most) = (limits.start(), limits.end());
        Complaint::new(
            format!("{typed} is out of range"),
            format!("the least is {least}, the most {most}"),
        )
    })
}

/// Letters of time and their milliseconds, the longest first.
const UNITS: [(char, u64); 4] = [
    ('d', 86_400_000),
    ('h', 3_600_000),
    ('m', 60_000),
    ('s', 1000),
];

/// No token of ours lives longer.
const LONGEST_OUTAGE_MS: u64 = 7 * 86_400_000;

/// `refresh.outage_to_survive`: a whole number and its unit, or "off"; in milliseconds.
pub(super) fn outage(typed: &str) -> Result<u64, Complaint> {
    if typed == "off" {
        return Ok(0);
    }
    let not_a_time = || {
        Complaint::new(
            format!("{typed:?} is not a time"),
            "write a whole number and its unit, like \"6h\": d, h, m or s; or \"off\"",
        )
    };
    let unit = UNITS.iter().find(|(letter, _)| typed.ends_with(*letter));
    let (letter, unit_ms) = unit.ok_or_else(not_a_time)?;
    let digits = typed.trim_end_matches(*letter);
    let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !whole || digits.len() + 1 != typed.len() {
        return Err(not_a_time());
    }
    let time_ms = digits.parse().ok();
    let time_ms = time_ms.and_then(|number: u64| number.checked_mul(*unit_ms));
    let time_ms = time_ms.filter(|time_ms| *time_ms <= LONGEST_OUTAGE_MS);
    time_ms.ok_or_else(|| {
        let message = format!("{typed:?} is longer than any token lives");
        Complaint::new(message, "the most is \"7d\"")
    })
}

/// A time as it would be typed.
pub(super) fn outage_name(time_ms: u64) -> String {
    let fits = |(_, unit_ms): &&(char, u64)| time_ms.is_multiple_of(*unit_ms);
    match UNITS.iter().find(fits).filter(|_| time_ms > 0) {
        Some((letter, unit_ms)) => format!("{}{letter}", time_ms / unit_ms),
        None => "off".to_owned(),
    }
}

/// One name of a closed set.
pub(super) fn choice<T: Copy>(
    typed: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, Complaint> {
    if let Some(chosen) = all.iter().find(|value| name(**value) == typed) {
        return Ok(*chosen);
    }
    let names = || all.iter().map(|value| name(*value));
    let any = || {
        let quoted: Vec<_> = names().map(|name| format!("{name:?}")).collect();
        format!("write {}", quoted.join(" or "))
    };
    let near = nearest(typed, names()).map(|near| format!("did you mean {near:?}?"));
    let hint = near.unwrap_or_else(any);
    Err(Complaint::new(format!("{typed:?} is not known here"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_listened_on() {
        let folder = Path::new("/etc");
        for typed in [
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.4:1",
            "[::ffff:127.0.0.1]:1",
            "169.254.169.254:80",
        ] {
            assert!(listener_address(typed, folder, false).is_err(), "{typed}");
            assert!(admin_address(typed).is_err(), "{typed}");
        }
        assert!(listener_address("127.3.2.1:0", folder, false).is_ok());
    }

    #[test]
    fn addresses_of_the_network_are_listened_on_once_signed_for() {
        let remote = |typed| listener_address(typed, Path::new("/etc"), true);
        for typed in ["0.0.0.0:1", "[::]:1", "10.0.0.4:1", "127.0.0.1:1"] {
            assert!(remote(typed).is_ok(), "{typed}");
        }
        for typed in ["[::ffff:10.0.0.4]:1", "224.0.0.1:1", "255.255.255.255:1"] {
            assert!(remote(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (typed, told, time_ms) in [
            ("6h", "6h", 21_600_000),
            ("90m", "90m", 5_400_000),
            ("45s", "45s", 45_000),
            ("1d", "1d", 86_400_000),
            ("168h", "7d", 604_800_000),
            ("off", "off", 0),
            ("0s", "off", 0),
        ] {
            assert_eq!(outage(typed).ok(), Some(time_ms), "{typed}");
            assert_eq!(outage_name(time_ms), told);
        }
        for typed in [
            "",
            "h",
            "6",
            "6 h",
            "6H",
            "6hh",
            "1.5h",
            "-6h",
            "+6h",
            "1h30m",
            "8d",
            "169h",
            "99999999999999999999d",
            "6min",
            "٦h",
            "never",
        ] {
            assert!(outage(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn relative_paths_start_at_the_folder() {
        let folder = Path::new("/etc/foretoken");
        assert_eq!(
            path("a/b", folder).unwrap(),
            Path::new("/etc/foretoken/a/b")
        );
        assert_eq!(path("/a/b", folder).unwrap(), Path::new("/a/b"));
    }

    #[test]
    fn tidied_paths_compare_equal_where_they_mean_the_same() {
        assert_eq!(tidied(Path::new("/a/./b/../c//d/")), Path::new("/a/c/d"));
        assert_eq!(tidied(Path::new("/../a")), Path::new("/a"));
    }
}
