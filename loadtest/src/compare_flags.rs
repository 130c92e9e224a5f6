//! The flags of `foretoken-load compare` and of the servers that it brings itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use foretoken_load::compare::{Options, Results};
use foretoken_load::{Own, Target, span};

/// Measures Foretoken beside other caches and beside what a server costs at the least
///
/// Starts an emulator and each server that is installed, one workload after the other, in rounds that
/// go from server to server. Prints a table with the goals; `--out` has the results as JSON (see
/// loadtest/README.md). Ends with 3 if Foretoken gave a wrong answer.
#[derive(Args)]
pub struct CompareFlags {
    /// Only these servers
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,

    /// Only these workloads
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    workload: Vec<String>,

    /// Rounds of each workload; of those that take long, fewer
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,

    /// The measured part of a round
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "2s")]
    round: Duration,

    /// The program of Foretoken; without it, the one beside this program
    #[arg(long, value_name = "FILE")]
    foretoken: Option<PathBuf>,

    /// Everything once and small, to see that it works
    #[arg(long)]
    quick: bool,

    /// A file for the results
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Add to what the file of `--out` has already: workloads measured now take the old ones' place
    #[arg(long, requires = "out")]
    add: bool,
}

impl CompareFlags {
    /// What is asked for.
    pub fn options(&self) -> anyhow::Result<Options> {
        let earlier = self.out.as_deref().filter(|file| self.add && file.exists());
        Ok(Options {
            only: self.only.clone(),
            workloads: self.workload.clone(),
            rounds: self.rounds,
            round: self.round,
            foretoken: self.foretoken.clone(),
            quick: self.quick,
            add_to: earlier.map(Results::read).transpose()?,
        })
    }
}

/// A server that `compare` brings itself
#[derive(Subcommand)]
pub enum PeerCommand {
    /// Reads and writes, and parses nothing
    Limit(PeerFlags),
    /// Hyper with a fixed body
    Hyper(PeerFlags),
    /// Prints the version of hyper
    Version,
}

/// Where it listens, and whence it has its answer.
#[derive(Args)]
pub struct PeerFlags {
    /// IP:PORT or unix:PATH
    #[arg(long, value_name = "TARGET")]
    listen: Target,

    /// Where the token is got, once
    #[arg(long, value_name = "IP:PORT")]
    upstream: SocketAddr,

    /// Threads, each with a listener of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
}

impl PeerFlags {
    /// Serves until the process is ended.
    pub fn serve(&self, own: Own) -> anyhow::Result<()> {
        own.serve(&self.listen, self.upstream, self.workers)
    }
}
