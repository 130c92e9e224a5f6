//! The server as a process: started if need be, and what the kernel says it used.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::ask::Asker;
use crate::clock::steady;
use crate::driver::bind_to;
use crate::plan::Target;

/// How long a server may take to take connections, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is looked at: a restart is timed by it.
const LOOK: Duration = Duration::from_millis(1);

/// A server that was started here. Dropping it ends it: politely, then not.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts a program on these CPUs (all, if there are none) and waits until it takes
    /// connections at the target.
    ///
    /// # Errors
    /// If it cannot be started, ends, or does not listen within ten seconds.
    pub fn start(mut command: Command, cpus: &[usize], target: &Target) -> anyhow::Result<Self> {
        if Asker::open(target).is_ok() {
            bail!("another server listens on {target} already");
        }
        // What it starts with is what we have: so ours is changed for that moment.
        let own = sched_getaffinity(None)?;
        if !cpus.is_empty() {
            bind_to(cpus)?;
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // It stays in our process group, so that Ctrl-C, which ends us without a word, ends it too.
        let started = command.spawn();
        sched_setaffinity(None, &own)?;
        let started =
            started.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut server = Self(started);
        let until = steady() + PATIENCE;
        while Asker::open(target).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("the server has ended: {status}");
            }
            if steady() > until {
                bail!("the server does not listen on {target}");
            }
            thread::sleep(LOOK);
        }
        Ok(server)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = steady() + PATIENCE;
        while steady() < until {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(LOOK);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process and all that it started have used, as far as they still run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time on a CPU, in user and kernel, in microseconds.
    pub cpu_us: u64,
    pub rss_kib: u64,
    /// The sum of each one's own peak.
    pub rss_peak_kib: u64,
    /// Nothing if the kernel does not tell us.
    pub pss_kib: Option<u64>,
}

impl Usage {
    pub(crate) fn read(pid: u32) -> anyhow::Result<Self> {
        let all: Vec<_> = fs::read_dir("/proc")?
            .filter_map(|entry| Stat::read(entry.ok()?.file_name().to_str()?.parse().ok()?))
            .collect();
        let mut tree: Vec<_> = all.iter().filter(|stat| stat.pid == pid).collect();
        if tree.is_empty() {
            bail!("there is no process {pid}");
        }
        let mut at = 0;
        while let Some(parent) = tree.get(at).map(|stat| stat.pid) {
            tree.extend(all.iter().filter(|stat| stat.parent == parent));
            at += 1;
        }
        let mut usage = Self {
            pss_kib: Some(0),
            ..Self::default()
        };
        for stat in tree {
            let status = fs::read_to_string(format!("/proc/{}/status", stat.pid));
            let status = status.unwrap_or_default();
            usage.cpu_us += stat.cpu_us();
            usage.rss_kib += kib(&status, "VmRSS:").unwrap_or(0);
            usage.rss_peak_kib += kib(&status, "VmHWM:").unwrap_or(0);
            let maps = fs::read_to_string(format!("/proc/{}/smaps_rollup", stat.pid));
            let pss = maps.ok().and_then(|maps| kib(&maps, "Pss:"));
            usage.pss_kib = usage.pss_kib.zip(pss).map(|(sum, pss)| sum + pss);
        }
        Ok(usage)
    }

    /// Time on a CPU of this process alone: a server that was started here is its child.
    pub(crate) fn own_cpu_us() -> anyhow::Result<u64> {
        let own = Stat::read(std::process::id()).context("this process is not in /proc")?;
        Ok(own.cpu_us())
    }

    /// The fairer of the two: what is shared counts once.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.pss_kib.unwrap_or(self.rss_kib)
    }
}

struct Stat {
    pid: u32,
    parent: u32,
    /// `utime` and `stime`.
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program comes before, and may hold anything.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: u32::try_from(number(1)?).ok()?,
            ticks: number(11)? + number(12)?,
        })
    }

    /// Of the ticks, user's and kernel's are each rounded down. The threads that live tell theirs to
    /// the nanosecond, so that is taken, as far as the ticks do not say that others have lived.
    fn cpu_us(&self) -> u64 {
        let tick_us = 1_000_000 / clock_ticks_per_second();
        let told_us = self.ticks * tick_us;
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
        let threads = threads.into_iter().flatten().flatten();
        let nanos = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        let exact_us = nanos.sum::<u64>() / 1_000;
        exact_us.clamp(told_us, told_us + 2 * tick_us)
    }
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Lets this process, and what it starts, open as many files as the system allows it to.
pub(crate) fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If not, the load stays as it is, and links that cannot be opened are counted.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[test]
    fn what_a_process_and_its_children_use_is_added_up() {
        let own = Usage::read(std::process::id()).unwrap();
        assert!(
            own.rss_kib > 500 && own.rss_peak_kib >= own.rss_kib,
            "{own:?}"
        );
        let spin = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 60";
        let mut shell = Command::new("sh")
            .args(["-c", &format!("({spin}) & wait")])
            .process_group(0)
            .spawn()
            .unwrap();
        let until = steady() + PATIENCE;
        let spun = || Usage::read(shell.id()).unwrap().cpu_us >= 50_000;
        let mut seen = spun();
        while !seen && steady() < until {
            thread::sleep(LOOK);
            seen = spun();
        }
        let child = Usage::read(shell.id()).unwrap();
        let alone_us = Usage::own_cpu_us().unwrap();
        let both = Usage::read(std::process::id()).unwrap();
        let group = Pid::from_raw(i32::try_from(shell.id()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert!(seen, "the child's work is its parent's");
        let apart = alone_us + child.cpu_us <= both.cpu_us;
        assert!(
            apart,
            "{alone_us} {child:?} {both:?}: what is started is no work of ours"
        );
        assert!(Usage::read(shell.id()).is_err());
    }

    #[test]
    fn a_server_that_ends_or_cannot_be_started_is_told() {
        let target = Target::Unix("/nonexistent/load.sock".into());
        let start = |program| {
            let started = Server::start(Command::new(program), &[], &target);
            started.unwrap_err().to_string()
        };
        assert_eq!(start("false"), "the server has ended: exit status: 1");
        assert_eq!(start("/nonexistent"), "cannot start /nonexistent");
    }
}
