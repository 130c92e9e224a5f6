//! Who can reach the sockets at all, from other machines as the kernel sees them.
//!
//! Three network namespaces in a row stand for three machines: the one that Foretoken runs on, its
//! neighbour on the same link, which also routes, and one behind that. Needs root and `ip`.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use foretoken_emulator::Emulator;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::http::{self, Answer, PATIENCE};
use crate::support::jwt::audience_of;
use crate::support::privilege::not_run;
use crate::support::process::{Served, command, write_file};

/// The addresses on the link between us and the neighbour, and on the one behind it.
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEIGHBOUR: &str = "192.0.2.2";
const NEIGHBOUR_BEHIND: &str = "198.51.100.2";
const FAR: &str = "198.51.100.1";
/// What the default listeners and the admin endpoints use; nobody else is in the namespace.
const PORT: u16 = 16925;
const ADMIN_PORT: u16 = 16926;
/// A SYN is answered within a moment, or repeated after a second and still not answered.
const SILENCE: Duration = Duration::from_secs(2);

/// Namespaces, removed when dropped, with the links in them.
struct Machines {
    here: String,
    neighbour: String,
    far: String,
}

impl Machines {
    /// Fails if the machine allows no namespaces.
    fn new() -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |role| format!("foretoken-{}-{number}-{role}", std::process::id());
        let machines = Self {
            here: name("here"),
            neighbour: name("neighbour"),
            far: name("far"),
        };
        machines.build().map(|()| machines)
    }

    fn build(&self) -> Result<(), String> {
        let Self {
            here,
            neighbour,
            far,
        } = self;
        for name in [here, neighbour, far] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        for (one, other) in [(here, neighbour), (far, neighbour)] {
            let link = if one == here { "near" } else { "behind" };
            let peer = format!("peer name {link} netns {other}");
            ip(&format!("link add {link} netns {one} type veth {peer}"))?;
        }
        for (name, address, link) in [
            (here, &*OURS.to_string(), "near"),
            (neighbour, NEIGHBOUR, "near"),
            (neighbour, NEIGHBOUR_BEHIND, "behind"),
            (far, FAR, "behind"),
        ] {
            ip(&format!("-n {name} address add {address}/24 dev {link}"))?;
            ip(&format!("-n {name} link set {link} up"))?;
        }
        ip(&format!("-n {here} route add default via {NEIGHBOUR}"))?;
        ip(&format!(
            "-n {far} route add default via {NEIGHBOUR_BEHIND}"
        ))?;
        let routes = within(neighbour, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        })?;
        routes.map_err(|error| format!("forwarding: {error}"))
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in [&self.here, &self.neighbour, &self.far] {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", said.trim()))
    }
}

/// Does this on a machine. Threads and processes that are started there stay there.
fn within<T: Send>(machine: &str, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let path = Path::new("/run/netns").join(machine);
    let inside = || {
        let namespace = File::open(path).map_err(|error| error.to_string())?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| format!("setns: {error}"))?;
        Ok(work())
    };
    thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Foretoken, the emulator that it asks, and a server that anybody may talk to.
struct Inhabitants {
    served: Served,
    emulator: Emulator,
    open: TcpListener,
}

fn move_in(machines: &Machines, folder: &Path, more: &str) -> Inhabitants {
    let moving = || {
        let emulator = Emulator::start(crate::support::emulator_settings()).expect("an emulator");
        let endpoint = format!("[upstream]\nendpoint = \"http://{}\"\n", emulator.address());
        let text = format!("{more}{endpoint}[log]\nformat = \"json\"\n");
        let config = write_file(folder, &text);
        let served = Served::start_as(command(folder), &config);
        let open = TcpListener::bind((OURS, 0)).expect("a free port");
        Inhabitants {
            served,
            emulator,
            open,
        }
    };
    within(&machines.here, moving).expect("a way in")
}

/// How a connection from a machine to one of our ports fails, if it does.
fn knock(machine: &str, port: u16) -> Result<(), ErrorKind> {
    let address = SocketAddr::from((OURS, port));
    let knocking = || TcpStream::connect_timeout(&address, SILENCE).map(drop);
    let knocked = within(machine, knocking).expect("a way in");
    knocked.map_err(|error| error.kind())
}

/// Asks for a token at this address, from a machine, by this name.
fn ask(machine: &str, address: SocketAddr, host: &str) -> Answer {
    let target = http::token_target("r");
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\n\r\n");
    let asking = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        http::read_answer(&mut stream)
    };
    within(machine, asking)
        .expect("a way in")
        .expect("an answer")
}

#[test]
fn other_machines_find_nothing_where_foretoken_listens() {
    let machines = match Machines::new() {
        Ok(machines) => machines,
        Err(why) => return not_run("reachability of the default listeners", &why),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut home = move_in(&machines, folder.path(), "");
    assert_eq!(home.served.address.port(), PORT);
    assert_eq!(home.served.admin.port(), ADMIN_PORT);
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    assert_eq!(audience_of(&ask(&machines.here, local, "127.0.0.1")), "r");

    let open = home.open.local_addr().expect("bound").port();
    for machine in [&machines.neighbour, &machines.far] {
        // The way here is open; it is these ports that are shut, and they say so.
        assert_eq!(knock(machine, open), Ok(()), "{machine}");
        for port in [PORT, ADMIN_PORT] {
            let found = knock(machine, port);
            assert_eq!(found, Err(ErrorKind::ConnectionRefused), "{machine} {port}");
        }
    }
    assert_eq!(home.emulator.counts().total, 1);
    assert_eq!(home.served.end(Signal::TERM).code(), Some(0));
}

#[test]
fn a_listener_on_the_network_is_reached_from_its_link_and_from_no_further() {
    let machines = match Machines::new() {
        Ok(machines) => machines,
        Err(why) => return not_run("reachability of a listener on the network", &why),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listener = format!(
        "[server]\ni_understand_that_tokens_leave_this_machine = true\n\
         [[listener]]\naddress = \"{OURS}:{PORT}\"\n"
    );
    let mut home = move_in(&machines, folder.path(), &listener);
    assert_eq!(home.served.address, SocketAddr::from((OURS, PORT)));

    // By its own address it is asked; by a name, which is how a browser is led here, it is not.
    let address = home.served.address;
    let by_address = ask(&machines.neighbour, address, &OURS.to_string());
    assert_eq!(audience_of(&by_address), "r");
    for name in ["foretoken.example", "192.0.2.1.nip.example"] {
        let by_name = ask(&machines.neighbour, address, name);
        assert_eq!(by_name.status, 403, "{name}");
    }

    // One hop further our SYN-ACK does not live to be heard, though that of others does.
    let open = home.open.local_addr().expect("bound").port();
    assert_eq!(knock(&machines.far, open), Ok(()));
    assert_eq!(knock(&machines.far, PORT), Err(ErrorKind::TimedOut));
    // What the flag lets out are tokens, not the admin endpoints.
    for machine in [&machines.neighbour, &machines.far] {
        let found = knock(machine, ADMIN_PORT);
        assert_eq!(found, Err(ErrorKind::ConnectionRefused), "{machine}");
    }
    assert_eq!(home.emulator.counts().total, 1);
    assert_eq!(home.served.end(Signal::TERM).code(), Some(0));
}
