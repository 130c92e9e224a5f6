//! The connection loop: bytes in, heads checked, answers out.
//!
//! Every head is read by `head.rs` before anything else looks at it, and token requests are
//! answered here: nothing stands between the strict reader and the handler that could understand
//! a request differently. An idle connection holds no buffer: bytes are read into one that all
//! connections of the worker share and copied when there are any.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Wakeup, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::watch;
use zeroize::Zeroize as _;

use super::arc_keys::{ArcKeys, Refused};
use super::desk::{Desk, Lease, READ_BYTES, Unwatched};
use super::handler::{self, Gate, Outcome, Worker};
use super::head::{self, BadHead, Framing, Head, MAX_HEADERS};
use super::reject::Refusal;
use super::wire;
use crate::authz::Caller;
use crate::authz::guard::Header;
use crate::cache::{Landing, Turn, Waiter};
use crate::clock::{Clock, UnixMs};
use crate::protocol::Dialect;

/// How long a caller is held while its token is fetched. The SDKs wait longer than this, and some
/// replay an error for 5 s, so holding costs them less than a quick refusal.
const MAX_WAIT_MS: u64 = 20_000;
/// A head and its body must be complete within this time of their first byte.
const REQUEST_DEADLINE_MS: u64 = 5000;
/// An idle connection is kept this long; clients' pools let go of theirs sooner or notice.
const IDLE_DEADLINE_MS: u64 = 120_000;
/// A client that has not taken what is written to it, a few answers, by then is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// TLS says goodbye; to a client that takes nothing, not for long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);
/// How long, and for how many bytes, a refused connection is read to its end.
const LINGER: Duration = Duration::from_millis(500);
const MAX_LINGER_BYTES: usize = 256 * 1024;
/// Answers gathered before they are written: a pipeline that is longer waits.
const MAX_PIPELINED: usize = 16;
/// And bytes of them: a client that takes nothing makes us hold no more than this and one answer.
const MAX_OUTBOX_BYTES: usize = 4 * 1024;
/// Bytes taken at once as long as there are no more of them: any usual request, or a few. What is
/// behind them waits in the kernel, which holds it anyway.
const FIRST_READ_BYTES: usize = 4 * 1024;
/// Bytes of later requests that are read while an earlier one waits for its token.
const MAX_EARLY_BYTES: usize = READ_BYTES;
/// A client that ends its side within this time of its request has said all it has to say and
/// waits for the answer; one that ends it later has given up. On the wire the two look alike, until
/// something is written to them; no client's patience is this short.
const HALF_CLOSE_MS: u64 = 100;

/// What a connection needs beside its socket.
#[derive(Clone)]
pub(super) struct Context {
    pub worker: Rc<RefCell<Worker>>,
    pub gate: Rc<Gate>,
    pub clock: Clock,
    /// Becomes `true` when the server drains.
    pub draining: watch::Receiver<bool>,
    pub desk: Rc<Desk>,
}

/// How a request ended for its connection.
enum Done {
    /// The answer is in the outbox; so many bytes of the inbox belonged to the request.
    Answered { consumed: usize, close: bool },
    /// More bytes are needed.
    Incomplete,
    /// The caller hung up while it waited.
    HungUp,
}

/// Serves one connection until it closes. Once the server drains, each answer ends its connection,
/// and one that is still idle after the last call is closed.
pub(super) async fn serve<I>(mut io: I, caller: Caller, context: Context, last_call: Duration)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    // Errors are the client's: it hung up, or takes no bytes; its socket is just closed.
    let Ok(ended) = run(&mut io, &caller, &context, last_call).await else {
        return;
    };
    let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, io.shutdown()).await;
    if ended == End::Refused {
        linger(&mut io, &context.desk).await;
    }
}

/// How a connection came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing was left to read.
    Plain,
    /// By an answer, perhaps before all of the request was read.
    Refused,
}

