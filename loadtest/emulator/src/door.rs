//! The listener, and the faults that come before a request: nobody listens, nobody accepts, or a
//! connection ends as soon as it is there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::faults::Accept;
use crate::script::{hang, reset};
use crate::time;
use crate::world::World;

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept (no file descriptors left), so as not to spin.
const PAUSE: Duration = Duration::from_millis(20);
/// Connections of our own that fill a backlog of 0: the kernel takes one more than it is told.
const FILLERS: usize = 2;

/// A listener that can be closed and filled.
pub(crate) struct Door {
    address: SocketAddr,
    /// `None` while nobody listens.
    listener: Option<TcpListener>,
    changes: watch::Receiver<u64>,
}

impl Door {
    /// In the runtime in which it will be used.
    pub(crate) fn new(listener: std::net::TcpListener, world: &World) -> io::Result<Self> {
        Ok(Self {
            address: world.address,
            listener: Some(TcpListener::from_std(listener)?),
            changes: world.plan_changes(),
        })
    }

    /// The next connection that is to be served.
    pub(crate) async fn accept(&mut self, world: &World) -> (TcpStream, SocketAddr) {
        loop {
            let whole = world.plan().whole_listener(time::steady());
            let Some(listener) = &self.listener else {
                self.open(bind(self.address)).await;
                continue;
            };
            match whole {
                Some((Accept::Refuse, until)) => self.refuse(world, until).await,
                Some((_, until)) => self.fill(world, until).await,
                None => {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        _ = self.changes.changed() => continue,
                    };
                    match accepted {
                        Ok(accepted) => return accepted,
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                }
            }
        }
    }

    /// Nobody listens until the plan says otherwise. The address stays bound, so that nobody
    /// else takes it.
    async fn refuse(&mut self, world: &World, until: Option<Instant>) {
        // What listens goes first: two sockets share an address only while neither listens.
        self.listener = None;
        let bound = bind(self.address);
        self.end_of(world, until).await;
        self.open(bound).await;
    }

