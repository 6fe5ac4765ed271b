//! Row kernels at the shapes of a training step of 2048 tokens.
//!
//! Criterion's bytes are those that a kernel must read and write.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memwall_kernels::Pool;
use memwall_kernels::adamw::{AdamW, adamw};
use memwall_kernels::conv1d::{Conv1d, conv1d, conv1d_backward};
use memwall_kernels::cross_entropy::{cross_entropy, cross_entropy_backward};
use memwall_kernels::norm::{Norm, norm, norm_backward, norm_backward_scratch};
use memwall_kernels::softmax::softmax_in_place;
use memwall_kernels::sum::{sum_of_squares, sum_of_squares_scratch};
use memwall_kernels::transpose::transpose;

const ROWS: usize = 2048;
const WIDTH: usize = 256;
const VOCAB: usize = 4096;

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37).sin()).collect()
}

fn rows(c: &mut Criterion) {
    let pool = Pool::new(std::thread::available_parallelism().map_or(2, |n| n.get()));
    let mut group = c.benchmark_group("rows");
    let n = ROWS * WIDTH;
    let (x, dy, w) = (values(n), values(n), values(WIDTH));
    let mut y = values(n);
    let bytes = |passes: usize| Throughput::Bytes((4 * passes * n) as u64);

    let rms = Norm::rms(WIDTH, 1e-5);
    group.throughput(bytes(2));
    group.bench_function("rms_norm", |b| b.iter(|| norm(&pool, &rms, &x, Some(&w), None, &mut y)));
    let (mut dw, mut scratch) = (values(WIDTH), vec![0.0; norm_backward_scratch(ROWS)]);
    group.throughput(bytes(3));
    group.bench_function("rms_norm backward", |b| {
        b.iter(|| {
            norm_backward(&pool, &rms, &x, Some(&w), &dy, &mut y, Some(&mut dw), None, false, &mut scratch);
        });
    });
    group.throughput(bytes(2));
    group.bench_function("softmax", |b| b.iter(|| softmax_in_place(&pool, WIDTH, &mut y)));
    group.bench_function("transpose", |b| b.iter(|| transpose(&pool, 1, ROWS, WIDTH, &x, &mut y)));
    let conv = Conv1d { channels: WIDTH, taps: 4, silu: true };
    let (taps, cu_seqlens) = (values(4 * WIDTH), [0, ROWS as i32]);
    group.bench_function("conv1d", |b| {
        b.iter(|| conv1d(&pool, &conv, &x, &taps, None, &cu_seqlens, None, &mut y, None))
    });
    let mut d_taps = taps.clone();
    group.throughput(bytes(3));
    group.bench_function("conv1d backward", |b| {
        b.iter(|| {
            let (dx, dw) = (Some(&mut y[..]), Some(&mut d_taps[..]));
            conv1d_backward(&pool, &conv, &x, &taps, None, &cu_seqlens, None, &dy, None, dx, dw, None, None, false);
        });
    });
    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
    let step = AdamW {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
        step: 10,
    };
    group.throughput(bytes(7));
    group.bench_function("adamw", |b| b.iter(|| adamw(&pool, &step, &mut y, &dy, &mut m, &mut v)));
    let mut partial = vec![0.0; sum_of_squares_scratch(n)];
    group.throughput(bytes(1));
    group.bench_function("sum_of_squares", |b| b.iter(|| sum_of_squares(&pool, &x, &mut partial)));

    let logits = values(ROWS * VOCAB);
    let mut d_logits = logits.clone(); // the time of the exponentials does not depend on their values
    let targets: Vec<i32> = (0..ROWS as i32).collect();
    let (mut nll, mut lse) = (vec![0.0; ROWS], vec![0.0; ROWS]);
    group.throughput(Throughput::Bytes((4 * ROWS * VOCAB) as u64));
    group.bench_function("cross_entropy", |b| b.iter(|| cross_entropy(&pool, &logits, &targets, &mut nll, &mut lse)));
    group.throughput(Throughput::Bytes((8 * ROWS * VOCAB) as u64));
    group.bench_function("cross_entropy backward", |b| {
        b.iter(|| cross_entropy_backward(&pool, &targets, &lse, 1.0, &mut d_logits));
    });
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);
