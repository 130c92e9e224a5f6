//! Servers to compare others with, which come with this program: `limit`, what is left if a server
//! does nothing but read and write, and `bare_hyper`, what is left if it uses hyper for that.
//!
//! They answer every request with the same token answer, got from the upstream at the start: no
//! header is checked, nothing is looked up, `expires_in` stands still. That is less than a cache
//! has to do, and is meant to be.

mod bare_hyper;
mod limit;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::thread;

use anyhow::{Context as _, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::ask::Asker;
use crate::plan::Target;

/// Connections that may wait to be accepted, which is what the system allows at most.
const BACKLOG: i32 = 4096;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Reads, counts the ends of heads, and writes an answer for each.
    Limit,
    /// Hyper 1 with a service that gives a fixed body.
    Hyper,
}

/// A listening socket.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Own {
    /// Serves until the process is ended, with so many threads: each has a listener of its own, and
    /// the kernel spreads connections over them.
    ///
    /// # Errors
    /// If the upstream has no token, or nobody can listen there.
    pub fn serve(self, at: &Target, upstream: SocketAddr, workers: usize) -> anyhow::Result<()> {
        let body = body(upstream)?;
        ensure!(
            workers == 1 || matches!(at, Target::Tcp(_)),
            "a Unix socket has one worker"
        );
        let listeners = (0..workers).map(|_| Listener::open(at));
        let listeners = listeners.collect::<anyhow::Result<Vec<_>>>()?;
        let threads: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let body = body.clone();
                thread::spawn(move || match self {
                    Self::Limit => limit::serve(listener, &body),
                    Self::Hyper => bare_hyper::serve(listener, body),
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a worker that does not panic")?;
        }
        Ok(())
    }
}

/// The version of hyper that is built in, as the lock file has it.
#[must_use]
pub fn hyper_version() -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let (_, after) = lock
        .split_once("name = \"hyper\"\nversion = \"")
        .expect("a locked hyper");
    after.split('"').next().expect("a version")
}

/// A token answer for the one key that comparisons ask for.
pub(crate) fn body(upstream: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let target = Target::Tcp(upstream);
    let (status, body) = Asker::open(&target)?.token(&target, 0, 1)?;
    ensure!(status == 200, "the upstream answers {status}");
    Ok(body)
}

impl Listener {
    fn open(at: &Target) -> anyhow::Result<Self> {
        let opened = match at {
            Target::Tcp(address) => shared(*address).map(Self::Tcp),
            Target::Unix(path) => {
                // What an earlier one left; if there is none, so much the better.
                let _ = fs::remove_file(path);
                UnixListener::bind(path).map(Self::Unix)
            }
        };
        opened.with_context(|| format!("cannot listen on {at}"))
    }
}

/// A listener beside which others may have the same address.
fn shared(address: SocketAddr) -> std::io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
