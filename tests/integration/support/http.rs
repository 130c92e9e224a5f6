//! Raw requests and answers: bytes out, bytes in.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// No answer in a test takes this long; a hang fails instead of standing.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An answer taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, by name without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// The target of a token request for the system-assigned identity.
pub fn token_target(resource: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}")
}

/// A token request's bytes.
pub fn token_request(resource: &str) -> Vec<u8> {
    let target = token_target(resource);
    format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n").into_bytes()
}

/// Asks for a token on a connection of its own.
pub fn token(address: SocketAddr, resource: &str) -> Answer {
    send(address, &token_request(resource)).expect("an answer")
}

/// `GET target` without further headers but `Host`.
pub fn get(address: SocketAddr, target: &str) -> Answer {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    send(address, request.as_bytes()).expect("an answer")
}

/// Sends bytes on a connection of their own and reads one answer.
pub fn send(address: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    read_answer(&mut stream)
}

/// Sends bytes to a Unix socket and reads one answer.
pub fn send_unix(socket: &Path, request: &[u8]) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    read_answer(&mut stream)
}

/// Purges over the admin socket in the state folder.
pub fn purge(state: &Path, which: &str) -> Answer {
    let request = format!("POST /purge?{which} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    send_unix(&state.join("admin.sock"), request.as_bytes()).expect("an answer")
}

/// Connects with a limit on every later read.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads one answer with a `Content-Length`, and leaves the connection usable.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed
        .parse(&head)
        .map_err(|error| broken(&error.to_string()))?;
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|h| {
            (
                h.name.to_owned(),
                String::from_utf8_lossy(h.value).into_owned(),
            )
        })
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let status = parsed.code.ok_or_else(|| broken("no status"))?;
    Ok(Answer {
        status,
        headers,
        body,
    })
}