/// Closing a socket with unread bytes resets the connection, and a reset can overtake the answer.
/// So what still comes is read and thrown away, for a while.
async fn linger<I: AsyncRead + Unpin>(io: &mut I, desk: &Desk) {
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

async fn run<I>(
    io: &mut I,
    caller: &Caller,
    context: &Context,
    last_call: Duration,
) -> io::Result<End>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let desk = &*context.desk;
    let mut inbox = Lease::new(desk);
    let mut first_byte_at = UnixMs(0);
    loop {
        if inbox.bytes.is_empty() {
            inbox.clear();
            if !idle(io, context, last_call, &mut inbox).await? {
                return Ok(End::Plain);
            }
            first_byte_at = context.clock.now();
        }
        let mut outbox = Lease::new(desk);
        // Boxed, so that an idle connection does not hold the room that this needs.
        let answering = Box::pin(answer_all(io, caller, context, &mut inbox, &mut outbox));
        let (more, close) = answering.await;
        if !outbox.bytes.is_empty() {
            write(io, &outbox.bytes).await?;
            desk.answered.set(true);
            first_byte_at = context.clock.now();
        }
        drop(outbox);
        if close {
            return Ok(End::Refused);
        }
        if more {
            let spent = context.clock.now().since(first_byte_at);
            let left = Duration::from_millis(REQUEST_DEADLINE_MS.saturating_sub(spent));
            match tokio::time::timeout(left, read(io, desk, &mut inbox)).await {
                Ok(Ok(0)) => return Ok(End::Plain),
                Ok(read) => drop(read?),
                Err(_) => {
                    let mut outbox = Lease::new(desk);
                    turn_away(context, &mut outbox, BadHead::TooSlow);
                    write(io, &outbox.bytes).await?;
                    return Ok(End::Refused);
                }
            }
        }
    }
}

/// Writes and flushes: TLS keeps records back until it is told.
async fn write<I: AsyncWrite + Unpin>(io: &mut I, bytes: &[u8]) -> io::Result<()> {
    let writing = async {
        io.write_all(bytes).await?;
        io.flush().await
    };
    tokio::time::timeout(WRITE_DEADLINE, writing).await?
}

/// Waits for the first bytes of a request; `false` when the connection is over.
async fn idle<I>(
    io: &mut I,
    context: &Context,
    last_call: Duration,
    into: &mut Lease<'_>,
) -> io::Result<bool>
where
    I: AsyncRead + Unpin,
{
    let mut draining = context.draining.clone();
    let over = async {
        let _ = draining.wait_for(|on| *on).await;
        tokio::time::sleep(last_call).await;
    };
    tokio::select! {
        biased;
        read = read(io, &context.desk, into) => Ok(read? > 0),
        () = over => Ok(false),
        () = tokio::time::sleep(Duration::from_millis(IDLE_DEADLINE_MS)) => Ok(false),
    }
}

/// Reads what there is into the worker's scratch and copies it. Nothing is held while waiting.
async fn read<I: AsyncRead + Unpin>(
    io: &mut I,
    desk: &Desk,
    into: &mut Lease<'_>,
) -> io::Result<usize> {
    poll_fn(|wakeup| poll_read(io, wakeup, desk, into)).await
}

fn poll_read<I: AsyncRead + Unpin>(
    io: &mut I,
    wakeup: &mut Wakeup<'_>,
    desk: &Desk,
    into: &mut Lease<'_>,
) -> Poll<io::Result<usize>> {
    let mut scratch = desk.scratch.borrow_mut();
    let most = into.bytes.len().clamp(FIRST_READ_BYTES, READ_BYTES);
    let mut buffer = ReadBuf::new(&mut scratch[..most]);
    match Pin::new(io).poll_read(wakeup, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => {
            into.extend(buffer.filled());
            let count = buffer.filled().len();
            scratch[..count].zeroize();
            Poll::Ready(Ok(count))
        }
    }
}

/// Answers the whole requests in the inbox, in order, into the outbox. Says whether more bytes are
/// needed to go on, and whether the connection ends.
async fn answer_all<I>(
    io: &mut I,
    caller: &Caller,
    context: &Context,
    inbox: &mut Lease<'_>,
    outbox: &mut Lease<'_>,
) -> (bool, bool)
where
    I: AsyncRead + Unpin,
{
    let mut at = 0;
    for _ in 0..MAX_PIPELINED {
        if at == inbox.bytes.len() || outbox.bytes.len() >= MAX_OUTBOX_BYTES {
            break;
        }
        let mut early = Lease::new(&context.desk);
        let done = answer(io, caller, context, &inbox.bytes[at..], outbox, &mut early).await;
        inbox.extend(&early.bytes);
        match done {
            Done::Answered { close: true, .. } | Done::HungUp => return (false, true),
            Done::Answered {
                consumed,
                close: false,
            } => at += consumed,
            Done::Incomplete => {
                inbox.bytes.drain(..at);
                return (true, false);
            }
        }
    }
    inbox.bytes.drain(..at);
    (false, false)
}

