//! `foretoken-load`: the load driver as a program.

mod compare_flags;
mod progress;
mod run_flags;

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use foretoken_load::compare::compare;
use foretoken_load::{
    Around, Client, Own, Report, Scenario, Server, Source, hyper_version, measure,
};

use crate::compare_flags::{CompareFlags, PeerCommand};
use crate::progress::{Progress, Rounds};
use crate::run_flags::RunFlags;

/// The exit code if an answer was wrong; 1 is for what could not be carried out, 2 for a mistake on
/// the command line.
const WRONG: u8 = 3;

/// The exit code if a scenario did not come to what its file expects.
const UNEXPECTED: u8 = 4;

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
    Scenario(ScenarioFlags),
    Compare(CompareFlags),
    /// A server that `compare` brings itself
    #[command(subcommand, hide = true)]
    Peer(PeerCommand),
    Html(HtmlFlags),
    /// What a load with processes starts; not for people.
    #[command(name = foretoken_load::CLIENT_COMMAND, hide = true)]
    Client,
    /// Lists the clients whose requests can be sent
    Clients,
}

/// Plays a scenario: an emulator, a server in front of it, and several loads at once
///
/// The file is described in loadtest/README.md; some lie in loadtest/loads. Prints the results as
/// `run` does, and ends as it does; with 4 if a count is not what the file expects.
#[derive(Args)]
struct ScenarioFlags {
    /// The scenario (TOML)
    file: PathBuf,

    /// The program that a scenario means by `foretoken`; without it, the one beside this program,
    /// else the one in the PATH
    #[arg(long, value_name = "FILE")]
    foretoken: Option<PathBuf>,

    /// A file for the results in place of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes one page of results, of `run`, `scenario` or `compare`, for a browser
///
/// It has plots, and tables of all that they show; it loads nothing from anywhere and has no scripts.
#[derive(Args)]
struct HtmlFlags {
    /// The results (JSON)
    #[arg(required = true)]
    results: Vec<PathBuf>,

    /// The page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Run(flags) => run(&flags).map(|report| verdict(&report)),
        Command::Scenario(flags) => scenario(&flags).map(|report| verdict(&report)),
        Command::Compare(flags) => side_by_side(&flags).map(of_wrong),
        Command::Peer(command) => peer(&command).map(|()| ExitCode::SUCCESS),
        Command::Html(flags) => page(&flags).map(|()| ExitCode::SUCCESS),
        Command::Client => foretoken_load::client().map(|()| ExitCode::SUCCESS),
        Command::Clients => {
            for client in Client::all() {
                // Nobody may read that any more.
                let _ = writeln!(io::stdout(), "{}", client.name());
            }
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("foretoken-load: {error:#}");
        ExitCode::FAILURE
    })
}

fn verdict(report: &Report) -> ExitCode {
    let names: Vec<_> = report.broken().map(|it| &*it.name).collect();
    if report.wrong() == 0 && !names.is_empty() {
        eprintln!("foretoken-load: not as expected: {}", names.join(", "));
        return ExitCode::from(UNEXPECTED);
    }
    of_wrong(report.wrong())
}

fn of_wrong(answers: u64) -> ExitCode {
    if answers > 0 {
        ExitCode::from(WRONG)
    } else {
        ExitCode::SUCCESS
    }
}

fn peer(command: &PeerCommand) -> anyhow::Result<()> {
    match command {
        PeerCommand::Limit(flags) => flags.serve(Own::Limit),
        PeerCommand::Hyper(flags) => flags.serve(Own::Hyper),
        PeerCommand::Version => {
            println!("hyper {}", hyper_version());
            Ok(())
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
        window: flags.window,
        admin: flags.admin,
        ..Around::default()
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

fn scenario(flags: &ScenarioFlags) -> anyhow::Result<Report> {
    let beside = || {
        let beside = env::current_exe().ok()?.with_file_name("foretoken");
        beside.is_file().then_some(beside)
    };
    let foretoken = flags.foretoken.clone().or_else(beside);
    let foretoken = foretoken.unwrap_or_else(|| "foretoken".into());
    let mut progress = None;
    let report = Scenario::read(&flags.file)?.play(&foretoken, |plans| {
        let shown = Arc::new(Progress::new(plans.iter().map(|(_, plan)| plan)));
        progress = Some(Arc::clone(&shown));
        move |load, moment| shown.tell(load, moment)
    });
    if let Some(progress) = progress {
        progress.end();
    }
    let report = report?;
    tell(&report, flags.out.as_deref())?;
    Ok(report)
}

fn side_by_side(flags: &CompareFlags) -> anyhow::Result<u64> {
    let options = flags.options()?;
    let rounds = Rounds::new();
    let results = compare(&options, |step| rounds.tell(step));
    rounds.end();
    let results = results?;
    if let Some(file) = &flags.out {
        fs::write(file, results.json())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    io::stdout().write_all(results.table().as_bytes())?;
    Ok(results.wrong())
}

fn page(flags: &HtmlFlags) -> anyhow::Result<()> {
    let read = flags.results.iter().map(|file| {
        let name = file.display().to_string();
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
        let value = serde_json::from_str(&text).with_context(|| format!("in {name}"))?;
        Ok((name, value))
    });
    let page = foretoken_load::html(&read.collect::<anyhow::Result<Vec<_>>>()?)?;
    fs::write(&flags.out, page).with_context(|| format!("cannot write {}", flags.out.display()))
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
