//! Commands and flags. The help texts are the reference.

mod check;
mod claims;
mod client;
#[cfg(feature = "demo")]
mod demo;
mod env;
mod operate;
mod serve;
mod status;
mod store;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::StartError;
use crate::config::ConfigError;
use crate::server::BindError;

/// A local caching proxy for Azure managed identity tokens.
///
/// Exit codes: 0 done · 1 anything else · 2 wrong usage or configuration · 3 an address is in use ·
/// 4 another instance uses the store.
#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve tokens. Without a configuration this is right on an Azure VM.
    Serve(WithConfig),
    /// Serve tokens of an embedded emulator: managed identity without Azure.
    #[cfg(feature = "demo")]
    Demo,
    /// Check a configuration file and print what it means.
    Check(WithConfig),
    /// Print every token key that the running server holds.
    Status(WithConfig),
    /// End tokens in memory and on disk; the next request asks the upstream again.
    ///
    /// It is over when it returns: no worker serves them any more, and an answer that was under way
    /// is thrown away. For root and the server's own user. Exit code 1 if no key matches.
    Purge(operate::Args),
    /// Ask the upstream for tokens anew, now, and say of each key how that ended.
    ///
    /// Calls stay within the budget and go after everybody else's; those that have not ended after
    /// 25 seconds are told as `waiting` and go on. `unchanged`: the upstream gave the same token
    /// again. What is held is served meanwhile, and stays if the call fails. For root and the
    /// server's own user. Exit code 1 if no key matches, or one is neither renewed nor unchanged.
    Refresh(operate::Args),
    /// Look at what is stored, or erase it.
    ///
    /// Over the admin socket while the server runs, on the files otherwise. For root and the
    /// server's own user.
    #[command(subcommand)]
    Store(store::Command),
    /// Change the key that the store is sealed with. For root and the server's own user.
    #[command(subcommand)]
    Key(store::KeyCommand),
    /// Ask the running server for a token, as a client does.
    Token(token::Args),
    /// Print the environment variables that point a client at the server, its secret included.
    Env(env::Args),
}

#[derive(clap::Args)]
struct WithConfig {
    /// The configuration file of the server (TOML). Without one, the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command failed; decides the exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("a thread has panicked; the log says which")]
    Broken,
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// 1 anything else · 2 wrong usage or configuration · 3 address in use · 4 store in use.
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Start(StartError::OwnUpstream(_)) => 2,
            Self::Start(StartError::Bind(BindError::InUse { .. })) => 3,
            Self::Start(StartError::Store(_)) => 4,
            _ => 1,
        }
    }
}

/// Writes to standard output. Whoever reads it may close it early, as `head` does.
fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done.map_err(anyhow::Error::from)?),
    }
}

/// Runs the command line and returns the process's exit code; errors are one message on standard
/// error.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Serve(args) => serve::run(args.config.as_deref()),
        #[cfg(feature = "demo")]
        Command::Demo => demo::run(),
        Command::Check(args) => check::run(args.config.as_deref()),
        Command::Status(args) => status::run(args.config.as_deref()),
        Command::Purge(args) => operate::purge(&args),
        Command::Refresh(args) => operate::refresh(&args),
        Command::Store(command) => store::run(&command),
        Command::Key(command) => store::run_key(&command),
        Command::Token(args) => token::run(&args),
        Command::Env(args) => env::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("foretoken: {failure:#}");
            ExitCode::from(failure.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_lost_a_thread_ends_as_one_that_its_supervisor_starts_again() {
        assert_eq!(Failure::Broken.code(), 1);
    }
}
