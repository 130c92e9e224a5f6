//! Listening sockets: bound early, so that a taken port is said at once; opened late, when there is
//! something to serve.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::settings::{Address, Listener};
use super::steering::Cpus;

/// Connections the kernel holds until a worker accepts them; a start-up herd fits.
const BACKLOG: i32 = 4096;

/// A socket cannot be had. Says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error("{address} is already in use: is another Foretoken running?")]
    InUse {
        /// What was asked for.
        address: String,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// What was asked for.
        address: String,
        /// Why not.
        error: io::Error,
    },
}

/// One listener's sockets, one for each worker, bound and not yet listening.
pub struct Bound {
    /// The settings it was bound by.
    pub listener: Listener,
    sockets: Sockets,
}

enum Sockets {
    Tcp(Vec<Socket>),
    Unix(UnixListener),
}

/// A socket that accepts.
pub(super) enum Open {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Binds a listener for `workers` workers; `None` where it is optional and the machine has no
    /// such address family.
    ///
    /// # Errors
    /// The address is taken or cannot be had.
    pub fn bind(listener: &Listener, workers: usize) -> Result<Option<Self>, BindError> {
        let bound = match &listener.address {
            Address::Tcp(address) => bind_tcp(*address, workers).map(Sockets::Tcp),
            Address::Unix(path) => bind_unix(path, 0o660).map(Sockets::Unix),
        };
        match bound {
            Ok(sockets) => Ok(Some(Self {
                listener: listener.clone(),
                sockets,
            })),
            Err(error) if listener.optional && is_missing_family(&error) => Ok(None),
            Err(error) => Err(BindError::new(&listener.address, error)),
        }
    }

    /// Where it is bound: the port is the kernel's choice if it was 0.
    #[must_use]
    pub fn address(&self) -> Address {
        match &self.sockets {
            Sockets::Tcp(sockets) => {
                local_address(sockets).map_or_else(|| self.listener.address.clone(), Address::Tcp)
            }
            Sockets::Unix(_) => self.listener.address.clone(),
        }
    }

    /// Starts listening and hands out one socket for each worker, in their order. Says also whether
    /// the kernel steers connections to workers by the CPU.
    pub(super) fn open(
        self,
        workers: usize,
        cpus: Option<&Cpus>,
    ) -> Result<(Vec<Open>, bool), BindError> {
        let address = self.address();
        let opened: io::Result<_> = match self.sockets {
            Sockets::Tcp(sockets) => listen(sockets, cpus),
            // One queue for all workers; the kernel wakes whoever waits.
            Sockets::Unix(listener) => {
                let all = (0..workers).map(|_| Ok(Open::Unix(listener.try_clone()?)));
                all.collect::<io::Result<_>>().map(|all| (all, false))
            }
        };
        opened.map_err(|error| BindError::new(&address, error))
    }
}

impl BindError {
    fn new(address: &Address, error: io::Error) -> Self {
        let address = address.to_string();
        match error.kind() {
            ErrorKind::AddrInUse => Self::InUse { address },
            _ => Self::Other { address, error },
        }
    }
}

/// One socket a worker, so that the kernel spreads connections and no worker waits for another.
///
/// The first is bound without `SO_REUSEPORT`, which it gets only afterwards: otherwise a second
/// process of the same user could bind the same port in silence and take half of the connections.
fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<Vec<Socket>> {
    let first = tcp_socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let socket = tcp_socket_for(&address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn listen(sockets: Vec<Socket>, cpus: Option<&Cpus>) -> io::Result<(Vec<Open>, bool)> {
    let (mut open, mut steered) = (Vec::new(), false);
    for socket in sockets {
        socket.listen(BACKLOG)?;
        let socket = std::net::TcpListener::from(socket);
        // From the first one on, as connections come from now on.
        if let (true, Some(cpus)) = (open.is_empty(), cpus) {
            match cpus.steer(&socket) {
                Ok(()) => steered = true,
                Err(error) => {
                    tracing::info!(%error, "the kernel spreads connections without regard to CPUs");
                }
            }
        }
        open.push(Open::Tcp(socket));
    }
    Ok((open, steered))
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    tcp_socket_for(&address.into())
}

fn tcp_socket_for(address: &socket2::SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, Some(Protocol::TCP))?;
    if address.domain() == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    // Packets that leave the machine by mistake die at the first router.
    if address.domain() == Domain::IPV6 {
        socket.set_unicast_hops_v6(1)?;
    } else {
        socket.set_ttl_v4(1)?;
    }
    // Answers are one small write: waiting for more would only delay them. Whoever is accepted
    // inherits it.
    socket.set_tcp_nodelay(true)?;
    // A restart must not wait for the connections of the process before it.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A Unix socket with this mode. The folder is made private first if it is not there; a socket
/// that nobody answers on is a leftover and is replaced.
///
/// # Errors
/// `AddrInUse` if somebody answers or the path is something else than a socket.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() && nobody_answers(path) => {
            fs::remove_file(path)?;
        }
        Ok(_) => return Err(ErrorKind::AddrInUse.into()),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn nobody_answers(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn local_address(sockets: &[Socket]) -> Option<SocketAddr> {
    sockets.first()?.local_addr().ok()?.as_socket()
}

fn is_missing_family(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let missing = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    error
        .raw_os_error()
        .is_some_and(|code| missing.iter().any(|e| e.raw_os_error() == code))
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::super::fixtures::{any_port, listener};
    use super::*;
    use crate::protocol::Dialect;

    #[test]
    fn a_second_instance_cannot_bind_beside_the_first() {
        let any = listener(any_port(), Dialect::Imds);
        let first = Bound::bind(&any, 3).unwrap().unwrap();
        let same = listener(first.address(), Dialect::Imds);
        let open = first.open(3, None).unwrap();
        assert!(matches!(
            Bound::bind(&same, 3),
            Err(BindError::InUse { .. })
        ));
        // Once the first is gone, connections of its time do not stand in the way.
        drop(open);
        assert!(Bound::bind(&same, 3).is_ok());
    }

    #[test]
    fn a_leftover_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private/s.sock");
        drop(bind_unix(&path, 0o600).unwrap());
        let live = bind_unix(&path, 0o600).unwrap();
        assert_eq!(
            bind_unix(&path, 0o600).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mode = fs::metadata(path.parent().unwrap())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(
            mode & 0o027,
            0,
            "nobody else gets into the folder: {mode:o}"
        );
        drop(live);
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind_unix(&path, 0o600).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
