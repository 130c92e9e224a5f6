//! How does a hit scale with the keys that are held and the threads that serve?
//!
//! `hit_{keys}_keys_{threads}_threads`: by the handler, with Python's head, the keys one after the
//! other; each thread has a worker of its own in front of one cache. More threads than processors
//! measure the scheduler.

mod house;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foretoken::protocol::Dialect;
use house::{House, gate, hit, python_sdk};

fn scale(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit_scale");
    group.throughput(Throughput::Elements(1));
    let gate = gate(Dialect::Imds);
    for keys in [1, 1_000, 10_000] {
        let house = House::default();
        let requests: Vec<_> = (0..keys).map(python_sdk).collect();
        requests
            .iter()
            .for_each(|request| house.warm(&gate, request));
        for threads in [1, 2] {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(|| {
                        let mut worker = house.worker();
                        for request in requests.iter().cycle() {
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            black_box(hit(&mut worker, &gate, request));
                        }
                    });
                }
                let mut worker = house.worker();
                let mut next = requests.iter().cycle();
                group.bench_function(format!("hit_{keys}_keys_{threads}_threads"), |b| {
                    b.iter(|| hit(&mut worker, &gate, next.next().expect("without end")));
                });
                stop.store(true, Ordering::Relaxed);
            });
        }
        house.stop();
    }
    group.finish();
}

criterion_group!(benches, scale);
criterion_main!(benches);
