//! The connection loop: bytes in, answers out.
//!
//! What can be answered at once is read into and written from memory that all connections of the
//! worker share, in one go: an idle connection holds no buffer and no timer. What cannot (a request
//! that has not arrived whole, a token that is not there yet, a client that takes nothing) goes
//! [`on`](go_on) with buffers and deadlines of its own, until the connection is idle again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Wakeup, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::TlsAcceptor;

use super::desk::{Desk, Lease, READ_BYTES, Scratch};
use super::exchange::{self, Done, Step, Wait};
use super::handler::{Gate, Worker};
use super::room::{Room, Seat};
use super::wiped::Wiped;
use crate::authz::Caller;
use crate::clock::Clock;

/// A head and its body must be complete within this time of their first byte.
const REQUEST_DEADLINE_MS: u64 = 5000;
/// A client that has not taken what is written to it, a few answers, by then is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// TLS says goodbye; to a client that takes nothing, not for long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);
/// How long, and for how many bytes, a refused connection is read to its end.
const LINGER: Duration = Duration::from_millis(500);
const MAX_LINGER_BYTES: usize = 256 * 1024;
/// Answers gathered before they are written: a pipeline that is longer waits.
const MAX_PIPELINED: usize = 16;
/// What is taken at once: a pipeline of requests as SDKs send them. What is behind them waits in
/// the kernel, which holds it anyway.
const FULL: Share = Share {
    read_bytes: 8 * 1024,
    outbox_bytes: 64 * 1024,
};
/// The same while more than a few clients take nothing of what is written to them: each of them makes
/// us hold no more than this and one answer.
const SMALL: Share = Share {
    read_bytes: 4 * 1024,
    outbox_bytes: 4 * 1024,
};
/// So many of a worker's clients may do that without a difference to others.
const MAX_SLOW_CLIENTS: usize = 4;
/// Bytes of later requests that are read while an earlier one waits for its token.
pub(super) const MAX_EARLY_BYTES: usize = READ_BYTES;

/// How much one connection may take at once.
#[derive(Clone, Copy)]
struct Share {
    read_bytes: usize,
    /// Answers are gathered until they have so many bytes.
    outbox_bytes: usize,
}

impl Share {
    fn of(desk: &Desk) -> Self {
        if desk.slow_clients.get() > MAX_SLOW_CLIENTS {
            SMALL
        } else {
            FULL
        }
    }
}

/// What a connection needs beside its socket.
pub(super) struct Context {
    pub worker: Rc<RefCell<Worker>>,
    pub gate: Gate,
    pub clock: Clock,
    pub room: Rc<Room>,
    pub desk: Rc<Desk>,
    pub tls: Option<TlsAcceptor>,
}

/// How a connection comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All that was sent has been read.
    Plain,
    /// By an answer, perhaps before all was read.
    Refused,
}

/// Where what can be done at once ends.
enum Stop {
    End(End),
    Rest(Box<Rest>),
}

/// What is left to do.
struct Rest {
    /// Answers that the client has not taken; `None` if it has taken all.
    outbox: Option<Lease>,
    /// How the connection ends with them.
    end: Option<End>,
    /// Bytes that are not answered.
    inbox: Lease,
    /// What the first request in them waits for.
    wait: Option<Wait>,
}

/// What became of requests that came together.
#[derive(Default)]
struct Batch {
    /// So many bytes are answered.
    consumed: usize,
    /// The next is not here as a whole.
    incomplete: bool,
    /// What the next waits for.
    wait: Option<Wait>,
    end: Option<End>,
}

/// One connection, served until it closes. Once the server drains, each answer ends its connection.
pub(super) struct Connection<I> {
    /// `None` while `rest` has it.
    io: Option<I>,
    caller: Caller,
    context: Rc<Context>,
    seat: Seat,
    /// Apart, as all that an idle connection need not have room for.
    rest: Option<Pin<Box<dyn Future<Output = Option<I>>>>>,
}

