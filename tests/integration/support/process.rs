//! The built program as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};

use super::http::PATIENCE;
use super::wait::until;

/// A `foretoken serve` that is ready. Killed when dropped.
pub struct Served {
    pub child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// Every line of standard error so far and to come.
    pub lines: Receiver<String>,
    /// The lines read while waiting for readiness.
    pub start: Vec<String>,
}

impl Served {
    /// Starts `foretoken serve --config FILE` with its state in `folder` and waits until it says
    /// that it is ready. The log must be in JSON at `info` or below.
    pub fn start(config: &Path, folder: &Path) -> Self {
        Self::start_as(command(folder), config)
    }

    /// As [`start`](Self::start), with what else was set for the command.
    pub fn start_as(command: Command, config: &Path) -> Self {
        Self::try_start_as(command, config).expect("a line until it is ready")
    }

    /// As [`start_as`](Self::start_as); `None` if it ends before it is ready.
    pub fn try_start_as(mut command: Command, config: &Path) -> Option<Self> {
        command.args(["serve", "--config"]).arg(config);
        Self::try_start_whole(command)
    }

    /// As [`start`](Self::start), but for the arguments as well.
    pub fn start_whole(command: Command) -> Self {
        Self::try_start_whole(command).expect("a line until it is ready")
    }

    fn try_start_whole(mut command: Command) -> Option<Self> {
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let (mut address, mut start) = (None, Vec::new());
        loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            };
            let fields = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
            let fields = &fields["fields"];
            let at = || {
                fields["address"]
                    .as_str()
                    .and_then(|text| text.parse().ok())
            };
            start.push(line.clone());
            match fields["message"].as_str() {
                Some("serving tokens") => address = address.or_else(at),
                Some("ready") => {
                    let admin = at().expect("the admin's address");
                    let address = address.expect("a TCP listener");
                    return Some(Self {
                        child,
                        address,
                        admin,
                        lines,
                        start,
                    });
                }
                _ => {}
            }
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("the process is there");
    }

    /// Sends a signal that ends the process, and waits for that.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// Waits until the process has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().expect("our child");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Everything written to standard error, once the process has ended.
    pub fn log(&self) -> String {
        let later: Vec<_> = self.lines.iter().collect();
        self.start
            .iter()
            .chain(&later)
            .fold(String::new(), |all, line| all + line + "\n")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration for a process of its own: free ports, a log in JSON.
pub fn write_config(folder: &Path, upstream: SocketAddr, more: &str) -> PathBuf {
    // `FORETOKEN_STORE_ENGINE=log` plays the tests with the other engine.
    let store = match std::env::var("FORETOKEN_STORE_ENGINE") {
        Ok(engine) if !more.contains("[store]") => format!("[store]\nengine = \"{engine}\"\n"),
        _ => String::new(),
    };
    let more = format!("{more}{store}[log]\nformat = \"json\"\n");
    let text = super::config_text(upstream, &more);
    write_file(folder, &text)
}

/// Writes a configuration that leads the other commands to a process that is running.
pub fn write_client_config(folder: &Path, served: &Served) -> PathBuf {
    let (address, admin) = (served.address, served.admin);
    let text = format!("[[listener]]\naddress = \"{address}\"\n[admin]\naddress = \"{admin}\"\n");
    write_file(folder, &text)
}

/// Writes a configuration file as it is.
pub fn write_file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("foretoken.toml");
    std::fs::write(&path, text).expect("a configuration file");
    path
}

/// Runs a command that ends by itself.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = command(folder).args(arguments).output();
    output.expect("the program starts")
}

/// The built program with nothing of our environment but its state folder, which it runs in.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foretoken"));
    command
        .env_clear()
        .env("STATE_DIRECTORY", folder)
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}
