//! An example: a client asks again after a failure.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use foretoken_emulator::{Emulator, Planned, Settings};

/// The client under test.
fn token(address: SocketAddr, tries: usize) -> Option<String> {
    (0..tries).find_map(|_| {
        let body = ask(address).ok()?;
        let body: serde_json::Value = serde_json::from_str(&body).ok()?;
        Some(body["access_token"].as_str()?.to_owned())
    })
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(
        b"GET /metadata/identity/oauth2/token?api-version=2018-02-01\
          &resource=https://vault.azure.net HTTP/1.1\r\n\
          Host: imds\r\nMetadata: true\r\nConnection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::InvalidData)?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(body.to_owned())
}

#[test]
fn it_asks_again() -> Result<(), Box<dyn std::error::Error>> {
    let emulator = Emulator::start(Settings::default())?;
    for mode in ["status-503", "reset", "json-truncated"] {
        emulator.set_mode(Planned::new(mode).times(1))?;
    }
    assert!(token(emulator.address(), 4).is_some());
    let counts = emulator.counts();
    assert_eq!((counts.token_calls, counts.faulted), (4, 3));
    assert_eq!(counts.spoilt_by("reset"), 1);
    Ok(())
}
