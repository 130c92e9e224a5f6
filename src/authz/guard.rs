//! Requests that are turned away whatever they ask for.
//!
//! A credential server on a known address is what request forgery aims at: a web application that
//! is tricked into fetching a URL, a browser whose DNS was rebound, a reverse proxy that lets the
//! network in. Most of these cannot set `Metadata: true`, or leave marks of their own; the marks are
//! refused here, before any routing, on every listener. A proxy that passes the header on and adds
//! none of its own is not noticed: the listener is not for it to reach.

/// One header as it came off the wire.
pub type Header<'a> = (&'a [u8], &'a [u8]);

/// What the rules need to know of a request's headers, from one pass over them.
#[derive(Debug, Default, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, none a state"
)]
pub struct Facts<'a> {
    host: Option<&'a [u8]>,
    hosts: u8,
    forwarded: bool,
    browser: bool,
    switches: bool,
    body: bool,
    framed: bool,
    metadata: Option<&'a [u8]>,
    metadatas: u8,
    identity_header: Once<'a>,
    secret: Once<'a>,
    authorization: Once<'a>,
    cookie: bool,
}

/// A header that counts only if it is there once.
#[derive(Debug, Default, Clone, Copy)]
struct Once<'a> {
    value: Option<&'a [u8]>,
    times: u8,
}

impl<'a> Once<'a> {
    fn note(&mut self, value: &'a [u8]) {
        self.value = Some(value);
        self.times = self.times.saturating_add(1);
    }

    fn get(&self) -> Option<&'a [u8]> {
        self.value.filter(|_| self.times == 1)
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trespass {
    /// No `Host`, two of them, or one that is not a host and port.
    BadHost,
    /// A `Host` that is not a name of this machine's metadata endpoint: DNS rebinding.
    ForeignHost,
    /// A forwarding header: somebody else's request reached us through a proxy.
    Forwarded,
    /// A header that only browsers send.
    Browser,
    /// `Expect` or `Upgrade`: nothing here speaks them.
    Switching,
    /// A body where none belongs.
    Body,
}

/// The names by which callers may address us, beside the loopback addresses; ports are not looked
/// at.
const HOSTS: [&[u8]; 4] = [b"169.254.169.254", b"127.0.0.1", b"localhost", b"[::1]"];

fn is_address(name: &[u8]) -> bool {
    let text = std::str::from_utf8(name).unwrap_or_default();
    let v6 = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    text.parse::<std::net::Ipv4Addr>().is_ok()
        || v6.is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

fn is_our_name(name: &[u8]) -> bool {
    let loopback = || {
        let text = std::str::from_utf8(name).ok()?;
        text.parse::<std::net::Ipv4Addr>()
            .ok()
            .map(|address| address.is_loopback())
    };
    HOSTS.iter().any(|known| name.eq_ignore_ascii_case(known)) || loopback().unwrap_or(false)
}

/// Whether a header of this name is a proxy's: that it passed a request on, from whom, to whom it
/// was addressed, or what was really asked for. No client of ours sends one of its own accord.
fn is_forwarding(name: &[u8]) -> bool {
    let known: &[&[u8]] = match name.len() {
        3 => &[b"via"],
        6 => &[b"x-host"],
        8 => &[b"cdn-loop"],
        9 => &[b"forwarded", b"x-real-ip", b"client-ip"],
        11 => &[
            b"x-forwarded",
            b"x-client-ip",
            b"x-remote-ip",
            b"x-azure-ref",
        ],
        12 => &[b"max-forwards", b"x-azure-fdid", b"x-arr-log-id"],
        13 => &[b"x-rewrite-url", b"x-remote-addr", b"forwarded-for"],
        14 => &[
            b"x-original-url",
            b"x-original-uri",
            b"x-original-for",
            b"true-client-ip",
            b"x-proxyuser-ip",
        ],
        15 => &[b"x-original-host", b"proxy-client-ip"],
        16 => &[
            b"cf-connecting-ip",
            b"fastly-client-ip",
            b"x-originating-ip",
            b"x-azure-clientip",
            b"x-azure-socketip",
            b"x-appgw-trace-id",
        ],
        18 => &[b"wl-proxy-client-ip", b"cf-connecting-ipv6"],
        19 => &[b"x-cluster-client-ip"],
        21 => &[b"x-envoy-original-path"],
        24 => &[b"x-envoy-external-address", b"x-original-forwarded-for"],
        _ => &[],
    };
    known.iter().any(|known| name.eq_ignore_ascii_case(known))
        || (name.len() >= 12 && name[..12].eq_ignore_ascii_case(b"x-forwarded-"))
}

impl<'a> Facts<'a> {
    /// Reads the headers once. Names are matched without regard to case or order.
    pub fn read(headers: impl IntoIterator<Item = Header<'a>>) -> Self {
        let mut facts = Self::default();
        for (name, value) in headers {
            facts.note(name, value);
        }
        facts
    }

    fn note(&mut self, name: &'a [u8], value: &'a [u8]) {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // By length first: most headers match nothing and are passed over after one comparison.
        match name.len() {
            4 if is(b"host") => {
                self.hosts = self.hosts.saturating_add(1);
                self.host = Some(value);
            }
            6 if is(b"cookie") => self.cookie = true,
            6 if is(b"expect") => self.switches = true,
            6 if is(b"origin") => self.browser = true,
            6 if is(b"secret") => self.secret.note(value),
            7 if is(b"upgrade") => self.switches = true,
            7 if is(b"referer") => self.browser = true,
            8 if is(b"metadata") => {
                self.metadatas = self.metadatas.saturating_add(1);
                self.metadata = Some(value);
            }
            13 if is(b"authorization") => self.authorization.note(value),
            14 if is(b"sec-fetch-site") || is(b"sec-fetch-dest") => self.browser = true,
            14 if is(b"content-length") => {
                self.framed = true;
                self.body |= value != b"0";
            }
            17 if is(b"x-identity-header") => self.identity_header.note(value),
            17 if is(b"transfer-encoding") => {
                self.framed = true;
                self.body = true;
            }
            _ => self.forwarded |= is_forwarding(name),
        }
    }

    /// Whether the caller set `Metadata: true`, once, in exactly these letters as IMDS asks.
    #[must_use]
    pub fn has_metadata(&self) -> bool {
        self.metadatas == 1 && self.metadata == Some(b"true")
    }

    /// The secret that the caller shows in this header, if it shows one there once.
    #[must_use]
    pub fn secret(&self, header: &str) -> Option<&'a [u8]> {
        match header {
            "x-identity-header" => self.identity_header.get(),
            _ => self.secret.get(),
        }
    }

    /// Whether a header is there that may hold a secret, wanted or not.
    #[must_use]
    pub fn shows_secret(&self) -> bool {
        let secrets = [&self.identity_header, &self.secret, &self.authorization];
        self.cookie || secrets.iter().any(|secret| secret.times > 0)
    }

    /// What follows `Basic ` in `Authorization`.
    #[must_use]
    pub fn basic(&self) -> Option<&'a [u8]> {
        self.authorization.get()?.strip_prefix(b"Basic ")
    }

