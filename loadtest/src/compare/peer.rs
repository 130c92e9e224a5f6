//! A server that is compared: whether it is here, and how it is set up and started.
//!
//! A server is a program, its arguments, and a configuration from `loadtest/peers`, in which places in
//! braces are filled.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow};
use tempfile::TempDir;

use super::results;
use crate::peer::body;
use crate::plan::Target;
use crate::process::Server;

/// A server of a kind.
pub(crate) struct Peer {
    pub name: &'static str,
    pub about: &'static str,
    pub program: Program,
    /// Asks the upstream itself, so that it may be measured at what a cache does.
    pub cache: bool,
    /// What stands before the path of a Unix socket where it listens.
    pub unix: &'static str,
    pub config: Option<&'static str>,
    pub arguments: &'static [&'static str],
    pub version: &'static [&'static str],
}

pub(crate) enum Program {
    /// This program.
    Own,
    /// The one that is measured for its own sake.
    Foretoken,
    /// One that is installed, or not.
    Installed(&'static str),
}

/// How a server is set up for a workload.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub upstream: SocketAddr,
    pub unix: bool,
    pub workers: usize,
    /// None leaves that to the kernel.
    pub cpus: Vec<usize>,
    /// How long a cache keeps an answer. Foretoken knows that by itself.
    pub ttl_s: u64,
    /// Foretoken's limits of calls: those of IMDS, but where thousands of keys must be got first.
    pub many_keys: bool,
}

impl Setup {
    /// Of one worker, which keeps answers for five minutes: no more than what a token has left at
    /// the least when IMDS gives it out.
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        Self {
            upstream,
            unix: false,
            workers: 1,
            cpus: Vec::new(),
            ttl_s: 300,
            many_keys: false,
        }
    }
}

/// A server with all that it needs, in a folder of its own. May be started several times.
pub(crate) struct Ready {
    program: PathBuf,
    arguments: Vec<String>,
    cpus: Vec<usize>,
    pub(crate) target: Target,
    folder: TempDir,
}

impl Peer {
    /// What is told of it, and its program if it is here. `foretoken` is the one that was asked for.
    pub(super) fn look(&self, foretoken: Option<&Path>) -> (results::Server, Option<PathBuf>) {
        let found = self.find(foretoken);
        let version = found
            .as_ref()
            .ok()
            .and_then(|program| self.version(program));
        let server = results::Server {
            name: self.name.to_owned(),
            about: self.about.to_owned(),
            version,
            missing: found.as_ref().err().map(ToString::to_string),
        };
        (server, found.ok())
    }

    fn find(&self, foretoken: Option<&Path>) -> anyhow::Result<PathBuf> {
        match &self.program {
            Program::Own => Ok(env::current_exe()?),
            Program::Foretoken => {
                let beside = env::current_exe()?.with_file_name("foretoken");
                let file = foretoken.unwrap_or(&beside);
                let missing = || anyhow!("there is no program {}", file.display());
                file.is_file().then(|| file.to_owned()).ok_or_else(missing)
            }
            Program::Installed(name) => {
                let path = env::var_os("PATH").unwrap_or_default();
                // Where Debian has its servers is not in everyone's path.
                let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
                let mut all = env::split_paths(&path)
                    .chain(more)
                    .map(|folder| folder.join(name));
                let found = all.find(|file| file.is_file());
                found.ok_or_else(|| anyhow!("{name} is not installed"))
            }
        }
    }

    fn version(&self, program: &Path) -> Option<String> {
        let output = Command::new(program).args(self.version).output().ok()?;
        // Some say it on the one, some on the other.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        said.lines().next().map(|line| line.trim().to_owned())
    }

    /// Writes down all that it needs, and finds it a place to listen.
    pub(super) fn ready(&self, program: &Path, setup: &Setup) -> anyhow::Result<Ready> {
        let folder = tempfile::tempdir()?;
        let (target, listen) = if setup.unix {
            let path = folder.path().join("socket");
            let listen = format!("{}{}", self.unix, path.display());
            (Target::Unix(path), listen)
        } else {
            let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            (Target::Tcp(free), free.to_string())
        };
        let config = folder.path().join("config");
        let reuseport = !setup.unix && setup.workers > 1;
        let (at_once, per_s) = if setup.many_keys {
            (64, 1_000)
        } else {
            (4, 15)
        };
        let mut places = vec![
            ("{config}", config.display().to_string()),
            ("{folder}", folder.path().display().to_string()),
            ("{listen}", listen),
            (
                "{reuseport}",
                (if reuseport { " reuseport" } else { "" }).to_owned(),
            ),
            ("{upstream}", setup.upstream.to_string()),
            ("{upstream_host}", setup.upstream.ip().to_string()),
            ("{upstream_port}", setup.upstream.port().to_string()),
            ("{workers}", setup.workers.to_string()),
            ("{ttl_s}", setup.ttl_s.to_string()),
            ("{at_once}", at_once.to_string()),
            ("{per_s}", per_s.to_string()),
        ];
        let template = self.config.unwrap_or_default();
        if template.contains("{body}") {
            places.push(("{body}", String::from_utf8(body(setup.upstream)?)?));
        }
        let fill = |text: &str| {
            let mut text = text.to_owned();
            for (place, value) in &places {
                text = text.replace(place, value);
            }
            text
        };
        fs::write(&config, fill(template))?;
        Ok(Ready {
            program: program.to_owned(),
            arguments: self
                .arguments
                .iter()
                .map(|argument| fill(argument))
                .collect(),
            cpus: setup.cpus.clone(),
            target,
            folder,
        })
    }
}

impl Ready {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let said = self.folder.path().join("stderr");
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command.stderr(fs::File::create(&said)?);
        // Foretoken's state; no other server looks at it.
        command.env("STATE_DIRECTORY", self.folder.path());
        Server::start(command, &self.cpus, &self.target).with_context(|| {
            // Servers say there what is wrong with their configuration, in which is no secret but a
            // token that is worth nothing; that stays in its line, which is not shown.
            let said = fs::read_to_string(&said).unwrap_or_default();
            let short = said.lines().filter(|line| line.len() < 300);
            short.take(3).collect::<Vec<_>>().join("; ")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::peers::PEERS;

    #[test]
    fn what_is_not_here_is_told_by_its_name() {
        let nowhere = Path::new("/nonexistent/foretoken");
        let foretoken = PEERS.iter().find(|peer| peer.name == "foretoken").unwrap();
        let (told, found) = foretoken.look(Some(nowhere));
        assert_eq!(found, None);
        assert_eq!(
            told.missing.as_deref(),
            Some("there is no program /nonexistent/foretoken")
        );
    }

    #[test]
    fn no_place_is_left_unfilled() {
        let emulator = foretoken_emulator::Emulator::start(foretoken_emulator::Settings::default());
        let emulator = emulator.unwrap();
        for peer in &PEERS {
            let setup = Setup::new(emulator.address());
            let ready = peer.ready(Path::new("x"), &setup).unwrap();
            let config = fs::read_to_string(ready.folder.path().join("config")).unwrap();
            let names = [
                "{config",
                "{folder",
                "{listen",
                "{upstream",
                "{workers",
                "{ttl",
                "{body",
                "{reuse",
                "{at_",
                "{per_",
            ];
            for name in names {
                assert!(!config.contains(name), "{}: {name}", peer.name);
                assert!(
                    !ready.arguments.concat().contains(name),
                    "{}: {name}",
                    peer.name
                );
            }
        }
    }
}
