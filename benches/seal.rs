//! How long does sealing and opening one stored record take? Off the request path, but a start
//! opens every record before the first answer.

#![allow(missing_docs)] // criterion's macros make public items

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foretoken::clock::UnixMs;
use foretoken::store::keys::Keyring;
use foretoken::store::machine::Machine;
use foretoken::store::record::Record;
use foretoken::store::seal::{Opener, Sealer};
use foretoken::token::{AccessToken, Identity, Lifetime, Resource, Secret, TokenKey};

/// Tokens of managed identities are 1.5 to 2 kB long.
const TOKEN_BYTES: usize = 2048;

fn seal_and_open(c: &mut Criterion) {
    let now = UnixMs(0);
    let keys = Keyring::random().expect("the kernel has random bytes");
    let sealer = Sealer::new(keys, Machine::read(), now);
    let mut sealer = sealer.expect("the kernel has random bytes");
    let key = TokenKey {
        upstream: "imds http://169.254.169.254".into(),
        identity: Identity::System,
        resource: Resource::from_decoded(b"https://vault.azure.net").expect("a plain resource"),
        capabilities: Vec::new(),
        extras: Vec::new(),
        client: None,
    };
    let token = AccessToken {
        secret: Secret::new(vec![b'x'; TOKEN_BYTES]),
        lifetime: Lifetime {
            received_at: UnixMs(0),
            expires_on_s: 86_400,
            not_before_s: Some(0),
            refresh_in_s: None,
        },
        client_id: None,
    };
    let canonical = key.canonical_bytes();
    let name = sealer.fingerprint(&canonical);
    let record = Record {
        key: &canonical,
        token: &token,
        last_used: UnixMs(0),
    };

    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Bytes(TOKEN_BYTES as u64));
    group.bench_function("seal_2kB", |b| {
        b.iter(|| {
            sealer
                .seal(name, black_box(1), &record, now)
                .expect("sealing works")
        });
    });
    let bytes = sealer.seal(name, 1, &record, now).expect("sealing works");
    let open = |opener: &mut Opener| {
        let found = opener.open(&sealer, name, black_box(&bytes));
        found.expect("just sealed").generation
    };
    group.bench_function("open_2kB_known_salt", |b| {
        let mut opener = Opener::default();
        b.iter(|| open(&mut opener));
    });
    group.bench_function("open_2kB_new_salt", |b| {
        b.iter(|| open(&mut Opener::default()));
    });
    group.finish();
}

criterion_group!(benches, seal_and_open);
criterion_main!(benches);
