//! `foretoken-emulator`: the emulator as a program. Prints where it listens; Ctrl-C ends it.

mod ctl;
mod fault_flags;
mod kind_flags;

use std::fs;
use std::future::pending;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use foretoken_emulator::{Emulator, Identities, Limits, Settings};

use crate::ctl::Ctl;
use crate::fault_flags::FaultFlags;
use crate::kind_flags::KindFlags;

/// How often the end of a scenario is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Emulates Azure's sources of managed identity tokens, with limits and faults.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    kind: KindFlags,

    #[command(flatten)]
    faults: FaultFlags,

    /// Where the control path listens besides, out of reach of faults
    #[arg(long, value_name = "ADDRESS:PORT")]
    control: Option<SocketAddr>,

    /// The seed of what is left to chance
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// service-fabric, entra: where to write the certificate that callers may trust (PEM)
    #[arg(long, value_name = "FILE")]
    trust_file: Option<PathBuf>,

    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:16924", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// The identities of the machine (TOML); without it, any that is asked for
    #[arg(long, value_name = "FILE")]
    identities: Option<PathBuf>,

    /// Another RSA signing key (PKCS#8 PEM); without it, the published test key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// The directory tenant in tokens
    #[arg(long, value_name = "GUID")]
    tenant: Option<String>,

    /// The issuer in tokens; without it, `https://sts.windows.net/<tenant>/`
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,

    /// A text to put into every token, to find tokens where they should not be
    #[arg(long, value_name = "TEXT")]
    canary: Option<String>,

    /// Seconds from issuance to expiry of a token
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    lifetime: u64,

    /// Milliseconds a granted token request waits
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency_ms: u64,

    /// Replace a token when this share of its life, or less, is left (0 to 1)
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    reissue_below: f64,

    /// Token requests served in any one second; 0 for no limit
    #[arg(long, default_value_t = 20, value_name = "N")]
    requests_per_s: u32,

    /// Token requests served at the same time; 0 for no limit
    #[arg(long, default_value_t = 5, value_name = "N")]
    at_once: u32,

    /// No limits on token requests
    #[arg(long, conflicts_with_all = ["requests_per_s", "at_once"])]
    no_limits: bool,
}

#[derive(Subcommand)]
enum Command {
    Ctl(Ctl),
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: a mistake in a file or on the command line is no reason for a backtrace.
            eprintln!("foretoken-emulator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> anyhow::Result<()> {
    if let Some(Command::Ctl(ctl)) = options.command.take() {
        return ctl.run();
    }
    if options.faults.list_faults {
        let _ = write!(io::stdout(), "{}", options.faults.catalogue()?);
        return Ok(());
    }
    let scenario = options.faults.scenario()?;
    let trust_file = options.trust_file.clone();
    let modes = std::mem::take(&mut options.faults.fault);
    let exit = options.faults.exit;
    let emulator = Emulator::start(settings(options)?).context("cannot start")?;
    if let Some(file) = trust_file {
        let trusted = emulator.ca_pem().or(emulator.certificate_pem());
        let trusted = trusted.context("--trust-file needs a kind that speaks TLS")?;
        fs::write(&file, trusted).with_context(|| format!("cannot write {}", file.display()))?;
    }
    for mode in &modes {
        emulator.set_mode(mode.as_str())?;
    }
    say(&format!(
        "foretoken-emulator listening on {}",
        emulator.base_url()
    ));
    if let Some(address) = emulator.control_address() {
        say(&format!("control path on http://{address}"));
    }
    for (name, value) in emulator.environment() {
        say(&format!("{name}={value}"));
    }
    if let Some(scenario) = scenario {
        emulator.play(scenario);
    }
    wait(&emulator, exit)?;
    if exit {
        say(&serde_json::to_string(&emulator.counts())?);
    }
    emulator.stop();
    Ok(())
}

/// A line for who started it. It goes on if nobody reads that any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Until Ctrl-C, or until the scenario is over if it is to end with that.
fn wait(emulator: &Emulator, exit: bool) -> anyhow::Result<()> {
    let over = async {
        if !exit {
            pending::<()>().await;
        }
        while emulator.scenario().is_some_and(|state| !state.ended) {
            tokio::time::sleep(LOOK).await;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            () = over => Ok(()),
            ended = tokio::signal::ctrl_c() => ended.context("cannot wait for Ctrl-C"),
        }
    })
}

fn settings(options: Options) -> anyhow::Result<Settings> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let defaults = Settings::default();
    let identities = match &options.identities {
        Some(path) => {
            Identities::from_toml(&read(path)?).with_context(|| format!("in {}", path.display()))?
        }
        None => defaults.identities,
    };
    let limits = Limits {
        requests_per_s: options.requests_per_s,
        at_once: options.at_once,
    };
    Ok(Settings {
        kind: options.kind.into_kind()?,
        listen: options.listen,
        identities,
        tenant_id: options.tenant.unwrap_or(defaults.tenant_id),
        issuer: options.issuer,
        key_pem: options.key.as_ref().map(read).transpose()?,
        canary: options.canary,
        lifetime_s: options.lifetime,
        latency_ms: options.latency_ms,
        reissue_below: options.reissue_below,
        limits: if options.no_limits {
            Limits::NONE
        } else {
            limits
        },
        control: options.control,
        seed: options.seed,
    })
}
