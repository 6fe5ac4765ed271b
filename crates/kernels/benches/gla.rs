//! Gated linear attention: forward, forward and backward, and decoding; tokens per second by form.
//!
//! `cargo bench -p memwall-kernels --bench gla`; `MEMWALL_THREADS` (default 2; with 1 the processor's
//! time, which other programs disturb less, is measured); gates by channel (GLA), by head
//! (Mamba-2, retention, mLSTM) and none (linear attention), and what surrounds those. The arithmetic of a
//! token and head is 5 K V operations forward and 15 K V backward in the recurrent form (a multiply
//! and two multiply-adds for each element of a state, in one and in three sweeps).

mod processor_time;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memwall_kernels::Pool;
use memwall_kernels::feature_map::{taylor, taylor_backward, taylor_width};
use memwall_kernels::gemm::Compute;
use memwall_kernels::gla::{Form, Gate, Gla, gla_backward, gla_backward_scratch, gla_forward, gla_scratch, gla_step};
use memwall_kernels::mlstm::{mlstm_gates, mlstm_gates_backward};
use memwall_kernels::normalizer::{normalize, normalize_backward};
use processor_time::measure;

/// What shares a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gates {
    None,
    Head,
    Channel,
}

impl Gates {
    fn of(self, g: &[f32]) -> Gate<'_, f32> {
        match self {
            Gates::None => Gate::None,
            Gates::Head => Gate::Head(g),
            Gates::Channel => Gate::Channel(g),
        }
    }
}

/// A sequence with gates as GLA makes them: logsigmoid over 16.
struct Sequence {
    gla: Gla,
    gates: Gates,
    cu: [i32; 2],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    g: Vec<f32>,
    d_o: Vec<f32>,
    o: Vec<f32>,
    state: Vec<f32>,
    gradients: [Vec<f32>; 4],
}

impl Sequence {
    fn new(gla: Gla, gates: Gates, tokens: usize) -> Sequence {
        let mut state = 1u64;
        let mut uniform = |n: usize| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..n).map(|_| next()).collect()
        };
        let (by_key, by_value) = (tokens * gla.heads * gla.key_width, tokens * gla.heads * gla.value_width);
        let (q, k, v, d_o) = (uniform(by_key), uniform(by_key), uniform(by_value), uniform(by_value));
        let count = match gates {
            Gates::None => 0,
            Gates::Head => tokens * gla.heads,
            Gates::Channel => by_key,
        };
        let g: Vec<f32> = uniform(count).into_iter().map(|z| -(-2.0 * z).exp().ln_1p() / 16.0).collect();
        Sequence {
            gla,
            gates,
            cu: [0, tokens as i32],
            gradients: [q.clone(), k.clone(), v.clone(), g.clone()],
            o: v.clone(),
            state: vec![0.0; gla.heads * gla.key_width * gla.value_width],
            q,
            k,
            v,
            g,
            d_o,
        }
    }

    fn forward(&mut self, pool: &Pool, form: Form, scratch: &mut [u8]) {
        let Sequence { gla, gates, cu, q, k, v, g, o, state, .. } = self;
        gla_forward(pool, gla, form, q, k, v, gates.of(g), cu, None, o, state, scratch);
    }

    fn backward(&mut self, pool: &Pool, form: Form, scratch: &mut [u8]) {
        let Sequence { gla, gates, cu, q, k, v, g, d_o, gradients: [dq, dk, dv, dg], .. } = self;
        gla_backward(pool, gla, form, q, k, v, gates.of(g), cu, None, d_o, None, dq, dk, dv, dg, None, scratch);
    }
}

/// Measures `work` in the processor's time where one thread does it, else in wall time.
fn repeat(b: &mut Bencher<'_>, threads: usize, mut work: impl FnMut()) {
    if threads == 1 { measure(b, work) } else { b.iter(&mut work) }
}

