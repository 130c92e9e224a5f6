//! A fault as steps on the connection: what is sent, when, and how it ends.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::delivery::{After, Wire};
use crate::template::{self, Values};

/// One step of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sends this text, its placeholders filled in; see the README.
    Send(String),
    /// Sends a text in small pieces.
    Drip {
        /// The text, its placeholders filled in.
        text: String,
        /// Bytes in a piece; at least 1.
        bytes: usize,
        /// Milliseconds between pieces.
        pause_ms: u64,
    },
    /// Waits until a byte of the next request is there.
    AwaitNext,
    /// Says nothing more until the caller closes.
    Hang,
    /// Resets the connection (RST).
    Reset,
    /// Closes the connection.
    Close,
}

impl Step {
    /// What is wrong with it, if something is.
    pub(crate) fn mistake(&self) -> Option<String> {
        self.text().and_then(template::mistake)
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Send(text) | Self::Drip { text, .. } => Some(text),
            Self::AwaitNext | Self::Hang | Self::Reset | Self::Close => None,
        }
    }
}

/// Whether any step sends something of the right answer.
pub(crate) fn uses_the_token(steps: &[Step]) -> bool {
    steps
        .iter()
        .filter_map(Step::text)
        .any(template::uses_the_token)
}

/// Goes through the steps; says what becomes of the connection.
pub(crate) async fn play(
    steps: &[Step],
    stream: &mut impl Wire,
    values: &Values<'_>,
) -> io::Result<After> {
    for step in steps {
        match step {
            Step::Send(text) => {
                stream.write_all(&template::fill(text, values)).await?;
                stream.flush().await?;
            }
            Step::Drip {
                text,
                bytes,
                pause_ms,
            } => {
                let filled = template::fill(text, values);
                let pause = Duration::from_millis(*pause_ms);
                drip(stream, &filled, *bytes, pause).await?;
            }
            Step::AwaitNext => {
                if stream.read(&mut [0]).await? == 0 {
                    return Ok(After::Close);
                }
            }
            Step::Hang => {
                hang(stream).await?;
                return Ok(After::Close);
            }
            Step::Reset => {
                reset(stream)?;
                return Ok(After::Close);
            }
            Step::Close => {
                stream.shutdown().await?;
                return Ok(After::Close);
            }
        }
    }
    Ok(After::GoOn)
}

/// Sends bytes in pieces with pauses between them.
pub(crate) async fn drip(
    stream: &mut impl Wire,
    bytes: &[u8],
    piece: usize,
    pause: Duration,
) -> io::Result<()> {
    for piece in bytes.chunks(piece.max(1)) {
        stream.write_all(piece).await?;
        stream.flush().await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Reads and ignores until the caller closes.
pub(crate) async fn hang(stream: &mut impl Wire) -> io::Result<()> {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// Makes the coming close a reset.
pub(crate) fn reset(stream: &impl Wire) -> io::Result<()> {
    // Closing with no time to linger makes the kernel send RST instead of FIN.
    SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO))
}
