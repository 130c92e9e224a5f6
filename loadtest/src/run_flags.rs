//! The flags of `foretoken-load run`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use foretoken_load::{Client, Keep, Length, Pace, Plan, Target, span};

/// Asks one address for tokens and checks every answer
///
/// Prints the results as JSON (see loadtest/README.md) and a summary on standard error. Ends with 3
/// if an answer was wrong; refusals and failures are counted, and no error. With `-- COMMAND` it
/// starts the server itself, waits until it listens, measures it, and ends it.
#[derive(Args)]
pub struct RunFlags {
    /// Where to ask: IP:PORT or unix:PATH
    #[arg(long, value_name = "TARGET", default_value = "127.0.0.1:16925")]
    to: Target,

    /// Open loop: so many requests a second, whatever the answers do; latency counts from when
    /// each was to be sent. Without it, a closed loop: each link asks as soon as it is answered
    #[arg(long, value_name = "PER SECOND")]
    rate: Option<u32>,

    /// Links at the same time
    #[arg(long, value_name = "N", default_value_t = 64)]
    links: usize,

    /// A link for each request
    #[arg(long)]
    connect_each: bool,

    /// Requests on the way at the same time on each link
    #[arg(long, value_name = "N", default_value_t = 1)]
    pipeline: usize,

    /// Whose request is sent, a new request id in each; several are mixed by their weights.
    /// `foretoken-load clients` lists them [default: python-azure-identity]
    #[arg(long, value_name = "NAME[=WEIGHT]", value_parser = client)]
    client: Vec<(Client, u32)>,

    /// How many keys (resources) are asked for
    #[arg(long, value_name = "N", default_value_t = 1)]
    keys: usize,

    /// Exponent of Zipf's law among the keys: 0 asks for all alike, 1 for the second half as often
    /// as for the first
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    skew: f64,

    /// Ask for each key until there is a token before the load begins, for so long at most
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub prime: Option<Duration>,

    /// The same load before the measured part; its answers are checked, and counted apart
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "0s")]
    warm_up: Duration,

    /// How long requests are begun
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "10s")]
    duration: Duration,

    /// So many requests in place of a time
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    requests: Option<u64>,

    /// How long an answer is waited for; in an open loop also how late a request may be sent
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "30s")]
    timeout: Duration,

    /// So many client processes in place of this one, which share links and requests out
    #[arg(long, value_name = "N", default_value_t = 0)]
    processes: usize,

    /// How long each of them lives; then a new one takes its place, with new links
    #[arg(long, value_name = "SPAN", value_parser = span, requires = "processes")]
    restart_every: Option<Duration>,

    /// In a closed loop, a pause between an answer and the next request of a link, give or take half
    #[arg(long, value_name = "SPAN", value_parser = span, conflicts_with = "rate")]
    think: Option<Duration>,

    /// Width of the intervals of the timeline in the results; 0s leaves it out
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "100ms")]
    interval: Duration,

    /// Threads of the driver, or of each process of it, which share the links out
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,

    /// CPUs of these threads, in turn
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    cpus: Vec<usize>,

    /// Seed of keys, clients and request ids
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Links more, which ask once before the load and are idle beside it, to see what each costs
    /// the server in memory
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub idle: usize,

    /// The server's process, to see what it and its children use
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,

    /// The emulator upstream, to see how many calls arrived there
    #[arg(long, value_name = "IP:PORT")]
    pub emulator: Option<SocketAddr>,

    /// Where a Foretoken tells its metrics (`admin.address`), to see how late it renews
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<SocketAddr>,

    /// How long before and after a call upstream requests count as around it
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "1s")]
    pub window: Duration,

    /// A file for the results in place of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// CPUs of a server that is started here
    #[arg(long, value_name = "CPU,…", value_delimiter = ',', requires = "server")]
    pub server_cpus: Vec<usize>,

    /// The server to start
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "pid")]
    pub server: Vec<OsString>,
}

fn client(text: &str) -> Result<(Client, u32), String> {
    let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight = weight.parse();
    let weight = weight.map_err(|_| format!("`{text}` has no weight that is a whole number"))?;
    Ok((name.parse()?, weight))
}

impl RunFlags {
    /// The load.
    pub fn plan(&self) -> Plan {
        let clients = if self.client.is_empty() {
            vec![(Client::default(), 1)]
        } else {
            self.client.clone()
        };
        Plan {
            target: self.to.clone(),
            pace: Pace::at(self.rate),
            keep: Keep::of(self.connect_each),
            after: Duration::ZERO,
            think: self.think,
            links: self.links,
            pipeline: self.pipeline,
            clients,
            keys: self.keys,
            skew: self.skew,
            warm_up: self.warm_up,
            length: self
                .requests
                .map_or(Length::For(self.duration), Length::Requests),
            timeout: self.timeout,
            processes: self.processes,
            restart_every: self.restart_every,
            threads: self.threads,
            cpus: self.cpus.clone(),
            seed: self.seed,
            interval: self.interval,
        }
    }
}