impl<I> Connection<I> {
    pub fn new(io: I, caller: Caller, context: Rc<Context>, seat: Seat) -> Self {
        Self {
            io: Some(io),
            caller,
            context,
            seat,
            rest: None,
        }
    }
}

impl<I> Future for Connection<I>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, wakeup: &mut Wakeup<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            if let Some(rest) = &mut this.rest {
                this.io = ready!(rest.as_mut().poll(wakeup));
                this.rest = None;
            }
            let Some(io) = &mut this.io else {
                return Poll::Ready(());
            };
            let stop = ready!(poll(io, wakeup, &this.caller, &this.context, &this.seat));
            // Errors are the client's: it hung up; its socket is just closed.
            if let (Ok(stop), Some(io)) = (stop, this.io.take()) {
                // So it is if nothing is left to say, but TLS says goodbye.
                if !matches!(stop, Stop::End(End::Plain)) || this.context.tls.is_some() {
                    let (caller, context) = (this.caller.clone(), Rc::clone(&this.context));
                    this.rest = Some(Box::pin(finish(io, caller, context, stop)));
                }
            }
        }
    }
}

/// Does what is left to do. Gives the socket back if the connection goes on after that.
async fn finish<I>(mut io: I, caller: Caller, context: Rc<Context>, stop: Stop) -> Option<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let end = match stop {
        Stop::End(end) => end,
        // An error is the client's here too: it takes no bytes.
        Stop::Rest(rest) => match go_on(&mut io, &caller, &context, *rest).await {
            Ok(None) => return Some(io),
            Ok(Some(end)) => end,
            Err(_) => return None,
        },
    };
    if end == End::Refused || context.tls.is_some() {
        close(&mut io, end, &context.desk).await;
    }
    None
}

async fn close<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I, end: End, desk: &Rc<Desk>) {
    let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, io.shutdown()).await;
    if end == End::Refused {
        linger(io, desk).await;
    }
}