    /// Whether the request says how long its body is, be it empty.
    #[must_use]
    pub fn is_framed(&self) -> bool {
        self.framed
    }

    /// Whether the request announces a body.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.body
    }

    /// Applies the rules that hold for every request.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn admit(&self) -> Result<(), Trespass> {
        self.admit_to(false)
    }

    /// As [`admit`](Self::admit); `any_address` takes every address as `Host`, for a server that
    /// other machines call by its own. Names stay refused: DNS rebinding needs one.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn admit_to(&self, any_address: bool) -> Result<(), Trespass> {
        if self.forwarded {
            return Err(Trespass::Forwarded);
        }
        if self.browser {
            return Err(Trespass::Browser);
        }
        let (1, Some(host)) = (self.hosts, self.host) else {
            return Err(Trespass::BadHost);
        };
        let name = host_name(host).ok_or(Trespass::BadHost)?;
        let ours = is_our_name(name) || (any_address && is_address(name));
        if !ours {
            return Err(Trespass::ForeignHost);
        }
        if self.switches {
            return Err(Trespass::Switching);
        }
        Ok(())
    }
}

/// The name in `name`, `name:port`, `[v6]` or `[v6]:port`.
fn host_name(host: &[u8]) -> Option<&[u8]> {
    let end = if host.first() == Some(&b'[') {
        host.iter().position(|&b| b == b']')? + 1
    } else {
        host.iter().position(|&b| b == b':').unwrap_or(host.len())
    };
    let (name, port) = host.split_at(end);
    let port_ok = match port.strip_prefix(b":") {
        None => port.is_empty(),
        Some(digits) => is_port(digits),
    };
    (port_ok && !name.is_empty()).then_some(name)
}

