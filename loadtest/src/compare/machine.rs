//! Where something was measured.

use std::fs;
use std::process::Command;
use std::thread;

use rustix::system::uname;
use serde::{Deserialize, Serialize};

/// What the figures depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The model of its processors.
    pub cpu: String,
    /// How many of them this process may use.
    pub cpus: usize,
    /// The kernel's name and release.
    pub kernel: String,
    /// Memory, in KiB.
    pub memory_kib: u64,
}

impl Machine {
    pub(super) fn here() -> Self {
        let value = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map(|(_, value)| value.trim().to_owned())
        };
        let system = uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let memory = value("/proc/meminfo", "MemTotal").unwrap_or_default();
        Self {
            cpu: value("/proc/cpuinfo", "model name").unwrap_or_else(|| text(system.machine())),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", text(system.sysname()), text(system.release())),
            memory_kib: memory.trim_end_matches(" kB").parse().unwrap_or(0),
        }
    }
}

/// The commit of the working folder, if that belongs to a repository, with a mark if it was changed.
pub(super) fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { commit + "+" } else { commit })
}
