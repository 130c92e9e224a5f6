//! The least that a server can do: read what has come, and write an answer for each end of a head
//! in it. What it costs is the kernel's price of a request; no server on sockets costs less.

use std::io::{self, ErrorKind, Read, Write};

use memchr::memmem;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, event};

use super::Listener;

const LISTENER: Token = Token(usize::MAX);
const BUFFER_BYTES: usize = 64 * 1024;
/// Answers that are ready side by side, for pipelines.
const READY: usize = 64;
const END: &[u8] = b"\r\n\r\n";

pub(super) fn serve(listener: Listener, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = [head.as_bytes(), body].concat();
    match listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(listener);
            run(&mut listener, &answer, |listener| {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(stream)
            })
        }
        Listener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            let mut listener = UnixListener::from_std(listener);
            run(&mut listener, &answer, |listener| Ok(listener.accept()?.0))
        }
    }
}

trait Stream: Read + Write + event::Source {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

struct Connection<S> {
    stream: S,
    /// The last bytes that may be the start of an end.
    tail: Vec<u8>,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
}

fn run<L: event::Source, S: Stream>(
    listener: &mut L,
    answer: &[u8],
    accept: impl Fn(&L) -> io::Result<S>,
) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    poll.registry()
        .register(listener, LISTENER, Interest::READABLE)?;
    let mut connections: Vec<Option<Connection<S>>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let answers = answer.repeat(READY);
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            if event.token() != LISTENER {
                let Token(id) = event.token();
                let Some(connection) = &mut connections[id] else {
                    continue;
                };
                let goes_on = connection.answer(&mut buffer, &answers, answer.len());
                if !goes_on.unwrap_or(false) {
                    connections[id] = None;
                    free.push(id);
                }
                continue;
            }
            loop {
                let mut stream = match accept(listener) {
                    Ok(stream) => stream,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                let id = free.pop().unwrap_or(connections.len());
                let interests = Interest::READABLE | Interest::WRITABLE;
                poll.registry()
                    .register(&mut stream, Token(id), interests)?;
                if id == connections.len() {
                    connections.push(None);
                }
                connections[id] = Some(Connection {
                    stream,
                    tail: Vec::new(),
                    unsent: Vec::new(),
                });
            }
        }
    }
}

impl<S: Stream> Connection<S> {
    /// Answers what has come. Whether the connection goes on.
    fn answer(&mut self, buffer: &mut [u8], answers: &[u8], each: usize) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            let taken = write_some(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..taken);
        }
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let mut heads = ends(&mut self.tail, &buffer[..read]);
            while heads > 0 {
                let now = heads.min(READY);
                self.send(&answers[..now * each])?;
                heads -= now;
            }
            // A short read has emptied the socket; what comes after it has an event of its own.
            if read < buffer.len() {
                return Ok(true);
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let taken = if self.unsent.is_empty() {
            write_some(&mut self.stream, bytes)?
        } else {
            0
        };
        self.unsent.extend_from_slice(&bytes[taken..]);
        Ok(())
    }
}

fn write_some(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.write(&bytes[taken..]) {
            Ok(wrote) => taken += wrote,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// How many heads end in these bytes, some of which may have begun before them.
fn ends(tail: &mut Vec<u8>, bytes: &[u8]) -> usize {
    if tail.is_empty() && bytes.ends_with(END) {
        return memmem::find_iter(bytes, END).count();
    }
    tail.extend_from_slice(bytes);
    let (mut count, mut after) = (0, 0);
    for at in memmem::find_iter(tail, END) {
        (count, after) = (count + 1, at + END.len());
    }
    let keep = (tail.len() - after).min(END.len() - 1);
    tail.drain(..tail.len() - keep);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_is_counted_once_however_it_arrives() {
        let two = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        for piece in 1..=two.len() {
            let mut tail = Vec::new();
            let counts = two.chunks(piece).map(|part| ends(&mut tail, part));
            assert_eq!(counts.sum::<usize>(), 2, "in pieces of {piece}");
        }
    }

    #[test]
    fn an_end_does_not_reach_into_the_next_head() {
        let mut tail = Vec::new();
        let pieces: [(&[u8], usize); 5] = [
            (b"a", 0),
            (b"\r\n\r\n", 1),
            (b"\r\nb", 0),
            (b"\r\n\r", 0),
            (b"\n", 1),
        ];
        for (bytes, heads) in pieces {
            assert_eq!(ends(&mut tail, bytes), heads, "{bytes:?}");
        }
    }
}
