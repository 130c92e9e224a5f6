//! The little HTTP that the other commands need to ask the running server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::server::Address;

/// Longer than the server holds a caller.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// An answer.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// `GET target` with `Metadata: true`, on a connection of its own.
///
/// # Errors
/// Nobody listens there, or the answer is not HTTP.
pub fn get(address: &Address, target: &str) -> Result<Answer> {
    ask(address, "GET", target)
}

/// `POST target` without a body, on a connection of its own.
///
/// # Errors
/// As [`get`].
pub fn post(address: &Address, target: &str) -> Result<Answer> {
    ask(address, "POST", target)
}

fn ask(address: &Address, method: &str, target: &str) -> Result<Answer> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, TIMEOUT)
                .with_context(|| format!("no Foretoken answers on {address}"))?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            exchange(stream, method, target)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)
                .with_context(|| format!("no Foretoken answers on {}", path.display()))?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            exchange(stream, method, target)
        }
    }
}

fn exchange(mut stream: impl Read + Write, method: &str, target: &str) -> Result<Answer> {
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nMetadata: true\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_string(&mut answer)
        .context("the answer broke off")?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the answer is no HTTP")
    };
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.context("the answer is no HTTP")?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}
