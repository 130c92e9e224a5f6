//! `foretoken-emulator`: the emulator as a program. Prints where it listens; Ctrl-C ends it.

mod kind_flags;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use foretoken_emulator::{Emulator, Identities, Limits, Settings};

use crate::kind_flags::KindFlags;

/// Emulates Azure's sources of managed identity tokens, with limits and faults.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    kind: KindFlags,

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

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let trust_file = options.trust_file.clone();
    let emulator = Emulator::start(settings(options)?).context("cannot start")?;
    if let Some(file) = trust_file {
        let trusted = emulator.ca_pem().or(emulator.certificate_pem());
        let trusted = trusted.context("--trust-file needs a kind that speaks TLS")?;
        fs::write(&file, trusted).with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!("foretoken-emulator listening on {}", emulator.base_url());
    for (name, value) in emulator.environment() {
        println!("{name}={value}");
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(tokio::signal::ctrl_c())
        .context("cannot wait for Ctrl-C")?;
    emulator.stop();
    Ok(())
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
    })
}
