//! `foretoken-load`: the load driver as a program.

mod progress;
mod run_flags;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{self, ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use foretoken_load::{Around, Client, Report, Server, Source, measure};

use crate::progress::Progress;
use crate::run_flags::RunFlags;

/// The exit code if an answer was wrong; 1 is for what could not be carried out, 2 for a mistake on
/// the command line.
const WRONG: u8 = 3;

/// Asks managed identity endpoints for tokens as real clients do, checks every answer, and tells
/// how long they took.
#[derive(Parser)]
#[command(version, name = "foretoken-load")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<RunFlags>),
    /// Lists the clients whose requests can be sent
    Clients,
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Run(flags) => run(&flags),
        Command::Clients => {
            for client in Client::all() {
                // Nobody may read that any more.
                let _ = writeln!(io::stdout(), "{}", client.name());
            }
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(report) if report.wrong() > 0 => ExitCode::from(WRONG),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("foretoken-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &RunFlags) -> anyhow::Result<Report> {
    let plan = flags.plan();
    plan.check()?;
    let server = match flags.server.as_slice() {
        [] => None,
        [program, arguments @ ..] => {
            let mut command = process::Command::new(program);
            command.args(arguments);
            Some(Server::start(command, &flags.server_cpus, &plan.target)?)
        }
    };
    let around = Around {
        pid: flags.pid.or(server.as_ref().map(Server::pid)),
        upstream: flags.emulator.map(Source::At),
        idle: flags.idle,
        prime: flags.prime,
        timeline: None,
    };
    let loads = [("run".to_owned(), plan)];
    let progress = Progress::new(loads.iter().map(|(_, plan)| plan));
    let report = measure(&loads, &around, |load, moment| progress.tell(load, moment));
    progress.end();
    let report = report?;
    drop(server);
    tell(&report, flags.out.as_deref())?;
    Ok(report)
}

fn tell(report: &Report, out: Option<&Path>) -> anyhow::Result<()> {
    match out {
        Some(file) => fs::write(file, report.json())
            .with_context(|| format!("cannot write {}", file.display()))?,
        None => io::stdout().write_all(report.json().as_bytes())?,
    }
    eprint!("{}", report.summary());
    Ok(())
}