fn is_port(digits: &[u8]) -> bool {
    let text = std::str::from_utf8(digits)
        .ok()
        .filter(|text| !text.starts_with('+'));
    text.is_some_and(|text| text.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(headers: &[(&str, &str)]) -> Result<(), Trespass> {
        Facts::read(headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).admit()
    }

    #[test]
    fn hosts_are_judged_by_name_and_not_by_port() {
        for host in [
            "169.254.169.254",
            "127.0.0.1:16925",
            "127.8.0.1:1",
            "LocalHost:1",
            "[::1]",
            "[::1]:80",
        ] {
            assert_eq!(admit(&[("Host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "169.254.169.253",
            "localhost.",
        ] {
            assert_eq!(
                admit(&[("Host", host)]),
                Err(Trespass::ForeignHost),
                "{host}"
            );
        }
        for host in [
            "",
            ":80",
            "localhost:x",
            "localhost:123456",
            "[::1",
            "a@localhost:80:80",
        ] {
            assert_eq!(admit(&[("Host", host)]), Err(Trespass::BadHost), "{host}");
        }
        assert_eq!(
            admit(&[("Host", "user@localhost")]),
            Err(Trespass::ForeignHost)
        );
    }

    #[test]
    fn a_request_needs_exactly_one_host() {
        assert_eq!(admit(&[]), Err(Trespass::BadHost));
        assert_eq!(
            admit(&[("Host", "localhost"), ("host", "localhost")]),
            Err(Trespass::BadHost)
        );
    }

    #[test]
    fn forwarded_browser_and_switching_requests_are_turned_away() {
        let cases = [
            ("X-Forwarded-For", Trespass::Forwarded),
            ("x-forwarded-host", Trespass::Forwarded),
            ("Forwarded", Trespass::Forwarded),
            ("Via", Trespass::Forwarded),
            ("X-Original-URL", Trespass::Forwarded),
            ("X-Rewrite-URL", Trespass::Forwarded),
            ("X-Real-IP", Trespass::Forwarded),
            ("Origin", Trespass::Browser),
            ("Referer", Trespass::Browser),
            ("Sec-Fetch-Site", Trespass::Browser),
            ("sec-fetch-dest", Trespass::Browser),
            ("Expect", Trespass::Switching),
            ("Upgrade", Trespass::Switching),
        ];
        for (name, trespass) in cases {
            assert_eq!(
                admit(&[("Host", "localhost"), (name, "1")]),
                Err(trespass),
                "{name}"
            );
        }
        // What Node's own fetch sends, and an explicit empty body.
        assert_eq!(
            admit(&[("Host", "localhost"), ("Sec-Fetch-Mode", "cors")]),
            Ok(())
        );
        assert_eq!(
            admit(&[("Host", "localhost"), ("Content-Length", "0")]),
            Ok(())
        );
    }

    #[test]
    fn known_ways_of_proxies_to_name_their_client_or_its_url_are_turned_away() {
        for name in [
            "X-Forwarded",
            "X-Forwarded-",
            "X-Forwarded-Client-Cert",
            "Forwarded-For",
            "Client-IP",
            "X-Client-IP",
            "True-Client-IP",
            "X-Cluster-Client-IP",
            "Proxy-Client-IP",
            "WL-Proxy-Client-IP",
            "CF-Connecting-IP",
            "CF-Connecting-IPv6",
            "Fastly-Client-IP",
            "X-ProxyUser-Ip",
            "X-Azure-ClientIP",
            "X-Azure-SocketIP",
            "X-Originating-IP",
            "X-Remote-IP",
            "X-Remote-Addr",
            "X-Original-URI",
            "X-Original-For",
            "X-Original-Host",
            "X-Host",
            "CDN-Loop",
            "Max-Forwards",
            "X-Azure-Ref",
            "X-Azure-FDID",
            "X-ARR-LOG-ID",
            "X-AppGw-Trace-Id",
            "X-Envoy-Original-Path",
            "X-Envoy-External-Address",
            "X-Original-Forwarded-For",
        ] {
            for name in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                let verdict = admit(&[("Host", "localhost"), (&name, "")]);
                assert_eq!(verdict, Err(Trespass::Forwarded), "{name}");
            }
        }
        for name in ["X-Forward", "X-Client-Ip2", "X-Original", "Client", "Vian"] {
            assert_eq!(
                admit(&[("Host", "localhost"), (name, "")]),
                Ok(()),
                "{name}"
            );
        }
    }

    #[test]
    fn metadata_must_be_true_once_and_in_these_letters() {
        let has = |headers: &[(&str, &str)]| {
            Facts::read(headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).has_metadata()
        };
        assert!(has(&[("metadata", "true")]));
        assert!(has(&[("Metadata", "true")]));
        assert!(!has(&[]));
        assert!(!has(&[("Metadata", "True")]));
        assert!(!has(&[("Metadata", "true"), ("Metadata", "true")]));
        assert!(!has(&[("Metadata", "")]));
    }
}
