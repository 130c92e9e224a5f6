//! `upstream.endpoint`: the one address that is trusted with the question for a token.
//!
//! Promises an address of one host, never a name: whoever answers a look-up would otherwise choose
//! who hands out credentials. `localhost`, which the platforms' own variables say, is 127.0.0.1. Spellings that other programs read as addresses, such as numbers in
//! octal, are names here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::mistake::Complaint;
use crate::upstream::{Endpoint, Kind};

const NO_LOOK_UP: &str = "write an IP address, like \"http://127.0.0.1:8081\"; a name is not looked \
     up, because DNS would then choose the place that hands out credentials";

/// Azure's own variables call this machine so; it is an address by definition, not by a look-up.
const THIS_MACHINE: &str = "localhost";

/// `upstream.endpoint` of this kind of source: `SCHEME://IP[:PORT][/PATH]`. Service Fabric is asked
/// over TLS, all others over plain HTTP. The metadata service's path is known and not typed.
pub(super) fn endpoint(kind: Kind, typed: &str) -> Result<Endpoint, Complaint> {
    let wrong = |message: String, hint: &str| Err(Complaint::new(message, hint));
    let (scheme, own_port) = match kind {
        Kind::ServiceFabric => ("https", 443),
        _ => ("http", 80),
    };
    let form = format!("write \"{scheme}://IP\" or \"{scheme}://IP:PORT\"");
    let rest = match typed.split_once("://") {
        Some((typed, rest)) if typed == scheme => rest,
        Some(("https", _)) => {
            return wrong(
                "the endpoint is not asked over TLS".to_owned(),
                "it speaks plain HTTP on an address that never leaves the host: write `http://`",
            );
        }
        Some(("http", _)) => {
            return wrong(
                "Service Fabric is asked over TLS".to_owned(),
                "write `https://`; its certificate is known by `thumbprint`",
            );
        }
        Some((typed, _)) => {
            return wrong(format!("{typed:?} is not a scheme for the endpoint"), &form);
        }
        // A query may hold a secret.
        None => {
            let shown = typed.split(['?', '@']).next().unwrap_or_default();
            return wrong(format!("{shown:?} has no scheme"), &form);
        }
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return wrong(
            "the endpoint has a user name in it".to_owned(),
            "it takes no credentials: leave out the `@` and what is before it",
        );
    }
    let target = target(kind, path)?;
    let port_of = |rest: &str| match rest.strip_prefix(':') {
        None => rest.is_empty().then_some(own_port),
        Some(port) => port
            .parse()
            .ok()
            .filter(|_| port.bytes().all(|b| b.is_ascii_digit())),
    };
    let named = authority.strip_prefix(THIS_MACHINE).and_then(port_of);
    let address = match named.filter(|_| kind != Kind::Imds) {
        Some(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        None => address(authority, own_port)?,
    };
    let address = one_host(address)?;
    let host = match named {
        Some(_) => THIS_MACHINE.to_owned(),
        None if address.is_ipv6() => format!("[{}]", address.ip()),
        None => address.ip().to_string(),
    };
    let authority = match address.port() {
        port if port == own_port && !address.is_ipv6() => host,
        port => format!("{host}:{port}"),
    };
    Ok(Endpoint {
        address,
        authority: authority.into(),
        target,
    })
}

/// The path and query of an endpoint; where a kind has its own, it may be left out.
fn target(kind: Kind, typed: &str) -> Result<Box<str>, Complaint> {
    let own = match kind {
        Kind::Imds | Kind::Arc => Some(Endpoint::IMDS_PATH),
        Kind::VmExtension | Kind::CloudShell => Some("/oauth2/token"),
        _ => None,
    };
    if kind == Kind::Imds && !typed.is_empty() {
        let hint = "leave it out; the paths of the metadata service are known";
        return Err(Complaint::new(
            format!("the endpoint has a path, {typed:?}"),
            hint,
        ));
    }
    match own {
        Some(own) if matches!(typed, "" | "/") => return Ok(own.into()),
        None if typed.is_empty() => return Ok("/".into()),
        _ => {}
    }
    // RFC 3986: what a path or a query may hold as it is.
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&b);
    if typed.starts_with('/') && typed.bytes().all(sound) {
        Ok(typed.into())
    } else {
        let hint = "a path starts with `/`, is escaped where it has to be, and has no `#`";
        Err(Complaint::new("the path of the endpoint is none", hint))
    }
}

/// `IP[:PORT]`.
fn address(authority: &str, own_port: u16) -> Result<SocketAddr, Complaint> {
    let bracketed = authority
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = bracketed.map_or_else(
        || authority.parse().map(IpAddr::V4),
        |v6| v6.parse().map(IpAddr::V6),
    );
    bare.map(|ip| SocketAddr::new(ip, own_port))
        .or_else(|_| authority.parse())
        .or_else(|_| no_address(authority))
}

