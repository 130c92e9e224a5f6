//! One request and its answer, in two steps: at once if that can be, else after a wait.
//!
//! A head that is not known from before (`known.rs`) is read by `head.rs` before anything else looks at
//! it: nothing stands between the strict reader and the handler that could understand a request
//! differently.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;

use super::arc_keys::{ArcKeys, Refused};
use super::connection::{Context, End, MAX_EARLY_BYTES, read};
use super::desk::{Counted, Lease};
use super::handler::{self, Outcome};
use super::head::{self, BadHead, Framing, Head, MAX_HEADERS};
use super::reject::Refusal;
use super::wiped::Wiped;
use super::wire;
use crate::authz::Caller;
use crate::authz::guard::Header;
use crate::cache::{Landing, Turn, Waiter};
use crate::clock::UnixMs;
use crate::protocol::{Body, Dialect};

/// How long a caller is held while its token is fetched. The SDKs wait longer than this, and some
/// replay an error for 5 s, so holding costs them less than a quick refusal.
const MAX_WAIT_MS: u64 = 20_000;
/// A client that ends its side within this time of its request has said all it has to say and
/// waits for the answer; one that ends it later has given up. On the wire the two look alike, until
/// something is written to them; no client's patience is this short.
const HALF_CLOSE_MS: u64 = 100;
/// Callers of one worker that may wait unwatched: behind a side that they ended, or behind more bytes
/// than are taken early. They may have left, and hold no descriptor of their own, so they must not
/// take all of our room while the upstream hangs.
const MAX_UNWATCHED: usize = 64;

/// What the first step came to.
pub(super) enum Step {
    /// The answer is in the outbox.
    Answered(Done),
    /// More bytes are needed.
    Incomplete,
    /// The answer takes time.
    Waits(Wait),
}

/// How a request ended for its connection.
#[derive(Clone, Copy)]
pub(super) struct Done {
    /// So many bytes belonged to it.
    pub consumed: usize,
    /// How the connection ends with it.
    pub end: Option<End>,
}

/// What an answer waits for.
pub(super) enum Wait {
    Flight(Waiter),
    /// A key file is to be written.
    Challenge(Arc<ArcKeys>),
}

/// A whole request.
struct Whole<'a> {
    head: Head<'a>,
    headers: [Header<'a>; MAX_HEADERS],
    header_count: usize,
    form: Vec<u8>,
    consumed: usize,
    /// All that was read, and more.
    bytes: &'a [u8],
}

impl<'a> Whole<'a> {
    /// Reads the request at the start of the bytes; `None` if more are needed.
    fn read(bytes: &'a [u8]) -> Result<Option<Self>, BadHead> {
        let mut headers: [Header<'_>; MAX_HEADERS] = [(b"", b""); MAX_HEADERS];
        let Some((head, header_count)) = head::read(bytes, &mut headers)? else {
            return Ok(None);
        };
        let mut form = Vec::new();
        let Some(length) = read_form(&head, &bytes[head.len..], &mut form)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            consumed: head.len + length,
            head,
            headers,
            header_count,
            form,
            bytes,
        }))
    }

    /// Whether it is like most: a GET without a word of a body, on a connection that goes on.
    fn is_plain(&self) -> bool {
        self.head.method == b"GET" && self.head.body == Framing::None && self.head.keep_alive
    }

    /// How the connection ends with an answer.
    fn end(&self, context: &Context) -> Option<End> {
        let is_bare = matches!(self.head.body, Framing::None | Framing::Length(0));
        // What follows a head whose body is not read is no request, and what follows the last
        // answer before a stop may be one.
        if (!is_bare && self.head.method != b"POST") || context.room.is_draining() {
            return Some(End::Refused);
        }
        (!self.head.keep_alive).then_some(End::Plain)
    }

    fn request<'b>(
        &'b self,
        context: &'b Context,
        caller: &'b Caller,
        turn: Turn,
    ) -> handler::Request<'b> {
        handler::Request {
            gate: &context.gate,
            caller,
            method: self.head.method,
            target: self.head.target,
            headers: &self.headers[..self.header_count],
            form: &self.form,
            head: self.is_plain().then(|| &self.bytes[..self.head.len]),
            turn,
        }
    }

    fn refuse(
        &self,
        context: &Context,
        outbox: &mut Wiped,
        refusal: &Refusal,
        dialect: Dialect,
    ) -> Done {
        let start = outbox.len();
        // A form that was refused may have been longer than it said.
        let close = self.end(context).is_some() || self.head.method == b"POST";
        let close = refuse(outbox, context, refusal, dialect, close);
        if self.head.method == b"HEAD" {
            let end = wire::body_start(&outbox[start..]);
            outbox.truncate(start + end);
        }
        Done {
            consumed: self.consumed,
            end: close.then_some(End::Refused),
        }
    }
}

