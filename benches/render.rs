//! What does it cost to render an entry's answer, which happens once for each entry and shape?
//!
//! `render_{shape}`: a token of 1,600 bytes. `answer_of_a_rendered_entry`: what is left to a hit, the
//! digits that count down.

mod house;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use foretoken::protocol::{Dialect, Digits, Shape, render};
use house::{House, gate, python_sdk, token};

fn renders(c: &mut Criterion) {
    let mut group = c.benchmark_group("render");
    let house = House::default();
    let permit = house.permit(&gate(Dialect::Imds), &python_sdk(0));
    house.stop();
    let token = token();
    for shape in Shape::ALL {
        group.bench_function(format!("render_{shape:?}").to_lowercase(), |b| {
            b.iter(|| render(shape, permit.key(), black_box(&token)));
        });
    }
    let rendered = render(Shape::Metadata, permit.key(), &token);
    group.bench_function("answer_of_a_rendered_entry", |b| {
        b.iter(|| {
            let digits = Digits::new(black_box(86_399));
            rendered.with(&token, &digits).map(<[u8]>::len)
        });
    });
    group.finish();
}

criterion_group!(benches, renders);
criterion_main!(benches);
