//! The `foretoken` program.

use std::process::ExitCode;

use clap::Parser as _;
use foretoken::cli;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