/// Reads the request at the start of the bytes, and answers it at once if it can be.
pub(super) fn begin(
    context: &Context,
    caller: &Caller,
    bytes: &[u8],
    now: UnixMs,
    outbox: &mut Wiped,
) -> Step {
    let mut worker = context.worker.borrow_mut();
    // After a stop, the connection does not go on.
    if !context.room.is_draining()
        && let Some((consumed, known)) =
            handler::recall(&mut worker, &context.gate, caller, bytes, now)
    {
        let close = match known {
            Outcome::Answer(parts) => {
                answer(context, outbox, parts, now, false);
                false
            }
            Outcome::Wait(waiter) => return Step::Waits(Wait::Flight(waiter)),
            Outcome::Challenge(keys) => return Step::Waits(Wait::Challenge(keys)),
            Outcome::Refuse(refusal, dialect) => refuse(outbox, context, &refusal, dialect, false),
        };
        let end = close.then_some(End::Refused);
        return Step::Answered(Done { consumed, end });
    }
    let whole = match Whole::read(bytes) {
        Ok(Some(whole)) => whole,
        Ok(None) => return Step::Incomplete,
        Err(bad) => {
            drop(worker);
            return Step::Answered(turn_away(context, outbox, bad));
        }
    };
    let end = whole.end(context);
    let request = whole.request(context, caller, Turn::First);
    match handler::handle(&mut worker, &request, now) {
        Outcome::Answer(parts) => {
            answer(context, outbox, parts, now, end.is_some());
            let consumed = whole.consumed;
            Step::Answered(Done { consumed, end })
        }
        Outcome::Wait(waiter) => Step::Waits(Wait::Flight(waiter)),
        Outcome::Challenge(keys) => Step::Waits(Wait::Challenge(keys)),
        Outcome::Refuse(refusal, dialect) => {
            Step::Answered(whole.refuse(context, outbox, &refusal, dialect))
        }
    }
}

/// Waits, and answers the request at the start of the bytes, which [`begin`] has read. Bytes of the
/// requests behind it are taken in meanwhile. `None` if its caller hung up.
pub(super) async fn finish<I>(
    io: &mut I,
    context: &Context,
    caller: &Caller,
    bytes: &[u8],
    wait: Wait,
    outbox: &mut Lease,
    early: &mut Lease,
) -> Option<Done>
where
    I: AsyncRead + Unpin,
{
    let whole = Whole::read(bytes).ok().flatten();
    let whole = whole.expect("what was read once is read again");
    let mut waiter = match wait {
        Wait::Flight(waiter) => waiter,
        Wait::Challenge(keys) => {
            let close = whole.end(context).is_some();
            let close = challenge(outbox.buffer(), context, keys, close).await;
            return Some(Done {
                consumed: whole.consumed,
                end: close.then_some(End::Refused),
            });
        }
    };
    let arrived = context.clock.now();
    let deadline = arrived.plus(MAX_WAIT_MS);
    let room = MAX_EARLY_BYTES.saturating_sub(bytes.len() - whole.consumed);
    let mut unwatched = None;
    let mut trouble: Option<Refusal> = None;
    loop {
        let leaving = leave(io, context, arrived, early, room, &mut unwatched);
        // The clock may have been put back meanwhile.
        let patience = deadline.since(context.clock.now()).min(MAX_WAIT_MS);
        let refusal = tokio::select! {
            biased;
            landing = waiter => match landing {
                Landing::Arrived | Landing::Gone => None,
                Landing::Failed(error) => Some(Refusal::Upstream(error)),
                Landing::Lost => Some(Refusal::Lost),
            },
            left = leaving => match left {
                Left::Gone => return None,
                Left::Unseen => Some(Refusal::Full),
            },
            () = tokio::time::sleep(Duration::from_millis(patience)) => Some(Refusal::TimedOut),
        };
        // A forced call that failed leaves the token that was there: that is served.
        let turn = match refusal {
            None => Turn::Again,
            Some(_) => Turn::Last,
        };
        trouble = refusal.or(trouble);
        let now = context.clock.now();
        let request = whole.request(context, caller, turn);
        let (refusal, dialect) =
            match handler::handle(&mut context.worker.borrow_mut(), &request, now) {
                Outcome::Answer(parts) => {
                    // A stop may have come while it waited.
                    let end = whole.end(context);
                    answer(context, outbox.buffer(), parts, now, end.is_some());
                    let consumed = whole.consumed;
                    return Some(Done { consumed, end });
                }
                Outcome::Wait(next) => {
                    waiter = next;
                    continue;
                }
                Outcome::Challenge(_) => unreachable!("only a first turn is challenged"),
                Outcome::Refuse(refusal, dialect) => (refusal, dialect),
            };
        // What it waited for in vain says more than that there is nothing.
        let refusal = trouble.map_or(refusal, |trouble| {
            context.worker.borrow().give_up(&trouble);
            trouble
        });
        return Some(whole.refuse(context, outbox.buffer(), &refusal, dialect));
    }
}

