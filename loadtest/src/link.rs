//! One link to the server: its socket, what was sent on it, and what has arrived of an answer.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::plan::Target;

/// A request that was sent and has no answer yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnTheWay {
    pub key: usize,
    /// When it was to be sent.
    pub intended: Instant,
    /// When it was.
    pub sent: Instant,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A place for a link; the socket in it comes and goes.
#[derive(Default)]
pub(crate) struct Link {
    stream: Option<Stream>,
    pub(crate) on_the_way: VecDeque<OnTheWay>,
    /// The start of an answer of which the rest is yet to come. Empty nearly always, so that an
    /// idle link holds no buffer.
    pub(crate) part: Vec<u8>,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
}

impl Link {
    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Begins to connect; a request may be sent at once.
    pub(crate) fn open(
        &mut self,
        target: &Target,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let mut stream = match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(*address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Target::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let interests = stream.interests();
        registry.register(stream.source(), token, interests)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Closes the socket and forgets what was on its way.
    pub(crate) fn close(&mut self) {
        self.stream = None;
        self.on_the_way.clear();
        self.part.clear();
        self.unsent.clear();
    }

    /// Sends as much as the socket takes; the rest follows when it takes more.
    pub(crate) fn send(
        &mut self,
        bytes: &[u8],
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let Some(stream) = &mut self.stream else {
            return Err(ErrorKind::NotConnected.into());
        };
        let taken = stream.write_some(bytes)?;
        if taken < bytes.len() {
            self.unsent.extend_from_slice(&bytes[taken..]);
            let both = Interest::READABLE | Interest::WRITABLE;
            registry.reregister(stream.source(), token, both)?;
        }
        Ok(())
    }

    /// The socket takes more.
    pub(crate) fn writable(&mut self) -> io::Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let taken = stream.write_some(&self.unsent)?;
        self.unsent.drain(..taken);
        Ok(())
    }

    /// Reads once: nothing if nothing is there, 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        loop {
            let read = match stream {
                Stream::Tcp(stream) => stream.read(buffer),
                Stream::Unix(stream) => stream.read(buffer),
            };
            match read {
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Stream {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    /// To be told of room on a Unix socket costs a wake-up for each answer; TCP tells of it only
    /// to who found none, or was connecting.
    fn interests(&self) -> Interest {
        match self {
            Self::Tcp(_) => Interest::READABLE | Interest::WRITABLE,
            Self::Unix(_) => Interest::READABLE,
        }
    }

    /// How many bytes were taken; none while it is still connecting.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            let wrote = match self {
                Self::Tcp(stream) => stream.write(&bytes[taken..]),
                Self::Unix(stream) => stream.write(&bytes[taken..]),
            };
            match wrote {
                Ok(wrote) => taken += wrote,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }
}
