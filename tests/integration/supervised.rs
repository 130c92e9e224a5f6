//! Under a supervisor that speaks systemd's `sd_notify(3)`: a socket of the test's.

use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::Duration;

use foretoken_emulator::Emulator;
use rustix::process::Signal;

use crate::support::http::{self, PATIENCE, connect};
use crate::support::process::{Served, command, write_config};
use crate::support::wait::until;
use crate::support::{House, emulator_settings};

const LOOK: Duration = Duration::from_secs(1);

/// The supervisor's end.
struct Heard {
    socket: UnixDatagram,
    lines: VecDeque<String>,
}

impl Heard {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self {
            socket,
            lines: VecDeque::new(),
        }
    }

    /// The next line, in the order in which they were sent.
    fn next(&mut self) -> String {
        while self.lines.is_empty() {
            let mut bytes = [0; 4096];
            let length = self.socket.recv(&mut bytes).expect("a message in time");
            let text = std::str::from_utf8(&bytes[..length]).expect("text");
            self.lines.extend(text.lines().map(str::to_owned));
        }
        self.lines.pop_front().expect("a line")
    }
}

#[test]
fn a_supervisor_hears_when_we_serve_that_we_live_and_when_we_stop() {
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut heard = Heard::at(&folder.path().join("notify"));
    let config = write_config(folder.path(), emulator.address(), "");
    let mut command = command(folder.path());
    command
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .env("WATCHDOG_USEC", "4000000");
    let mut served = Served::start_as(command, &config);

    assert_eq!(heard.next(), "READY=1");
    // Whoever was told so may connect at once, and ask.
    assert_eq!(http::token(served.address, "r").status, 200);
    let status = format!("STATUS=serving tokens on {}", served.address);
    assert_eq!(heard.next(), status);
    for _ in 0..3 {
        assert_eq!(heard.next(), "WATCHDOG=1");
    }
    served.signal(Signal::TERM);
    let mut line = heard.next();
    while line == "WATCHDOG=1" {
        line = heard.next();
    }
    assert_eq!(line, "STOPPING=1");
    assert_eq!(heard.next(), "STATUS=stopping");
    assert!(served.ended().success());
    heard.socket.set_nonblocking(true).expect("a socket");
    assert!(
        heard.socket.recv(&mut [0; 64]).is_err(),
        "that was the last"
    );
}

#[test]
fn ready_is_said_only_when_callers_can_connect() {
    let emulator = Emulator::start(emulator_settings()).expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut heard = Heard::at(&folder.path().join("notify"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    let config = write_config(folder.path(), emulator.address(), "");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let text = text.replacen("127.0.0.1:0", &address.to_string(), 1);
    std::fs::write(&config, text).expect("a configuration");
    drop(free);
    let (sender, at_ready) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(heard.next(), "READY=1");
            sender
                .send(connect(address).is_ok())
                .expect("somebody waits");
        });
        let mut command = command(folder.path());
        command.env("NOTIFY_SOCKET", folder.path().join("notify"));
        let _served = Served::start_as(command, &config);
        assert_eq!(at_ready.recv_timeout(PATIENCE), Ok(true));
    });
    // Without a limit there is no watchdog to be fed.
    assert!(heard.next().starts_with("STATUS="));
    let pause = Some(3 * LOOK);
    heard.socket.set_read_timeout(pause).expect("a timeout");
    assert!(heard.socket.recv(&mut [0; 64]).is_err());
}

#[test]
fn a_refresh_thread_that_hangs_has_no_pulse() {
    let house = House::start();
    assert_eq!(http::token(house.address(), "r").status, 200);
    let mut pulses = house.app.pulses();
    // Every thread turns, at rest too: twice, since the first look finds all that ever was.
    for _ in 0..2 {
        until("all threads turn", || pulses.hanging().is_empty());
    }
    let (let_go, held) = channel::<()>();
    let wish = house.app.refresh();
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        // Which keys are meant is asked on the refresh thread.
        let held = std::sync::Mutex::new(held);
        let which = move |_: &_| held.lock().expect("no panic").recv().is_ok();
        let renewed = wish.renew(Some(Box::new(which)), PATIENCE);
        runtime.expect("a runtime").block_on(renewed).is_ok()
    });
    until("it hangs", || {
        sleep(2 * LOOK);
        pulses.hanging() == ["refresh"]
    });
    sleep(3 * LOOK);
    assert_eq!(pulses.hanging(), ["refresh"]);
    // Hits go on meanwhile; only a restart would heal the renewals.
    assert_eq!(http::token(house.address(), "r").status, 200);
    drop(let_go);
    assert!(asked.join().expect("an answer"));
    until("all threads turn", || pulses.hanging().is_empty());
}
