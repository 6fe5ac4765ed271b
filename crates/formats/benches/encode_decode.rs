//! Encode and decode on one thread, in bytes of f32 a second (GB/s of f32; a quarter of it is values a second).
//!
//! `cargo bench -p memwall-formats -- Q4_K` runs one format. 4096 rows-of-256 pieces of normal weights stay in the second
//! cache level, so the figures are those of the arithmetic, not of memory.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memwall_formats::{Dtype, format};

const VALUES: usize = 256 * 512;

fn weights() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..VALUES).map(|_| 0.02 * (uniform() + uniform() + uniform() + uniform())).collect()
}

fn benches(c: &mut Criterion) {
    let x = weights();
    for (what, encodes) in [("encode", true), ("decode", false)] {
        let mut group = c.benchmark_group(what);
        group.throughput(Throughput::Bytes(4 * VALUES as u64)).sample_size(20);
        for dtype in Dtype::ALL.into_iter().filter(|d| *d != Dtype::I32) {
            let f = format(dtype);
            let mut bytes = vec![0; dtype.row_bytes(VALUES).expect("whole blocks")];
            let mut y = vec![0f32; VALUES];
            group.bench_function(BenchmarkId::from_parameter(dtype), |b| {
                b.iter(|| if encodes { f.encode(VALUES, &x, &mut bytes) } else { f.decode(VALUES, &bytes, &mut y) })
            });
        }
    }
}

criterion_group!(encode_decode, benches);
criterion_main!(encode_decode);
