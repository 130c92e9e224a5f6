//! One connection without a socket: the very loop that callers meet, on any stream.
//!
//! For benches, which want to count what the loop does and not what the kernel does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::connection::{self, Context};
use super::desk::Desk;
use super::handler::{Gate, Worker};
use crate::authz::Caller;
use crate::clock::Clock;

/// Serves one connection until it closes.
pub async fn serve<I>(io: I, caller: Caller, worker: Worker, gate: Gate, clock: Clock)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (_never, draining) = watch::channel(false);
    let context = Context {
        worker: Rc::new(RefCell::new(worker)),
        gate: Rc::new(gate),
        clock,
        draining,
        desk: Rc::new(Desk::default()),
    };
    connection::serve(io, caller, context, Duration::ZERO).await;
}
