//! What does the strict head reader cost beside the parser that it stands on?
//!
//! `strict_{head}`: our reader. `httparse_{head}`: httparse alone, with as many headers.

mod house;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foretoken::server::head::{MAX_HEADERS, read};
use house::{longest, python_sdk, short};

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (name, bytes) in [
        ("short", short(0)),
        ("python_sdk", python_sdk(0)),
        ("longest", longest(0)),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("strict_{name}"), |b| {
            b.iter(|| {
                let mut headers = [(&b""[..], &b""[..]); MAX_HEADERS];
                let found = read(black_box(&bytes), &mut headers).expect("a good head");
                found.expect("a whole one").1
            });
        });
        group.bench_function(format!("httparse_{name}"), |b| {
            b.iter(|| {
                let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
                let mut request = httparse::Request::new(&mut headers);
                let status = request.parse(black_box(&bytes)).expect("a good head");
                assert!(status.is_complete());
                request.headers.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
