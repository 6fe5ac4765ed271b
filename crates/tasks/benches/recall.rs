//! How fast examples are made: a training step of a small model must not wait for its data.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memwall_tasks::{Generator, MqarConfig, Philox};

fn generate(c: &mut Criterion) {
    for (vocab, time, pairs) in [(128, 64, 8), (8192, 64, 4), (8192, 512, 64)] {
        let config = MqarConfig { random_non_queries: false, ..MqarConfig::new(vocab, time, pairs, 1) };
        let mut group = c.benchmark_group("mqar");
        group.throughput(Throughput::Elements(1)).sample_size(20);
        let mut stream = 0;
        group.bench_function(format!("V={vocab} T={time} n={pairs}"), |b| {
            b.iter(|| {
                stream += 1;
                config.generate(&mut Philox::new(1, stream))
            })
        });
    }
}

criterion_group!(benches, generate);
criterion_main!(benches);
