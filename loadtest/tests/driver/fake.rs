//! A server that answers as a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The resource of a plan with one key.
pub const RESOURCE: &str = "https://vault.azure.net";

/// What a server does with a request.
pub enum Act {
    Send(String),
    SendAndClose(String),
    Close,
}

/// A server on a free port; it ends with the test's process.
pub struct Fake {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    pub links: Arc<AtomicUsize>,
}

impl Fake {
    /// Asks `act` what to do with each request, of which it gets the number, from 0 on over all
    /// links, and the head.
    pub fn start(act: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, links) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (act, numbers, opened) = (Arc::new(act), Arc::clone(&requests), Arc::clone(&links));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                opened.fetch_add(1, Ordering::SeqCst);
                let (act, numbers) = (Arc::clone(&act), Arc::clone(&numbers));
                thread::spawn(move || serve(stream, &*act, &numbers));
            }
        });
        Self {
            address,
            requests,
            links,
        }
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn links(&self) -> usize {
        self.links.load(Ordering::SeqCst)
    }
}

/// Answers the requests of one link.
pub fn serve(
    mut stream: impl Read + Write,
    act: &dyn Fn(usize, &str) -> Act,
    numbers: &AtomicUsize,
) {
    let (mut waiting, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..read]);
        while let Some(end) = waiting.windows(4).position(|it| it == b"\r\n\r\n") {
            let head: Vec<_> = waiting.drain(..end + 4).collect();
            let number = numbers.fetch_add(1, Ordering::SeqCst);
            match act(number, str::from_utf8(&head).unwrap()) {
                Act::Send(text) => {
                    if stream.write_all(text.as_bytes()).is_err() {
                        return;
                    }
                }
                Act::SendAndClose(text) => {
                    let _ = stream.write_all(text.as_bytes());
                    return;
                }
                Act::Close => return,
            }
        }
    }
}

/// A token answer, and how it differs from a right one.
#[derive(Clone, Copy)]
pub struct Token {
    pub aud: &'static str,
    pub named: &'static str,
    /// Seconds from now to the end of the token.
    pub left_s: i64,
    /// What `expires_in` adds to that.
    pub off_s: i64,
}

impl Token {
    pub const RIGHT: Self = Self {
        aud: RESOURCE,
        named: RESOURCE,
        left_s: 3_600,
        off_s: 0,
    };

    pub fn body(self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now_s = i64::try_from(now.as_secs()).unwrap();
        let end = now_s + self.left_s;
        let claims = serde_json::json!({"aud": self.aud, "exp": end}).to_string();
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let (expires_in, named) = (self.left_s + self.off_s, self.named);
        format!(
            r#"{{"access_token":"{token}","expires_in":"{expires_in}","expires_on":"{end}","resource":"{named}","token_type":"Bearer"}}"#
        )
    }

    pub fn answer(self) -> String {
        answer(200, &self.body())
    }
}

pub fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}")
}
