//! Which servers are compared.

use super::peer::{Peer, Program};

const NGINX: &[&str] = &["-p", "{folder}", "-c", "{config}"];

pub(super) static PEERS: [Peer; 7] = [
    Peer {
        name: "limit",
        about: "reads and writes, parses nothing: what the kernel alone costs",
        program: Program::Own,
        cache: false,
        unix: "unix:",
        config: None,
        arguments: &[
            "peer",
            "limit",
            "--listen",
            "{listen}",
            "--upstream",
            "{upstream}",
            "--workers",
            "{workers}",
        ],
        version: &["--version"],
    },
    Peer {
        name: "hyper",
        about: "hyper with a fixed body, no look-up",
        program: Program::Own,
        cache: false,
        unix: "unix:",
        config: None,
        arguments: &[
            "peer",
            "hyper",
            "--listen",
            "{listen}",
            "--upstream",
            "{upstream}",
            "--workers",
            "{workers}",
        ],
        version: &["peer", "version"],
    },
    Peer {
        name: "nginx-return",
        about: "nginx with `return 200`, after a look at the Metadata header",
        program: Program::Installed("nginx"),
        cache: false,
        unix: "unix:",
        config: Some(include_str!("../../peers/nginx-return.conf")),
        arguments: NGINX,
        version: &["-v"],
    },
    Peer {
        name: "nginx-cache",
        about: "nginx with proxy_cache: lock, background update, stale answers, open_file_cache",
        program: Program::Installed("nginx"),
        cache: true,
        unix: "unix:",
        config: Some(include_str!("../../peers/nginx-cache.conf")),
        arguments: NGINX,
        version: &["-v"],
    },
    Peer {
        name: "haproxy",
        about: "HAProxy with its cache",
        program: Program::Installed("haproxy"),
        cache: true,
        unix: "unix@",
        config: Some(include_str!("../../peers/haproxy.cfg")),
        arguments: &["-db", "-q", "-f", "{config}"],
        version: &["-v"],
    },
    Peer {
        name: "varnish",
        about: "Varnish with grace, failed background fetches abandoned",
        program: Program::Installed("varnishd"),
        cache: true,
        unix: "",
        config: Some(include_str!("../../peers/varnish.vcl")),
        arguments: &[
            "-F",
            "-j",
            "none",
            "-n",
            "{folder}/work",
            "-f",
            "{config}",
            "-a",
            "{listen}",
            "-s",
            "malloc,256m",
            "-p",
            "listen_depth=4096",
            "-p",
            "thread_pool_min=100",
            "-p",
            "thread_pool_max=5000",
            "-p",
            "timeout_idle=3600",
        ],
        version: &["-V"],
    },
    Peer {
        name: "foretoken",
        about: "Foretoken with its defaults",
        program: Program::Foretoken,
        cache: true,
        unix: "unix:",
        config: Some(include_str!("../../peers/foretoken.toml")),
        arguments: &["serve", "--config", "{config}"],
        version: &["--version"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::BASES;

    #[test]
    fn what_others_are_divided_by_is_among_them() {
        for base in BASES {
            assert!(PEERS.iter().any(|peer| peer.name == base), "{base}");
        }
    }
}