async fn answer<I>(
    io: &mut I,
    caller: &Caller,
    context: &Context,
    bytes: &[u8],
    outbox: &mut Lease<'_>,
    early: &mut Lease<'_>,
) -> Done
where
    I: AsyncRead + Unpin,
{
    let mut headers: [Header<'_>; MAX_HEADERS] = [(b"", b""); MAX_HEADERS];
    let (head, count) = match head::read(bytes, &mut headers) {
        Ok(Some(found)) => found,
        Ok(None) => return Done::Incomplete,
        Err(bad) => return turn_away(context, outbox, bad),
    };
    let mut form = Vec::new();
    let consumed = match read_form(&head, &bytes[head.len..], &mut form) {
        Ok(Some(length)) => head.len + length,
        Ok(None) => return Done::Incomplete,
        Err(bad) => return turn_away(context, outbox, bad),
    };
    // What follows the head of a request whose body is not read is no request.
    let body_unread =
        head.method != b"POST" && !matches!(head.body, Framing::None | Framing::Length(0));
    let ends = !head.keep_alive || body_unread;
    let mut request = handler::Request {
        gate: &context.gate,
        caller,
        method: head.method,
        target: head.target,
        headers: &headers[..count],
        form: &form,
        turn: Turn::First,
    };
    let arrived = context.clock.now();
    let deadline = arrived.plus(MAX_WAIT_MS);
    let mut unwatched = None;
    let mut trouble: Option<Refusal> = None;
    loop {
        let now = context.clock.now();
        // A stop may have come while it waited.
        let close = ends || *context.draining.borrow();
        let waiter = match ask(context, &request, now, outbox, close) {
            Next::Answered => return Done::Answered { consumed, close },
            Next::Refuse(refusal, dialect) => {
                // What it waited for in vain says more than that there is nothing.
                let refusal = trouble.map_or(refusal, |trouble| {
                    context.worker.borrow().give_up(&trouble);
                    trouble
                });
                let start = outbox.bytes.len();
                // A form that was refused may have been longer than it said.
                let close = close || head.method == b"POST";
                let close = refuse(outbox, context, &refusal, dialect, close);
                if head.method == b"HEAD" {
                    wire::cut_body(&mut outbox.bytes, start);
                }
                return Done::Answered { consumed, close };
            }
            Next::Challenge(keys) => {
                let close = challenge(outbox, context, keys, close).await;
                return Done::Answered { consumed, close };
            }
            Next::Wait(waiter) => waiter,
        };
        let room = MAX_EARLY_BYTES.saturating_sub(bytes.len() - consumed);
        let leaving = leave(io, context, arrived, early, room, &mut unwatched);
        // The clock may have been put back meanwhile.
        let patience = Duration::from_millis(deadline.since(now).min(MAX_WAIT_MS));
        let refusal = tokio::select! {
            biased;
            landing = waiter => match landing {
                Landing::Arrived | Landing::Gone => {
                    request.turn = Turn::Again;
                    continue;
                }
                Landing::Failed(error) => Refusal::Upstream(error),
                Landing::Lost => Refusal::Lost,
            },
            left = leaving => match left {
                Left::Gone => return Done::HungUp,
                Left::Unseen => Refusal::Full,
            },
            () = tokio::time::sleep(patience) => Refusal::TimedOut,
        };
        // A forced call that failed leaves the token that was there: that is served.
        request.turn = Turn::Last;
        trouble = Some(refusal);
    }
}

/// What the handler said, without its hold on the worker.
enum Next {
    /// The answer is in the outbox.
    Answered,
    Wait(Waiter),
    Challenge(Arc<ArcKeys>),
    Refuse(Refusal, Dialect),
}

/// Asks the handler. The worker is held for this call only, never while anybody waits.
fn ask(
    context: &Context,
    request: &handler::Request<'_>,
    now: UnixMs,
    outbox: &mut Lease<'_>,
    close: bool,
) -> Next {
    match handler::handle(&mut context.worker.borrow_mut(), request, now) {
        Outcome::Answer(parts) => {
            outbox.reserve(wire::answer_len(parts));
            wire::answer(&mut outbox.bytes, parts, &context.desk.date(now), close);
            Next::Answered
        }
        Outcome::Wait(waiter) => Next::Wait(waiter),
        Outcome::Challenge(keys) => Next::Challenge(keys),
        Outcome::Refuse(refusal, dialect) => Next::Refuse(refusal, dialect),
    }
}

/// The body of a POST, as far as it has arrived: how many bytes it takes.
fn read_form(head: &Head<'_>, rest: &[u8], form: &mut Vec<u8>) -> Result<Option<usize>, BadHead> {
    if head.method != b"POST" {
        return Ok(Some(0));
    }
    match head.body {
        // Refused by the handler, if the path takes a POST at all.
        Framing::None => Ok(Some(0)),
        Framing::Chunked => head::read_chunks(rest, form),
        Framing::Length(length) => Ok(rest.get(..length).map(|body| {
            form.extend_from_slice(body);
            length
        })),
    }
}

/// Why a caller is waited for no longer.
enum Left {
    /// It has left.
    Gone,
    /// It may have, and too many like it wait already.
    Unseen,
}

/// Over once the caller has left; bytes of its next requests are taken in meanwhile.
async fn leave<'a, I>(
    io: &mut I,
    context: &'a Context,
    arrived: UnixMs,
    early: &mut Lease<'_>,
    room: usize,
    unwatched: &mut Option<Unwatched<'a>>,
) -> Left
where
    I: AsyncRead + Unpin,
{
    while unwatched.is_none() {
        if early.bytes.len() < room {
            match read(io, &context.desk, early).await {
                Ok(0) if context.clock.now().since(arrived) <= HALF_CLOSE_MS => {}
                Ok(0) | Err(_) => return Left::Gone,
                Ok(_) => continue,
            }
        }
        *unwatched = Unwatched::take(&context.desk);
        if unwatched.is_none() {
            return Left::Unseen;
        }
    }
    std::future::pending().await
}