/// Closing a socket with unread bytes resets the connection, and a reset can overtake the answer.
/// So what still comes is read and thrown away, for a while.
async fn linger<I: AsyncRead + Unpin>(io: &mut I, desk: &Rc<Desk>) {
    let rest = async {
        let mut junk = Lease::new(desk);
        let mut left = MAX_LINGER_BYTES;
        while left > 0 {
            match read(io, desk, &mut junk).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
            junk.clear();
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Answers what comes, until something cannot be answered at once.
fn poll<I>(
    io: &mut I,
    wakeup: &mut Wakeup<'_>,
    caller: &Caller,
    context: &Context,
    seat: &Seat,
) -> Poll<io::Result<Stop>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut scratch = context.desk.scratch();
    loop {
        let share = Share::of(&context.desk);
        match poll_read(io, wakeup, &mut scratch, share.read_bytes)? {
            Poll::Ready(0) => return Poll::Ready(Ok(Stop::End(End::Plain))),
            Poll::Ready(_) => {}
            Poll::Pending if seat.rest(wakeup) => return Poll::Pending,
            Poll::Pending => return Poll::Ready(Ok(Stop::End(End::Plain))),
        }
        seat.work();
        if let Some(stop) = answer_at_once(io, wakeup, caller, context, &scratch, share)? {
            return Poll::Ready(Ok(stop));
        }
    }
}

fn answer_at_once<I: AsyncWrite + Unpin>(
    io: &mut I,
    wakeup: &mut Wakeup<'_>,
    caller: &Caller,
    context: &Context,
    bytes: &[u8],
    share: Share,
) -> io::Result<Option<Stop>> {
    let desk = &context.desk;
    let mut outbox = desk.outbox();
    let batch = answer_all(caller, context, bytes, &mut outbox, share);
    let (written, flushed) = write_at_once(io, wakeup, &outbox)?;
    if !outbox.is_empty() {
        desk.answered.set(true);
    }
    let (unsent, unread) = (&outbox[written..], &bytes[batch.consumed..]);
    let taken = flushed && unsent.is_empty();
    if taken {
        match batch.end {
            None if unread.is_empty() => return Ok(None),
            None => {}
            Some(end) => return Ok(Some(Stop::End(end))),
        }
    }
    let mut rest = Rest {
        outbox: None,
        end: batch.end,
        inbox: Lease::new(desk),
        wait: batch.wait,
    };
    rest.inbox.extend(unread);
    if !taken {
        rest.outbox.insert(Lease::new(desk)).extend(unsent);
    }
    Ok(Some(Stop::Rest(Box::new(rest))))
}

/// Answers the whole requests, in their order, up to the first that has to wait.
fn answer_all(
    caller: &Caller,
    context: &Context,
    bytes: &[u8],
    outbox: &mut Wiped,
    share: Share,
) -> Batch {
    let now = context.clock.now();
    let mut batch = Batch::default();
    for _ in 0..MAX_PIPELINED {
        if batch.consumed == bytes.len() || outbox.len() >= share.outbox_bytes {
            break;
        }
        match exchange::begin(context, caller, &bytes[batch.consumed..], now, outbox) {
            Step::Answered(done) => {
                batch.consumed += done.consumed;
                batch.end = done.end;
            }
            Step::Incomplete => batch.incomplete = true,
            Step::Waits(wait) => batch.wait = Some(wait),
        }
        if batch.incomplete || batch.wait.is_some() || batch.end.is_some() {
            break;
        }
    }
    batch
}

/// Does what takes time, with buffers and deadlines of its own. `None` once the connection is idle.
async fn go_on<I>(
    io: &mut I,
    caller: &Caller,
    context: &Context,
    rest: Rest,
) -> io::Result<Option<End>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let desk = &context.desk;
    let Rest {
        mut outbox,
        mut end,
        mut inbox,
        mut wait,
    } = rest;
    let mut first_byte_at = context.clock.now();
    loop {
        if let Some(outbox) = outbox.take() {
            write(io, desk, &outbox).await?;
            if !outbox.is_empty() {
                desk.answered.set(true);
            }
            first_byte_at = context.clock.now();
        }
        if end.is_some() || inbox.is_empty() {
            return Ok(end);
        }
        let mut answers = Lease::new(desk);
        let batch = match wait.take() {
            None => {
                let into = answers.buffer();
                answer_all(caller, context, &inbox, into, SMALL)
            }
            Some(wait) => {
                let mut early = Lease::new(desk);
                let (from, into) = (&mut early, &mut answers);
                let done = exchange::finish(io, context, caller, &inbox, wait, into, from).await;
                inbox.extend(&early);
                let Some(Done { consumed, end }) = done else {
                    return Ok(Some(End::Plain));
                };
                Batch {
                    consumed,
                    end,
                    ..Batch::default()
                }
            }
        };
        inbox.consume(batch.consumed);
        (end, wait) = (batch.end, batch.wait);
        if !answers.is_empty() {
            outbox = Some(answers);
        } else if batch.incomplete {
            let spent = context.clock.now().since(first_byte_at);
            let left = Duration::from_millis(REQUEST_DEADLINE_MS.saturating_sub(spent));
            match tokio::time::timeout(left, read(io, desk, &mut inbox)).await {
                Ok(Ok(0)) => return Ok(Some(End::Plain)),
                Ok(read) => drop(read?),
                Err(_) => {
                    exchange::time_out(context, outbox.insert(Lease::new(desk)).buffer());
                    end = Some(End::Refused);
                }
            }
        }
    }
}

/// Writes and flushes: TLS keeps records back until it is told.
async fn write<I: AsyncWrite + Unpin>(io: &mut I, desk: &Desk, bytes: &[u8]) -> io::Result<()> {
    let _slow = desk.slow_clients.one_more();
    let writing = async {
        io.write_all(bytes).await?;
        io.flush().await
    };
    tokio::time::timeout(WRITE_DEADLINE, writing).await?
}

/// Writes what the client takes now: how many bytes, and whether they have left.
fn write_at_once<I: AsyncWrite + Unpin>(
    io: &mut I,
    wakeup: &mut Wakeup<'_>,
    bytes: &[u8],
) -> io::Result<(usize, bool)> {
    let mut written = 0;
    while written < bytes.len() {
        match Pin::new(&mut *io).poll_write(wakeup, &bytes[written..])? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(count) => written += count,
            Poll::Pending => return Ok((written, false)),
        }
    }
    let flushed = bytes.is_empty() || Pin::new(io).poll_flush(wakeup)?.is_ready();
    Ok((written, flushed))
}