fn answer(context: &Context, outbox: &mut Wiped, parts: Body<'_>, now: UnixMs, close: bool) {
    let room = outbox.room_for(wire::answer_len(parts));
    wire::answer(room, parts, &context.desk.date(now), close);
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
    early: &mut Lease,
    room: usize,
    unwatched: &mut Option<Counted<'a>>,
) -> Left
where
    I: AsyncRead + Unpin,
{
    while unwatched.is_none() {
        if early.len() < room {
            match read(io, &context.desk, early).await {
                Ok(0) if context.clock.now().since(arrived) <= HALF_CLOSE_MS => {}
                Ok(0) | Err(_) => return Left::Gone,
                Ok(_) => continue,
            }
        }
        *unwatched = context.desk.unwatched.one_more_of(MAX_UNWATCHED);
        if unwatched.is_none() {
            return Left::Unseen;
        }
    }
    std::future::pending().await
}

/// Ends the connection behind what is no request. As no byte of it is taken, none is read again.
fn turn_away(context: &Context, outbox: &mut Wiped, bad: BadHead) -> Done {
    let refusal = Refusal::BadHead(bad);
    context.worker.borrow().turn_away(&refusal);
    refuse(
        outbox,
        context,
        &refusal,
        context.gate.first_dialect(),
        true,
    );
    Done {
        consumed: 0,
        end: Some(End::Refused),
    }
}

/// Turns away a request that did not arrive whole in time.
pub(super) fn time_out(context: &Context, outbox: &mut Wiped) {
    turn_away(context, outbox, BadHead::TooSlow);
}

fn refuse(
    outbox: &mut Wiped,
    context: &Context,
    refusal: &Refusal,
    dialect: Dialect,
    close: bool,
) -> bool {
    let rejection = refusal.render(dialect, fastrand::u128(..));
    let close = close || rejection.close;
    let date = context.desk.date(context.clock.now());
    let room = outbox.room_for(1024 + rejection.body.len());
    wire::rejection(room, &rejection, None, &date, close);
    close
}

/// Arc's first answer: where the key file is. The file is written off the serving thread.
async fn challenge(outbox: &mut Wiped, context: &Context, keys: Arc<ArcKeys>, close: bool) -> bool {
    let now = context.clock.now();
    let issued = tokio::task::spawn_blocking(move || ArcKeys::issue(&keys, now)).await;
    let refusal = match issued {
        Ok(Ok(challenge)) => {
            context.worker.borrow().turn_away(&Refusal::Challenged);
            let realm = format!("Basic realm={}", challenge.path.display());
            let rejection = Refusal::Challenged.render(Dialect::Arc, 0);
            let date = context.desk.date(now);
            let room = outbox.room_for(1024 + realm.len() + rejection.body.len());
            wire::rejection(room, &rejection, Some(&realm), &date, close);
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
