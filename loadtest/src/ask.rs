//! A plain link that asks one thing after the other and waits: for what comes before and after a
//! load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
use foretoken_emulator::Counts;

use crate::answer::{self, Read as Parsed};
use crate::heads::{Client, Head};
use crate::keys::resource;
use crate::plan::{Plan, Target};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// After an answer that was no token, before the same key is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

trait Stream: Read + Write + Send {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// An open link with nothing on its way.
pub(crate) struct Asker {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Asker {
    pub(crate) fn open(target: &Target) -> anyhow::Result<Self> {
        let open = || -> std::io::Result<Box<dyn Stream>> {
            Ok(match target {
                Target::Tcp(address) => {
                    let stream = TcpStream::connect(address)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
                Target::Unix(path) => {
                    let stream = UnixStream::connect(path)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    Box::new(stream)
                }
            })
        };
        Ok(Self {
            stream: open().with_context(|| format!("cannot connect to {target}"))?,
            buffer: Vec::new(),
        })
    }

    /// The status and body of the answer to this request.
    pub(crate) fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let mut piece = [0; 16 * 1024];
        loop {
            match answer::read(&self.buffer) {
                Parsed::Whole(answer) => return Ok((answer.status, answer.body.into_owned())),
                Parsed::Bad => bail!("the answer is not HTTP"),
                Parsed::Part => {}
            }
            match self.stream.read(&mut piece)? {
                0 => bail!("the link was closed within an answer"),
                read => self.buffer.extend_from_slice(&piece[..read]),
            }
        }
    }

    /// Asks for a token of this key. The status and body of the answer.
    pub(crate) fn token(
        &mut self,
        target: &Target,
        key: usize,
        keys: usize,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut request = Vec::new();
        let head = Head::new(Client::default(), target, &resource(key, keys));
        head.append(&mut request, &mut fastrand::Rng::new());
        self.ask(&request)
    }
}

/// Asks for each key of a plan until there is a token for it, one after the other.
pub(crate) fn prime(plan: &Plan, mut over: impl FnMut() -> bool) -> anyhow::Result<()> {
    let mut asker = Asker::open(&plan.target)?;
    for key in 0..plan.keys {
        loop {
            match asker.token(&plan.target, key, plan.keys) {
                Ok((200, _)) => break,
                Ok(_) => {}
                // A server may end a link after a refusal.
                Err(_) => asker = Asker::open(&plan.target)?,
            }
            if over() {
                bail!(
                    "after {key} of {} keys it is time, and they have no tokens",
                    plan.keys
                );
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// The counts of the emulator that listens there.
pub(crate) fn emulator_counts(address: SocketAddr) -> anyhow::Result<Counts> {
    let ask = || {
        let request = format!("GET /_emulator/counts HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let (status, body) = Asker::open(&Target::Tcp(address))?.ask(request.as_bytes())?;
        anyhow::ensure!(status == 200, "status {status}");
        Ok(serde_json::from_slice(&body)?)
    };
    ask().with_context(|| format!("no emulator tells its counts on {address}"))
}
