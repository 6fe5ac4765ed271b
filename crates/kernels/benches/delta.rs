//! The gated delta rule: forward, forward and backward, and decoding; tokens per second by form.
//!
//! `cargo bench -p memwall-kernels --bench delta`, on one thread and, where the system tells it, in
//! processor time, so that other programs disturb it less. The arithmetic of a token and head is 7 K V
//! operations forward in the recurrent form: of each element of a state a decay and three multiply-adds.

mod processor_time;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memwall_kernels::Pool;
use memwall_kernels::delta::{
    Delta, DeltaGradients, DeltaInputs, Form, Gate, delta_backward, delta_backward_scratch, delta_forward,
    delta_scratch, delta_step,
};
use processor_time::measure;

/// One sequence with keys of length 1, β from 0 to 1 and gates that fade over tens of tokens.
struct Sequence {
    delta: Delta,
    by_channel: bool,
    cu: [i32; 2],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    beta: Vec<f32>,
    g: Vec<f32>,
    d_o: Vec<f32>,
    o: Vec<f32>,
    state: Vec<f32>,
    gradients: [Vec<f32>; 5],
}

impl Sequence {
    fn new(delta: Delta, by_channel: bool, tokens: usize) -> Sequence {
        let mut seed = 1u64;
        let mut uniform = |n: usize| -> Vec<f32> {
            let mut next = || {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..n).map(|_| next()).collect()
        };
        let (by_key, by_value) = (tokens * delta.heads * delta.key_width, tokens * delta.heads * delta.value_width);
        let (q, mut k, v, d_o) = (uniform(by_key), uniform(by_key), uniform(by_value), uniform(by_value));
        for k in k.chunks_exact_mut(delta.key_width) {
            let length = k.iter().map(|k| k * k).sum::<f32>().sqrt();
            k.iter_mut().for_each(|k| *k /= length);
        }
        let gates = if by_channel { by_key } else { tokens * delta.heads };
        let g: Vec<f32> = uniform(gates).into_iter().map(|z| -(-2.0 * z).exp().ln_1p() / 16.0).collect();
        let beta: Vec<f32> = uniform(tokens * delta.heads).into_iter().map(|b| 0.5 + 0.5 * b).collect();
        Sequence {
            delta,
            by_channel,
            cu: [0, tokens as i32],
            gradients: [q.clone(), k.clone(), v.clone(), beta.clone(), g.clone()],
            o: v.clone(),
            state: vec![0.0; delta.heads * delta.key_width * delta.value_width],
            q,
            k,
            v,
            beta,
            g,
            d_o,
        }
    }

    fn run(&mut self, pool: &Pool, form: Form, forward: &mut [u8], backward: Option<&mut [u8]>) {
        let Sequence { delta, by_channel, cu, q, k, v, beta, g, d_o, o, state, gradients } = self;
        let g = if *by_channel { Gate::Channel(&g[..]) } else { Gate::Head(&g[..]) };
        let x = DeltaInputs { q, k, v, beta, g, cu_seqlens: cu, initial_state: None };
        delta_forward(pool, delta, form, &x, o, state, forward);
        if let Some(backward) = backward {
            let [q, k, v, beta, g] = gradients;
            let d = DeltaGradients { q, k, v, beta, g, initial_state: None };
            delta_backward(pool, delta, form, &x, d_o, None, d, backward);
        }
    }
}

fn forms(c: &mut Criterion) {
    let pool = Pool::new(1);
    let cases = [(4, 64, 64, 1024), (4, 64, 64, 4096), (4, 64, 64, 16384), (4, 128, 128, 4096)];
    for (heads, keys, values, tokens) in cases {
        for by_channel in [false, true] {
            let delta = Delta::new(heads, keys, values);
            let mut sequence = Sequence::new(delta, by_channel, tokens);
            let gate = if by_channel { "channel" } else { "head" };
            let mut group = c.benchmark_group(format!("delta H{heads} K{keys} V{values} gate {gate}"));
            group.throughput(Throughput::Elements(tokens as u64)).sample_size(10);
            for (name, form, chunk) in [
                ("recurrent", Form::Recurrent, 64),
                ("chunked 64", Form::Chunked, 64),
                ("chunked 32", Form::Chunked, 32),
            ] {
                sequence.delta.chunk = chunk;
                let mut scratch = vec![0; delta_scratch::<f32>(&sequence.delta, form, tokens, 1)];
                let mut backward = vec![0; delta_backward_scratch::<f32>(&sequence.delta, form, tokens, 1)];
                group.bench_function(BenchmarkId::new(format!("{name} forward"), tokens), |b| {
                    measure(b, || sequence.run(&pool, form, &mut scratch, None));
                });
                group.bench_function(BenchmarkId::new(format!("{name} forward and backward"), tokens), |b| {
                    measure(b, || sequence.run(&pool, form, &mut scratch, Some(&mut backward)));
                });
            }
        }
    }
}

/// Decoding one sequence: the step that follows so many others.
fn steps(c: &mut Criterion) {
    let pool = Pool::new(1);
    let delta = Delta::new(4, 64, 64);
    let mut group = c.benchmark_group("delta step H4 K64 V64 gate head, at position");
    for position in [64, 65536] {
        let Sequence { q, k, v, beta, g, mut o, mut state, .. } = Sequence::new(delta, false, 1);
        let mut step = || delta_step(&pool, &delta, &q, &k, &v, &beta, Gate::Head(&g), &[0], &mut state, &mut o);
        (0..position).for_each(|_| step());
        group.sample_size(20).bench_function(BenchmarkId::from_parameter(position), |b| measure(b, &mut step));
    }
}

criterion_group!(benches, forms, steps);
criterion_main!(benches);
