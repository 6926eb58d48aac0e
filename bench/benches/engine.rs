//! `cargo bench -p sealane-bench`: what the engine's parts take, in time; with a word behind it, only those whose names have it.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sealane_bench::{measured, scenarios};

fn engine(criterion: &mut Criterion) {
    for scenario in scenarios() {
        let (part, variant) = scenario.name.split_once('/').unwrap_or((&scenario.name, "all"));
        let mut group = criterion.benchmark_group(part);
        match scenario.bytes {
            0 => group.throughput(Throughput::Elements(scenario.units)),
            bytes => group.throughput(Throughput::Bytes(bytes)),
        };
        let work = std::cell::RefCell::new(None);
        group.bench_function(variant, |bencher| {
            let mut work = work.borrow_mut();
            let work = std::cell::RefCell::new(work.get_or_insert_with(|| scenario.work()));
            bencher.iter_batched(
                || work.borrow_mut().prepare(),
                |()| measured(work.borrow_mut().as_mut()),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);
