//! What is sent: every recorded request, every case of the corpus, and mutations of both.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use foretoken::protocol::Dialect;
use serde_json::Value;

use super::mutate::{Message, spoil};
use crate::support::corpus;
use crate::support::recorded::text;
use crate::support::replay::{RECORDED_KEY, dialect_at};

/// The listeners of both sides, by their order: those of `replay::listeners` behind the default one.
pub const NO_METADATA: usize = 0;
pub const PLAIN: usize = 1;
pub const DATES: usize = 2;
pub const ARC: usize = 3;
pub const FABRIC: usize = 4;
pub const SHELL: usize = 5;

/// Stands for the key of a challenge that was made just before.
pub const ARC_KEY: &[u8] = b"the-key-of-the-challenge";
/// Gets a challenge.
pub const CHALLENGE: &[u8] =
    b"GET /metadata/identity/oauth2/token?api-version=2020-06-01&resource=r \
    HTTP/1.1\r\nHost: localhost\r\nMetadata: true\r\n\r\n";

/// Bytes for one connection.
pub struct Stream {
    pub name: String,
    pub listener: usize,
    pub bytes: Vec<u8>,
}

/// Every recorded request, twice on one connection: a miss or what is known by then, then a hit.
pub fn recorded() -> impl Iterator<Item = Stream> {
    requests().into_iter().map(|(_, mut stream)| {
        let again = stream.bytes.clone();
        stream.bytes.extend(again);
        stream
    })
}

/// Every case, alone and behind a good request, with and without the rule of `Metadata: true`.
pub fn corpus() -> impl Iterator<Item = Stream> {
    let requests = requests();
    let front = move |listener: usize| {
        let spoken = match listener {
            SHELL => Dialect::CloudShell,
            _ => Dialect::Imds,
        };
        let good = requests.iter().find(|(dialect, _)| *dialect == spoken);
        good.expect("a recorded request").1.bytes.clone()
    };
    corpus::load().into_iter().flat_map(move |case| {
        let listeners: &[usize] = match &*case.listener {
            "cloud-shell" => &[SHELL],
            _ => &[PLAIN, NO_METADATA],
        };
        let streams = listeners.iter().flat_map(|listener| {
            let behind = [front(*listener), case.bytes.clone()].concat();
            [case.bytes.clone(), behind].map(|bytes| Stream {
                name: case.name.clone(),
                listener: *listener,
                bytes,
            })
        });
        streams.collect::<Vec<_>>()
    })
}

/// Mutations of recorded requests, without end: alone, or between requests as they were recorded,
/// so that what is remembered of those is there to be confused with.
pub fn generated(seed: u64) -> impl Iterator<Item = Stream> {
    let requests = requests();
    let mut rng = Rng::with_seed(seed);
    std::iter::from_fn(move || {
        // As many of each dialect: some are recorded far more often than others.
        let dialect = Dialect::ALL[rng.usize(..Dialect::ALL.len())];
        let of = requests.iter().filter(|(spoken, _)| *spoken == dialect);
        let of: Vec<_> = of.map(|(_, stream)| stream).collect();
        let base = of[rng.usize(..of.len())];
        let listener = match base.listener {
            PLAIN if rng.u8(..4) == 0 => NO_METADATA,
            listener => listener,
        };
        let mutant = |rng: &mut Rng| {
            let mut message = Message::read(&base.bytes);
            for _ in 0..=rng.usize(..3) {
                message.mutate(rng);
            }
            let mut bytes = message.bytes(rng);
            if rng.u8(..8) == 0 {
                spoil(&mut bytes, rng);
            }
            bytes
        };
        let good = || base.bytes.clone();
        let bytes = match rng.u8(..4) {
            0 => mutant(&mut rng),
            1 => [good(), mutant(&mut rng)].concat(),
            2 => [good(), mutant(&mut rng), good()].concat(),
            _ => [mutant(&mut rng), good(), mutant(&mut rng)].concat(),
        };
        Some(Stream {
            name: base.name.clone(),
            listener,
            bytes,
        })
    })
}

/// Every recorded request, at each listener where its client could be pointed.
fn requests() -> Vec<(Dialect, Stream)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recordings");
    let files = fs::read_dir(folder).expect("the folder of recordings");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let mut streams = Vec::new();
    for file in files {
        let recording = fs::read_to_string(&file).expect("a recording");
        let recording: Value = serde_json::from_str(&recording).expect("JSON");
        for exchange in recording["exchanges"].as_array().expect("exchanges") {
            let sent = STANDARD.decode(text(&exchange["request"], "raw_b64"));
            let sent = with_placeholder(sent.expect("base64"));
            let dialect = dialect_at(&recording, exchange);
            let listeners: &[usize] = match dialect {
                Dialect::Arc => &[ARC],
                Dialect::ServiceFabric => &[FABRIC],
                Dialect::CloudShell => &[SHELL],
                Dialect::AppService2017 => &[PLAIN, DATES],
                _ => &[PLAIN],
            };
            streams.extend(listeners.iter().map(|listener| {
                let name = file.file_stem().expect("a name").to_string_lossy();
                let (name, bytes) = (name.into_owned(), sent.clone());
                let stream = Stream {
                    name,
                    listener: *listener,
                    bytes,
                };
                (dialect, stream)
            }));
        }
    }
    streams
}

fn with_placeholder(sent: Vec<u8>) -> Vec<u8> {
    let mark = RECORDED_KEY.as_bytes();
    let Some(start) = sent.windows(mark.len()).position(|window| window == mark) else {
        return sent;
    };
    let rest = &sent[start..];
    let end = rest
        .iter()
        .position(|byte| *byte == b'\r')
        .expect("a line's end");
    [&sent[..start], ARC_KEY, &rest[end..]].concat()
}