fn turn_away(context: &Context, outbox: &mut Lease<'_>, bad: BadHead) -> Done {
    let refusal = Refusal::BadHead(bad);
    context.worker.borrow().turn_away(&refusal);
    refuse(
        outbox,
        context,
        &refusal,
        context.gate.first_dialect(),
        true,
    );
    Done::Answered {
        consumed: 0,
        close: true,
    }
}

fn refuse(
    outbox: &mut Lease<'_>,
    context: &Context,
    refusal: &Refusal,
    dialect: Dialect,
    close: bool,
) -> bool {
    let rejection = refusal.render(dialect, fastrand::u128(..));
    let close = close || rejection.close;
    let date = context.desk.date(context.clock.now());
    outbox.reserve(1024 + rejection.body.len());
    wire::rejection(&mut outbox.bytes, &rejection, None, &date, close);
    close
}

/// Arc's first answer: where the key file is. The file is written off the serving thread.
async fn challenge(
    outbox: &mut Lease<'_>,
    context: &Context,
    keys: Arc<ArcKeys>,
    close: bool,
) -> bool {
    let now = context.clock.now();
    let issued = tokio::task::spawn_blocking(move || ArcKeys::issue(&keys, now)).await;
    let refusal = match issued {
        Ok(Ok(challenge)) => {
            context.worker.borrow().turn_away(&Refusal::Challenged);
            let realm = format!("Basic realm={}", challenge.path.display());
            let rejection = Refusal::Challenged.render(Dialect::Arc, 0);
            let date = context.desk.date(now);
            outbox.reserve(1024 + realm.len() + rejection.body.len());
            wire::rejection(&mut outbox.bytes, &rejection, Some(&realm), &date, close);
            return close;
        }
        Ok(Err(Refused::TooMany)) => Refusal::Challenges,
        Ok(Err(error)) => {
            tracing::error!(%error, "no challenge could be made");
            Refusal::Lost
        }
        Err(_) => Refusal::Lost,
    };
    context.worker.borrow().turn_away(&refusal);
    refuse(outbox, context, &refusal, Dialect::Arc, close)
}