/// Adds what there is to the bytes. Nothing is held while waiting.
pub(super) async fn read<I: AsyncRead + Unpin>(
    io: &mut I,
    desk: &Desk,
    into: &mut Lease,
) -> io::Result<usize> {
    poll_fn(|wakeup| {
        let mut scratch = desk.scratch();
        let most = into.len().clamp(SMALL.read_bytes, READ_BYTES);
        let count = ready!(poll_read(io, wakeup, &mut scratch, most))?;
        into.extend(&scratch);
        Poll::Ready(Ok(count))
    })
    .await
}

fn poll_read<I: AsyncRead + Unpin>(
    io: &mut I,
    wakeup: &mut Wakeup<'_>,
    into: &mut Scratch<'_>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(into.empty(most));
    ready!(Pin::new(io).poll_read(wakeup, &mut buffer))?;
    let count = buffer.filled().len();
    into.filled(count);
    Poll::Ready(Ok(count))
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::task::Waker;

    use tokio::net::TcpStream;

    use super::super::fixtures::{driver, gate, live};
    use super::super::steering::Loads;
    use super::*;
    use crate::cache::Cache;
    use crate::protocol::Dialect;
    use crate::refresh::Driver;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn an_idle_connection_takes_little() {
        // Beside it there are the runtime's own records of the task and of the socket.
        assert!(size_of::<Connection<TcpStream>>() <= 112);
    }

    fn context() -> (Context, Driver) {
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let cache = Arc::new(Cache::new());
        let driver = driver(&cache, &metrics, &clock);
        let worker = Worker::new(cache, live(), driver.handle(), metrics.clone());
        let context = Context {
            worker: Rc::new(RefCell::new(worker)),
            gate: gate(vec![Dialect::Imds]),
            clock,
            room: Rc::new(Room::new(0, Loads::new(1, 10), metrics)),
            desk: Rc::default(),
            tls: None,
        };
        (context, driver)
    }

    #[test]
    fn half_a_head_is_no_answer_and_a_refusal_is() {
        let (context, driver) = context();
        let (mut io, _client) = tokio::io::duplex(4096);
        let mut wakeup = Wakeup::from_waker(Waker::noop());
        let caller = Caller::Tcp([127, 0, 0, 1].into());
        let mut answered = |bytes: &[u8]| {
            let stop = answer_at_once(&mut io, &mut wakeup, &caller, &context, bytes, FULL);
            assert!(stop.is_ok());
            context.desk.has_answered()
        };
        assert!(!answered(b"GET / HT"));
        assert!(answered(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        driver.stop();
    }

    /// A socket that panics when it is written to.
    struct Broken(&'static [u8]);

    impl AsyncRead for Broken {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Wakeup<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            into.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Wakeup<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            panic!("asked for")
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Wakeup<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Wakeup<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_panic_leaves_nothing_of_a_request_or_its_answer_to_the_next_connection() {
        let (context, driver) = context();
        let seat = Seat::take(&context.room);
        let caller = Caller::Tcp([127, 0, 0, 1].into());
        let mut io = Broken(b"POST /x HTTP/1.1\r\nHost: localhost\r\nSecret: hunter2\r\n\r\n");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut wakeup = Wakeup::from_waker(Waker::noop());
            let _ = poll(&mut io, &mut wakeup, &caller, &context, &seat);
        }));
        assert!(panicked.is_err());
        driver.stop();
        let mut scratch = context.desk.scratch();
        assert!(scratch.empty(READ_BYTES).iter().all(|byte| *byte == 0));
        assert!(context.desk.outbox().is_empty());
    }
}