    /// Listens again; if that fails, the next round tries once more.
    async fn open(&mut self, bound: io::Result<Socket>) {
        let listening = bound.and_then(|socket| {
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        });
        match listening {
            Ok(listener) => self.listener = Some(listener),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }

    /// Connections are not established until the plan says otherwise.
    async fn fill(&mut self, world: &World, until: Option<Instant>) {
        self.set_backlog(0);
        let fillers: Vec<Socket> = (0..FILLERS).filter_map(|_| self.filler().ok()).collect();
        self.end_of(world, until).await;
        self.set_backlog(BACKLOG);
        drop(fillers);
    }

    /// A listener may be told to listen again, with another backlog.
    fn set_backlog(&self, backlog: i32) {
        if let Some(listener) = &self.listener {
            // It fails for sockets that do not listen, and this one does.
            let _ = SockRef::from(listener).listen(backlog);
        }
    }

    /// A connection to ourselves that nobody accepts.
    fn filler(&self) -> io::Result<Socket> {
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // "In progress" is no error here: a filler that is not let in has found it full.
        let _ = socket.connect(&address.into());
        Ok(socket)
    }

    /// Waits until neither is in force any more.
    async fn end_of(&mut self, world: &World, until: Option<Instant>) {
        let mut until = until;
        loop {
            let span = until.map(|until| until.saturating_duration_since(time::steady()));
            tokio::select! {
                () = sleep(span) => {}
                _ = self.changes.changed() => {}
            }
            match world.plan().whole_listener(time::steady()) {
                Some((_, later)) => until = later,
                None => return,
            }
        }
    }
}

/// For this span, or for ever.
async fn sleep(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

/// A listener on an address whose last connections may still be fading.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What a connection meets before it is read; `None` if nothing, or only another certificate.
pub(crate) async fn meet(stream: &mut TcpStream, how: &Accept) -> Option<io::Result<()>> {
    Some(match how {
        Accept::OtherCertificate => return None,
        // The listener itself was to be closed or full; a caller that came through before that
        // is cut off.
        Accept::Reset | Accept::Refuse | Accept::Full => reset(stream),
        Accept::Close => stream.shutdown().await,
        Accept::Ignore => hang(stream).await,
        Accept::Say(text) => {
            async {
                stream.write_all(text.as_bytes()).await?;
                stream.shutdown().await?;
                // Closing over unread bytes would reset the connection and lose the text.
                hang(stream).await
            }
            .await
        }
    })
}

/// Returns when a connection that was made in this state of the door has to go: a fault of
/// connecting was set since, and one that is kept alive would not meet it.
pub(crate) async fn closing_time(world: &World, door_state: u64) {
    let mut changes = world.plan_changes();
    while world.plan().door_state() == door_state {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::time::Duration;

    use crate::testing::{Connection, ask, start, token_target, unlimited, wait_until};
    use crate::{Emulator, Kind, Planned, ServiceFabric, Settings};

    const SHORT: Duration = Duration::from_millis(100);

    fn connect(emulator: &Emulator) -> Result<(), ErrorKind> {
        let connected = TcpStream::connect_timeout(&emulator.address(), SHORT);
        connected.map(drop).map_err(|error| error.kind())
    }

    #[test]
    fn a_closed_listener_refuses_and_opens_again_on_its_address() {
        let emulator = unlimited();
        for _ in 0..3 {
            let mut kept = Connection::open(&emulator);
            assert_eq!(kept.get(&token_target("")).unwrap().status, 200);
            emulator.set_mode("connect-refused").unwrap();
            wait_until(|| connect(&emulator) == Err(ErrorKind::ConnectionRefused));
            assert!(
                kept.get(&token_target("")).is_err(),
                "what was kept alive is closed"
            );
            emulator.clear_modes();
            wait_until(|| connect(&emulator).is_ok());
            assert_eq!(ask(&emulator, "").status, 200);
        }
    }

    #[test]
    fn a_closed_listener_opens_by_itself_when_its_time_is_over() {
        let emulator = unlimited();
        emulator
            .set_mode(Planned::new("connect-refused").for_ms(50))
            .unwrap();
        wait_until(|| connect(&emulator).is_ok());
        wait_until(|| emulator.active_modes().is_empty());
        wait_until(|| connect(&emulator).is_ok());
        assert_eq!(ask(&emulator, "").status, 200);
    }

    #[test]
    fn a_full_backlog_lets_nobody_in_until_it_is_cleared() {
        let emulator = unlimited();
        emulator.set_mode("backlog-full").unwrap();
        // Fewer than fill a backlog by themselves, and time to take notice of the fault.
        let full = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            connect(&emulator) == Err(ErrorKind::TimedOut)
        });
        assert!(full);
        assert_eq!(connect(&emulator), Err(ErrorKind::TimedOut), "and stays so");
        emulator.clear_modes();
        wait_until(|| connect(&emulator).is_ok());
        assert_eq!(ask(&emulator, "").status, 200);
    }

    #[test]
    fn the_next_connections_are_spoilt_and_counted_and_the_ones_after_served() {
        let emulator = unlimited();
        emulator
            .set_mode(Planned::new("accept-close").times(2))
            .unwrap();
        for _ in 0..2 {
            let mut connection = Connection::open(&emulator);
            assert_eq!(connection.read_to_end().unwrap(), "");
        }
        assert_eq!(ask(&emulator, "").status, 200);
        let counts = emulator.counts();
        assert_eq!((counts.spoilt_by("accept-close"), counts.faulted), (2, 0));
    }

    #[test]
    fn connections_that_a_share_spares_are_served() {
        let emulator = unlimited();
        emulator
            .set_mode(Planned::new("accept-close").share(0.5))
            .unwrap();
        let served = (0..100)
            .filter(|_| Connection::open(&emulator).get(&token_target("")).is_ok())
            .count();
        assert!((25..75).contains(&served), "{served}");
        assert_eq!(
            emulator.counts().tokens_issued + emulator.counts().tokens_repeated,
            served as u64
        );
    }

    #[test]
    fn another_certificate_is_not_the_one_that_was_told() {
        let emulator = start(Settings {
            kind: Kind::ServiceFabric(ServiceFabric::default()),
            ..Settings::default()
        });
        emulator
            .set_mode(Planned::new("tls-other-certificate").times(1))
            .unwrap();
        let error = Connection::open(&emulator).get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert_eq!(Connection::open(&emulator).get("/").unwrap().status, 404);
    }

    #[test]
    fn the_control_listener_is_in_reach_while_nobody_listens() {
        let emulator = start(Settings {
            control: Some("127.0.0.1:0".parse().unwrap()),
            ..Settings::default()
        });
        emulator.set_mode("connect-refused").unwrap();
        let address = emulator.control_address().unwrap();
        let mut control = Connection::to(address);
        let active = control.get("/_emulator/modes").unwrap().json();
        assert_eq!(active[0]["mode"], "connect-refused");
        assert_eq!(
            control.get(&token_target("")).unwrap().status,
            400,
            "and gives no token"
        );
        let mut control = Connection::to(address);
        assert_eq!(
            control
                .request("DELETE", "/_emulator/modes", "", "")
                .unwrap()
                .status,
            200
        );
        wait_until(|| connect(&emulator).is_ok());
    }
}
