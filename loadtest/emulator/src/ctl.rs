//! `foretoken-emulator ctl`: asks the control path of an emulator that runs.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use foretoken_emulator::Planned;
use serde_json::Value;

/// How long the emulator may take over an answer; it does so in milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Steers an emulator that runs
#[derive(Args)]
pub struct Ctl {
    /// Where it listens, or its control listener
    #[arg(
        long,
        default_value = "127.0.0.1:16924",
        value_name = "ADDRESS:PORT",
        global = true
    )]
    at: SocketAddr,

    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand)]
enum Order {
    /// Shows the modes in force
    List,
    /// Puts a fault mode in force beside those that are
    Set {
        /// Its name; `--list-faults` shows all of them
        mode: String,
        /// For the next N requests
        #[arg(long, value_name = "N")]
        times: Option<u32>,
        /// For this many milliseconds
        #[arg(long, value_name = "MS")]
        for_ms: Option<u64>,
        /// For this share of the requests (above 0, at most 1)
        #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
        share: f64,
        /// For every request instead of only for token requests
        #[arg(long)]
        all_requests: bool,
    },
    /// Takes a mode away, or everything
    Clear {
        /// Its name
        mode: Option<String>,
    },
    /// Shows the counts
    Counts,
    /// Counts from zero
    Reset,
    /// Forgets issued tokens: the next answers have new ones
    ForgetTokens,
    /// Plays a scenario
    Play {
        /// The file (TOML)
        file: PathBuf,
        /// How many seconds of the timeline pass in one; without it, as the file says
        #[arg(long)]
        scale: Option<f64>,
    },
    /// Shows where the scenario stands
    Scenario,
    /// Ends the scenario
    Stop,
}

impl Ctl {
    /// Carries the order out, and prints what the emulator says.
    pub fn run(self) -> anyhow::Result<()> {
        let (method, action, body) = self.order.request()?;
        let (status, answer) = ask(self.at, method, &action, &body)?;
        let answer: Value = serde_json::from_str(&answer)
            .with_context(|| format!("{} is no emulator: {answer:.100}", self.at))?;
        if status != 200 {
            bail!("{}", answer["error"].as_str().unwrap_or("refused"));
        }
        let text = serde_json::to_string_pretty(&answer)?;
        // Whoever closes the pipe has read enough.
        let _ = writeln!(io::stdout(), "{text}");
        Ok(())
    }
}

impl Order {
    /// Method, action and body.
    fn request(self) -> anyhow::Result<(&'static str, String, String)> {
        let plain = |method, action: &str| (method, action.to_owned(), String::new());
        Ok(match self {
            Self::List => plain("GET", "modes"),
            Self::Set {
                mode,
                times,
                for_ms,
                share,
                all_requests,
            } => {
                let planned = Planned {
                    mode,
                    share,
                    times,
                    for_ms,
                    all_requests,
                };
                ("POST", "modes".to_owned(), serde_json::to_string(&planned)?)
            }
            Self::Clear { mode: Some(mode) } => plain("DELETE", &format!("modes/{mode}")),
            Self::Clear { mode: None } => plain("DELETE", "modes"),
            Self::Counts => plain("GET", "counts"),
            Self::Reset => plain("POST", "reset"),
            Self::ForgetTokens => plain("POST", "forget-tokens"),
            Self::Play { file, scale } => {
                let text = fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                let scale = scale.map(|scale| format!("?scale={scale}"));
                let action = format!("scenario{}", scale.unwrap_or_default());
                ("POST", action, text)
            }
            Self::Scenario => plain("GET", "scenario"),
            Self::Stop => plain("DELETE", "scenario"),
        })
    }
}

/// Status and body of the answer. Plain HTTP: kinds that speak TLS take it on the control path.
fn ask(at: SocketAddr, method: &str, action: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, DEADLINE)
        .with_context(|| format!("no emulator listens on {at}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let head = format!(
        "{method} /_emulator/{action} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("{at} does not answer"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{at} is no emulator"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("{at} is no emulator"))?;
    Ok((status, body.to_owned()))
}
