//! How an answer goes out: whole, spoilt, or not at all.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::faults::{FaultKind, html_page};
use crate::refusals::status_reply;
use crate::reply::Reply;
use crate::world::World;

/// A stream of bytes over a TCP socket that faults can get at.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

pub(crate) enum Delivery {
    Whole(Reply),
    Drip {
        reply: Reply,
        chunk_bytes: usize,
        pause: Duration,
    },
    Truncated {
        reply: Reply,
        send_bytes: usize,
    },
    /// Whole, with the promise to keep the connection, which is then broken.
    ThenClose {
        reply: Reply,
        pause: Duration,
    },
    Hang,
    Reset,
}

/// What becomes of the connection.
pub(crate) enum After {
    GoOn,
    Close,
    CloseIn(Duration),
}

/// What a fault makes of a reply. Those that change the token or its members have done so before.
pub(crate) fn spoil(world: &World, reply: Reply, fault: Option<&FaultKind>) -> Delivery {
    match fault {
        None
        | Some(
            FaultKind::OtherResource { .. }
            | FaultKind::OtherClient { .. }
            | FaultKind::Edit { .. },
        ) => Delivery::Whole(reply),
        Some(FaultKind::Status {
            status,
            retry_after_s,
        }) => {
            let reply = status_reply(&world.kind, *status);
            Delivery::Whole(match retry_after_s {
                Some(seconds) => reply.with("Retry-After", seconds),
                None => reply,
            })
        }
        Some(FaultKind::Body {
            status,
            text,
            content_type,
        }) => Delivery::Whole(match content_type {
            Some(content_type) => Reply::new(*status, content_type.clone(), text.clone()),
            None => Reply::json(*status, text.clone()),
        }),
        Some(FaultKind::Header { line, status }) => {
            let reply = match status {
                Some(status) => status_reply(&world.kind, *status),
                None => reply,
            };
            Delivery::Whole(reply.with_line(line.clone()))
        }
        Some(FaultKind::Html) => {
            let page = html_page(world.address);
            Delivery::Whole(Reply::new(200, "text/html; charset=utf-8", page))
        }
        Some(FaultKind::Hang) => Delivery::Hang,
        Some(FaultKind::Reset) => Delivery::Reset,
        Some(FaultKind::Drip {
            chunk_bytes,
            pause_ms,
        }) => Delivery::Drip {
            reply,
            chunk_bytes: (*chunk_bytes).max(1),
            pause: Duration::from_millis(*pause_ms),
        },
        Some(FaultKind::Truncate { send_bytes }) => Delivery::Truncated {
            reply,
            send_bytes: *send_bytes,
        },
        Some(FaultKind::CloseKeptAlive { after_ms }) => Delivery::ThenClose {
            reply: reply.with("Connection", "keep-alive"),
            pause: Duration::from_millis(*after_ms),
        },
    }
}

impl Delivery {
    /// Sends the answer in its way.
    pub(crate) async fn send(
        self,
        stream: &mut impl Wire,
        server: &str,
        keep_alive: bool,
    ) -> io::Result<After> {
        match self {
            Self::Whole(reply) => {
                reply.send(stream, server, keep_alive).await?;
                Ok(After::GoOn)
            }
            Self::ThenClose { reply, pause } => {
                reply.send(stream, server, true).await?;
                Ok(After::CloseIn(pause))
            }
            Self::Drip {
                reply,
                chunk_bytes,
                pause,
            } => {
                let head = reply.head(server, keep_alive);
                stream.write_all(head.as_bytes()).await?;
                for chunk in reply.body.as_bytes().chunks(chunk_bytes) {
                    stream.write_all(chunk).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
                Ok(After::GoOn)
            }
            Self::Truncated { reply, send_bytes } => {
                let sent = send_bytes.min(reply.body.len().saturating_sub(1));
                let mut bytes = reply.head(server, keep_alive).into_bytes();
                bytes.extend_from_slice(&reply.body.as_bytes()[..sent]);
                stream.write_all(&bytes).await?;
                stream.shutdown().await?;
                Ok(After::Close)
            }
            Self::Hang => {
                let mut ignored = [0; 1024];
                while stream.read(&mut ignored).await? > 0 {}
                Ok(After::Close)
            }
            Self::Reset => {
                // Closing with no time to linger makes the kernel send RST instead of FIN.
                SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO))?;
                Ok(After::Close)
            }
        }
    }
}
