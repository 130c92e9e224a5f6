//! How long does a hit take, in each dialect and with each client's head?
//!
//! `hit_{dialect}_{head}`: from the bytes of the head to the finished body, by the handler.
//! `loop_{dialect}_{head}`: by the whole connection loop, with the answer's bytes, on a pipe in memory
//! whose client is counted too. Everything is warm; the kernel has no part in it.

mod house;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement as _, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foretoken::protocol::Dialect;
use foretoken::server::rehearsal;
use house::{House, caller, gate, hit, longest, of_dialect, python_sdk, short};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// More than an answer, so that nobody waits for room.
const PIPE_BYTES: usize = 64 * 1024;

fn cases() -> Vec<(String, Dialect, Vec<u8>)> {
    let heads = [
        ("short", short(0)),
        ("python_sdk", python_sdk(0)),
        ("longest", longest(0)),
    ];
    let imds = heads
        .into_iter()
        .map(|(name, bytes)| (format!("imds_{name}"), Dialect::Imds, bytes));
    let others = Dialect::ALL
        .into_iter()
        .filter(|dialect| !matches!(dialect, Dialect::Imds | Dialect::Arc))
        .map(|dialect| {
            let name = format!("{}_python_sdk", dialect.as_str().replace('-', "_"));
            (name, dialect, of_dialect(dialect, 0))
        });
    imds.chain(others).collect()
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit_path");
    group.throughput(Throughput::Elements(1));
    for (name, dialect, bytes) in cases() {
        let (house, gate) = (House::default(), gate(dialect));
        house.warm(&gate, &bytes);
        let mut worker = house.worker();
        group.bench_function(format!("hit_{name}"), |b| {
            b.iter(|| hit(&mut worker, &gate, black_box(&bytes)));
        });
        house.stop();
    }
    group.finish();
}

fn loops(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit_path");
    group.throughput(Throughput::Elements(1));
    for (name, dialect, bytes) in cases() {
        group.bench_function(format!("loop_{name}"), |b| {
            b.iter_custom(|times| play(dialect, &bytes, times));
        });
    }
    group.finish();
}

/// How long so many hits take on one connection.
fn play(dialect: Dialect, bytes: &[u8], times: u64) -> Duration {
    let (house, gate) = (House::default(), gate(dialect));
    house.warm(&gate, bytes);
    let worker = house.worker();
    let clock = house.stop();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(PIPE_BYTES);
        let asking = async move {
            let mut answer = vec![0; PIPE_BYTES];
            client.write_all(bytes).await.expect("a pipe");
            let length = client.read(&mut answer).await.expect("a pipe");
            let begun = WallTime.start();
            for _ in 0..times {
                client.write_all(bytes).await.expect("a pipe");
                let read = client.read_exact(&mut answer[..length]).await;
                read.expect("a whole answer");
            }
            WallTime.end(begun)
        };
        let serving = rehearsal::serve(server, caller(), worker, gate, clock);
        tokio::join!(serving, asking).1
    })
}

criterion_group!(benches, hits, loops);
criterion_main!(benches);
