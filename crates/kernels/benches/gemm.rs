//! Matrix products of training, in f32 and bf16, beside the `gemm` crate in f32.
//!
//! Criterion's elements are operations: its Gelem/s are GFLOP/s, to be read beside `memwall bench --limits`.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memwall_kernels::Pool;
use memwall_kernels::gemm::{Compute, Gemm, gemm, gemm_scratch};

/// Name, [m, n, k], A and B transposed.
const SHAPES: [(&str, [usize; 3], bool, bool); 7] = [
    ("large forward", [512, 2048, 2048], false, true),
    ("forward", [2048, 1024, 256], false, true),
    ("head forward", [2048, 4096, 256], false, true),
    ("input gradient", [2048, 256, 1024], false, false),
    ("weight gradient", [1024, 256, 2048], true, false),
    ("head weight gradient", [4096, 256, 2048], true, false),
    ("few rows", [8, 2048, 2048], false, true),
];

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let pool = Pool::new(threads);
    for (name, [m, n, k], a_trans, b_trans) in SHAPES {
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.1).sin()).collect();
        let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.1).cos()).collect();
        let mut y = vec![0.0; m * n];
        let mut group = c.benchmark_group(format!("gemm/{name}"));
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        for (label, compute) in [("f32", Compute::F32), ("bf16", Compute::Bf16)] {
            let g = Gemm { m, n, k, a_trans, b_trans, accumulate: false, compute };
            let mut scratch = vec![0; gemm_scratch(&g, 4, threads)];
            group.bench_function(label, |bench| bench.iter(|| gemm(&pool, g, &a, &b, &mut y, &mut scratch)));
        }
        let (a_cs, a_rs) = if a_trans { (m, 1) } else { (1, k) };
        let (b_cs, b_rs) = if b_trans { (k, 1) } else { (1, n) };
        group.bench_function("f32, gemm crate", |bench| {
            bench.iter(|| {
                // SAFETY: pointers and strides are those of the matrices above.
                unsafe {
                    ::gemm::gemm(
                        m,
                        n,
                        k,
                        y.as_mut_ptr(),
                        1,
                        n as isize,
                        false,
                        a.as_ptr(),
                        a_cs as isize,
                        a_rs as isize,
                        b.as_ptr(),
                        b_cs as isize,
                        b_rs as isize,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        ::gemm::Parallelism::Rayon(threads),
                    );
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
