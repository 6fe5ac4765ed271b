//! What handing out memory costs: guards of a tier, loading and growing.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use memwall_store::{Advice, Budget, Extent, Extents, Mapped, Ram, Reserved, TensorId, Tier};
use std::hint::black_box;
use std::io::Write;
use std::path::Path;

const MIB: usize = 1 << 20;

/// 16 tensors of 16 MiB in one file, in the page cache.
fn weights(folder: &Path) -> Extents {
    let path = folder.join("weights");
    let mut file = std::fs::File::create(&path).expect("a temporary file");
    let chunk = vec![7u8; MIB];
    for _ in 0..256 {
        file.write_all(&chunk).expect("room for 256 MiB");
    }
    let tensor = |i: usize| Extent {
        name: format!("w{i}"),
        file: 0,
        offset: (i * 16 * MIB) as u64,
        bytes: 16 * MIB,
        checksum: None,
    };
    Extents { files: vec![path], tensors: (0..16).map(tensor).collect() }
}

fn memory(c: &mut Criterion) {
    let budget = Budget::unlimited();
    let mut kv = Reserved::new(&budget, "kv", 1, 1 << 30).expect("addresses");
    c.bench_function("grow a region by a page", |b| {
        b.iter(|| {
            let bytes = (kv.held(0) + 4096) % (1 << 30);
            kv.resize(0, bytes).expect("inside the capacity");
        })
    });
    c.bench_function("take from a budget and give back", |b| b.iter(|| budget.take("io", 4096)));
}

fn tiers(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let extents = weights(folder.path());
    let budget = Budget::unlimited();
    let ram = Ram::load(&budget, &extents).expect("a good file");
    let mapped = Mapped::open(&budget, extents.clone(), Advice::Normal).expect("a good file");
    c.bench_function("guard from memory", |b| b.iter(|| ram.get(black_box(TensorId(3)))));
    c.bench_function("guard from a mapping", |b| b.iter(|| mapped.get(black_box(TensorId(3)))));
    drop((ram, mapped));
    let mut group = c.benchmark_group("load 256 MiB from the page cache");
    group.throughput(Throughput::Bytes(extents.bytes() as u64)).sample_size(10);
    group.bench_function("read into place", |b| {
        b.iter_batched(|| (), |()| Ram::load(&budget, &extents).expect("a good file"), BatchSize::PerIteration)
    });
    group.bench_function("map and touch every page", |b| {
        b.iter_batched(
            || (),
            |()| {
                let tier = Mapped::open(&budget, extents.clone(), Advice::Normal).expect("a good file");
                let touch = |i| {
                    tier.get(TensorId(i)).expect("a good file").iter().step_by(4096).map(|&b| u64::from(b)).sum::<u64>()
                };
                (0..16).map(touch).sum::<u64>()
            },
            BatchSize::PerIteration,
        )
    });
}

criterion_group!(benches, memory, tiers);
criterion_main!(benches);
