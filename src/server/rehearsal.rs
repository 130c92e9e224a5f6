//! One connection without a socket: the very loop that callers meet, on any stream.
//!
//! For benches, which want to count what the loop does and not what the kernel does.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, Context};
use super::desk::Desk;
use super::handler::{Gate, Worker};
use super::room::{Room, Seat};
use super::steering::Loads;
use crate::authz::Caller;
use crate::clock::Clock;
use crate::telemetry::metrics::Metrics;

/// Serves one connection until it closes.
pub async fn serve<I>(io: I, caller: Caller, worker: Worker, gate: Gate, clock: Clock)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let room = Rc::new(Room::new(0, Loads::new(1, 1), Metrics::new()));
    let seat = Seat::take(&room);
    let context = Context {
        worker: Rc::new(RefCell::new(worker)),
        gate,
        clock,
        room,
        desk: Rc::new(Desk::default()),
        tls: None,
    };
    Connection::new(io, caller, Rc::new(context), seat).await;
}