/// Passes an address that one host can have, and can be called at.
fn one_host(address: SocketAddr) -> Result<SocketAddr, Complaint> {
    let wrong = |message: String, hint: &str| Err(Complaint::new(message, hint));
    let ip = address.ip();
    if ip.to_canonical() != ip {
        let hint = format!("write the IPv4 address itself, {}", ip.to_canonical());
        return wrong(format!("{ip} is an IPv4 address in disguise"), &hint);
    }
    if address.port() == 0 {
        return wrong(
            "port 0 cannot be called".to_owned(),
            "leave the port out for the scheme's own",
        );
    }
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return wrong(
            format!("{ip} is not the address of one host"),
            "Azure's own is http://169.254.169.254",
        );
    }
    Ok(address)
}

/// Tells a mistyped address from a name.
fn no_address(authority: &str) -> Result<SocketAddr, Complaint> {
    let (message, hint) = if authority.is_empty() {
        ("the endpoint has no address".to_owned(), NO_LOOK_UP)
    } else if authority.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        (
            format!("{authority:?} needs brackets"),
            "an IPv6 address is written `http://[IP]` or `http://[IP]:PORT`",
        )
    } else if let Some((_, port)) = authority
        .rsplit_once(':')
        .filter(|(ip, _)| ip.trim_matches(['[', ']']).parse::<IpAddr>().is_ok())
    {
        (
            format!("{port:?} is not a port"),
            "a port is a number from 1 to 65535; leave it and the colon out for the scheme's own",
        )
    } else {
        (format!("{authority:?} is not an IP address"), NO_LOOK_UP)
    };
    Err(Complaint::new(message, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_and_a_port_that_defaults_to_80() {
        for (typed, meant) in [
            ("http://169.254.169.254", "169.254.169.254:80"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[fd00::1]", "[fd00::1]:80"),
            ("http://[fd00::1]:81", "[fd00::1]:81"),
        ] {
            let meant = Endpoint::plain(meant.parse().unwrap(), Endpoint::IMDS_PATH);
            assert_eq!(endpoint(Kind::Imds, typed), Ok(meant), "{typed}");
        }
    }

    #[test]
    fn an_endpoint_is_never_a_name_however_it_is_spelled() {
        for typed in [
            "http://metadata.azure.internal",
            "http://localhost.:80",
            "http://localhost.example",
            "http://LOCALHOST",
            "http://localhost:",
            "http://localhost:+80",
            "http://2852039166",
            "http://0xa9fea9fe",
            "http://169.254.169.254.",
            "http://0251.0376.0251.0376",
            "http://[::ffff:169.254.169.254]",
            "http://169.254.169.254@evil.example",
            "http://",
            "http://:80",
            "http:// 1.2.3.4",
            "HTTP://1.2.3.4",
        ] {
            for kind in [Kind::Imds, Kind::AppService, Kind::Arc] {
                assert!(endpoint(kind, typed).is_err(), "{typed}");
            }
        }
        assert!(endpoint(Kind::Imds, "http://localhost:80").is_err());
    }

    #[test]
    fn platforms_name_this_machine_and_a_path_of_their_own() {
        for (kind, typed, address, authority, target) in [
            (
                Kind::AppService,
                "http://localhost:42356/msi/token",
                "127.0.0.1:42356",
                "localhost:42356",
                "/msi/token",
            ),
            (
                Kind::AppService,
                "http://169.254.129.3:8081/msi/token/?a=b",
                "169.254.129.3:8081",
                "169.254.129.3:8081",
                "/msi/token/?a=b",
            ),
            (
                Kind::AppService,
                "http://127.0.0.1",
                "127.0.0.1:80",
                "127.0.0.1",
                "/",
            ),
            (
                Kind::Arc,
                "http://localhost:40342",
                "127.0.0.1:40342",
                "localhost:40342",
                Endpoint::IMDS_PATH,
            ),
            (
                Kind::CloudShell,
                "http://localhost/",
                "127.0.0.1:80",
                "localhost",
                "/oauth2/token",
            ),
            (
                Kind::ServiceFabric,
                "https://localhost:2377/metadata/identity/oauth2/token",
                "127.0.0.1:2377",
                "localhost:2377",
                Endpoint::IMDS_PATH,
            ),
            (
                Kind::ServiceFabric,
                "https://[::1]/t",
                "[::1]:443",
                "[::1]:443",
                "/t",
            ),
        ] {
            let meant = Endpoint {
                address: address.parse().unwrap(),
                authority: authority.into(),
                target: target.into(),
            };
            assert_eq!(endpoint(kind, typed), Ok(meant), "{typed}");
        }
    }

    #[test]
    fn a_target_that_could_not_be_sent_is_refused() {
        for path in [
            "/a`b", "/a{b", "/a^b", "/a|b", "/a b", "/a#b", "?a=b", "/a\\b", "/\u{e9}", "/a\"b",
        ] {
            let typed = format!("http://127.0.0.1:1{path}");
            assert!(endpoint(Kind::AppService, &typed).is_err(), "{typed}");
        }
        assert!(endpoint(Kind::Arc, "https://127.0.0.1:1").is_err());
        assert!(endpoint(Kind::ServiceFabric, "http://127.0.0.1:1").is_err());
    }
}