fn forms(c: &mut Criterion) {
    let threads = std::env::var("MEMWALL_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(2);
    let pool = Pool::new(threads);
    let cases = [
        (4, 64, 64, 4096, Compute::F32, Gates::Channel),
        (4, 64, 64, 8192, Compute::F32, Gates::Channel),
        (4, 64, 64, 65536, Compute::F32, Gates::Channel),
        (4, 128, 256, 2048, Compute::F32, Gates::Channel),
        (4, 256, 512, 1024, Compute::F32, Gates::Channel),
        (4, 256, 512, 1024, Compute::Bf16, Gates::Channel),
        (4, 64, 64, 4096, Compute::F32, Gates::Head),
        (4, 64, 64, 4096, Compute::Bf16, Gates::Head),
        (4, 64, 64, 8192, Compute::F32, Gates::Head),
        (8, 128, 64, 4096, Compute::F32, Gates::Head),
        (8, 128, 64, 4096, Compute::Bf16, Gates::Head),
        (4, 256, 512, 1024, Compute::F32, Gates::Head),
        (4, 256, 512, 1024, Compute::Bf16, Gates::Head),
        (4, 64, 64, 4096, Compute::F32, Gates::None),
    ];
    for (heads, keys, values, tokens, compute, gates) in cases {
        let gla = Gla { compute, ..Gla::new(heads, keys, values) };
        let mut sequence = Sequence::new(gla, gates, tokens);
        let mut group = c.benchmark_group(format!("gla H{heads} K{keys} V{values} {compute:?} gate {gates:?}"));
        group.throughput(Throughput::Elements(tokens as u64)).sample_size(10);
        for form in [Form::Recurrent, Form::Chunked] {
            if compute == Compute::Bf16 && form == Form::Recurrent {
                continue;
            }
            let mut scratch = vec![0; gla_scratch::<f32>(&gla, form, tokens, threads)];
            let mut backward_scratch = vec![0; gla_backward_scratch::<f32>(&gla, form, tokens, threads)];
            group.bench_function(BenchmarkId::new(format!("{form:?} forward"), tokens), |b| {
                repeat(b, threads, || sequence.forward(&pool, form, &mut scratch));
            });
            group.bench_function(BenchmarkId::new(format!("{form:?} forward and backward"), tokens), |b| {
                repeat(b, threads, || {
                    sequence.forward(&pool, form, &mut scratch);
                    sequence.backward(&pool, form, &mut backward_scratch);
                });
            });
        }
    }
}

fn steps(c: &mut Criterion) {
    let pool = Pool::new(1);
    let gla = Gla::new(4, 64, 64);
    let mut group = c.benchmark_group("gla step H4 K64 V64");
    for rows in [1, 16, 256] {
        let Sequence { q, k, v, g, mut o, .. } = Sequence::new(gla, Gates::Channel, rows);
        let slots: Vec<i32> = (0..rows as i32).collect();
        let mut state = vec![0.0; rows * gla.heads * gla.key_width * gla.value_width];
        group.throughput(Throughput::Elements(rows as u64)).sample_size(20);
        group.bench_function(BenchmarkId::new("rows", rows), |b| {
            b.iter(|| gla_step(&pool, &gla, &q, &k, &v, Gate::Channel(&g), &slots, &mut state, &mut o));
        });
    }
}

/// What surrounds a memory: stabilized gates, a feature map, a normalizer, forward and backward.
fn around(c: &mut Criterion) {
    let (pool, tokens, heads, width) = (Pool::new(1), 4096, 4, 64);
    let mut group = c.benchmark_group("around a memory, T4096 H4, forward and backward");
    group.throughput(Throughput::Elements(tokens as u64)).sample_size(10);
    let Sequence { q, v, g, d_o, .. } = Sequence::new(Gla::new(heads, width, width), Gates::Channel, tokens);
    let (rows, cu) = (tokens * heads, [0, tokens as i32]);
    let [mut a, mut b, mut d, mut e, mut f] = [(); 5].map(|()| vec![0.0; rows]);
    group.bench_function("mlstm gates", |x| {
        measure(x, || {
            mlstm_gates(heads, &q[..rows], &g[..rows], &cu, &mut a, &mut b, &mut d);
            mlstm_gates_backward(heads, &q[..rows], &g[..rows], &cu, &a, &b, &d, &mut e, &mut f);
        });
    });
    let mut features = vec![0.0; rows * taylor_width(16)];
    let mut gradient = vec![0.0; rows * 16];
    group.bench_function("taylor of 16 channels", |x| {
        measure(x, || {
            taylor(&pool, 16, &q[..rows * 16], &mut features);
            taylor_backward(&pool, 16, &q[..rows * 16], &features, &mut gradient);
        });
    });
    let (read, dy, bound) = (&v[..], &d_o[..rows * 63], vec![1.0; rows]);
    let (mut y, mut dx, mut d_bound) = (vec![0.0; rows * 63], vec![0.0; rows * 64], vec![0.0; rows]);
    group.bench_function("normalizer of 63 channels", |x| {
        measure(x, || {
            normalize(&pool, 63, 1e-6, read, Some(&bound), &mut y);
            normalize_backward(&pool, 63, 1e-6, read, Some(&bound), dy, &mut dx, &mut d_bound);
        });
    });
}

criterion_group!(benches, forms, steps, around);
criterion_main!(benches);
