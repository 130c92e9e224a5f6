//! `upstream.endpoint`: the one address that is trusted with the question for a token.
//!
//! Promises an address of one host, never a name: whoever answers a look-up would otherwise choose
//! who hands out credentials. Spellings that other programs read as addresses, such as numbers in
//! octal, are names here.

use std::net::{IpAddr, SocketAddr};

use super::mistake::Complaint;

const NO_LOOK_UP: &str = "write `http://IP` or `http://IP:PORT`; a name is not looked up, because \
     DNS would then choose the place that hands out credentials";

/// `upstream.endpoint`: `http://IP[:PORT]`, port 80 if it is left out.
pub(super) fn endpoint(typed: &str) -> Result<SocketAddr, Complaint> {
    let wrong = |message: String, hint: &str| Err(Complaint::new(message, hint));
    let Some(rest) = typed.strip_prefix("http://") else {
        return match typed.split_once("://") {
            Some(("https", _)) => wrong(
                "the endpoint is not asked over TLS".to_owned(),
                "the metadata service speaks plain HTTP on an address that never leaves the \
                 host: write `http://`",
            ),
            Some((scheme, _)) => wrong(
                format!("{scheme:?} is not a scheme for the endpoint"),
                "write `http://IP` or `http://IP:PORT`",
            ),
            None => wrong(
                format!("{typed:?} has no scheme"),
                "write `http://IP` or `http://IP:PORT`",
            ),
        };
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return wrong(
            "the endpoint has a user name in it".to_owned(),
            "the metadata service takes no credentials: leave out the `@` and what is before it",
        );
    }
    if !path.is_empty() {
        return wrong(
            format!("the endpoint has a path, {path:?}"),
            "leave it out; the paths of the metadata service are known",
        );
    }
    let bracketed = authority
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = bracketed.map_or_else(
        || authority.parse().map(IpAddr::V4),
        |v6| v6.parse().map(IpAddr::V6),
    );
    let Ok(address) = bare
        .map(|ip| SocketAddr::new(ip, 80))
        .or_else(|_| authority.parse())
    else {
        return no_address(authority);
    };
    one_host(address)
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
            "leave the port out for 80",
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
            "a port is a number from 1 to 65535; leave it and the colon out for 80",
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
            assert_eq!(endpoint(typed), Ok(meant.parse().unwrap()), "{typed}");
        }
    }

    #[test]
    fn an_endpoint_is_never_a_name_however_it_is_spelled() {
        for typed in [
            "http://metadata.azure.internal",
            "http://localhost:80",
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
            assert!(endpoint(typed).is_err(), "{typed}");
        }
    }
}
