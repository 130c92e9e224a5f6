//! What does a publish cost the readers?
//!
//! `hit_unchanged`, and `hit_after_a_publish`: the first hit of a worker on a new entry, which finds
//! the entry and renders its answer. `hit_beside_a_publisher`: while another thread gives the same
//! key one token after the other, which nobody does.

mod house;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use foretoken::protocol::Dialect;
use house::{House, gate, hit, python_sdk};

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group.throughput(Throughput::Elements(1));
    let (house, gate, bytes) = (House::default(), gate(Dialect::Imds), python_sdk(0));
    let permit = house.permit(&gate, &bytes);
    house.publish(&permit);
    let mut worker = house.worker();
    group.bench_function("hit_unchanged", |b| {
        b.iter_batched(
            || (),
            |()| hit(&mut worker, &gate, &bytes),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("hit_after_a_publish", |b| {
        b.iter_batched(
            || house.publish(&permit),
            |()| hit(&mut worker, &gate, &bytes),
            BatchSize::PerIteration,
        );
    });
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                house.publish(&permit);
            }
        });
        group.bench_function("hit_beside_a_publisher", |b| {
            b.iter(|| hit(&mut worker, &gate, &bytes));
        });
        stop.store(true, Ordering::Relaxed);
    });
    group.finish();
    drop(worker);
    house.stop();
}

criterion_group!(benches, publish);
criterion_main!(benches);
