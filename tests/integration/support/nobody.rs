//! An address at which nobody listens.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use super::wait::until;

/// Holds an address without listening there: a port that is only free is taken by another test
/// before long, which then answers.
pub struct Nobody(Socket);

impl Nobody {
    /// Takes the place of whoever listened there.
    pub fn at(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_reuse_address(true).expect("a plain option");
        // Until whoever listened has let go, and no call of another test leaves from there.
        until("the address is free", || {
            socket.bind(&address.into()).is_ok()
        });
        Self(socket)
    }

    /// Anywhere on this machine.
    pub fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn address(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("its address");
        address.as_socket().expect("an internet address")
    }
}
