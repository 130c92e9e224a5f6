//! The guard lets a request in if and only if it has one Host that names us and no mark of a
//! proxy, a browser or a switch of protocols, by a second, plainer reading of the rules.

#![no_main]

use foretoken::authz::guard::{Facts, Header};
use libfuzzer_sys::fuzz_target;

const OURS: [&str; 4] = ["169.254.169.254", "127.0.0.1", "localhost", "[::1]"];
const MARKS: [&str; 43] = [
    "via",
    "forwarded",
    "x-real-ip",
    "x-rewrite-url",
    "x-original-url",
    "origin",
    "referer",
    "sec-fetch-site",
    "sec-fetch-dest",
    "expect",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "x-cluster-client-ip",
    "fastly-client-ip",
    "x-proxyuser-ip",
    "client-ip",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "forwarded-for",
    "x-originating-ip",
    "x-remote-ip",
    "x-remote-addr",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-original-uri",
    "x-original-for",
    "x-original-host",
    "x-host",
    "cdn-loop",
    "max-forwards",
    "x-azure-ref",
    "x-azure-fdid",
    "x-arr-log-id",
    "x-appgw-trace-id",
    "x-envoy-original-path",
    "x-envoy-external-address",
    "x-original-forwarded-for",
];

/// One header a line, the name up to the first colon. An empty name stands for `Host`, so that a
/// short input has one.
fuzz_target!(|data: &[u8]| {
    let lines = data.split(|b| *b == b'\n').take(64);
    let mut headers: Vec<Header<'_>> = lines
        .map(|line| match line.iter().position(|b| *b == b':') {
            Some(0) => (&b"Host"[..], &line[1..]),
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        })
        .collect();
    let admitted = Facts::read(headers.iter().copied()).admit().is_ok();
    assert_eq!(admitted, may_enter(&headers), "{headers:?}");

    // Order, and what nobody knows, change nothing; a mark shuts the door wherever it stands.
    headers.reverse();
    headers.push((b"x-anything", b"169.254.169.254"));
    assert_eq!(
        admitted,
        Facts::read(headers.iter().copied()).admit().is_ok()
    );
    let mark = MARKS[data.len() % MARKS.len()];
    headers.insert(data.len() % headers.len(), (mark.as_bytes(), b""));
    assert!(Facts::read(headers).admit().is_err());
});

fn may_enter(headers: &[Header<'_>]) -> bool {
    let mut hosts = Vec::new();
    for (name, value) in headers {
        // Names are tokens wherever this is called; what is no text is no name of ours.
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        match &*name {
            "host" => hosts.push(*value),
            name if MARKS.contains(&name)
                || (name.len() >= 12 && name.starts_with("x-forwarded-")) =>
            {
                return false;
            }
            _ => {}
        }
    }
    let [host] = hosts[..] else { return false };
    let Ok(host) = str::from_utf8(host) else {
        return false;
    };
    let host = host.to_ascii_lowercase();
    let name = if host.starts_with('[') {
        host.split_inclusive(']').next()
    } else {
        host.split(':').next()
    };
    let name = name.unwrap_or_default();
    let port = &host[name.len()..];
    let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    port_fits && (OURS.contains(&name) || is_loopback(name))
}

/// 127.0.0.0/8 in four plain decimal numbers.
fn is_loopback(name: &str) -> bool {
    let plain = |part: &str| part.parse::<u8>().is_ok_and(|n| n.to_string() == part);
    let parts: Vec<_> = name.split('.').collect();
    parts.len() == 4 && parts[0] == "127" && parts.into_iter().all(plain)
}

fn is_port(digits: &str) -> bool {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain
        && digits.trim_start_matches('0').len() <= 5
        && digits.parse::<u32>().unwrap_or(u32::MAX) <= 65535
}
