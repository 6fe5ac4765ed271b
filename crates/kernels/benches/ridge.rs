//! Ridge regression at every token: forward, forward and backward, and decoding; tokens per second by form.
//!
//! `cargo bench -p memwall-kernels --bench ridge`, on one thread and, where the system tells it, in
//! processor time, so that other programs disturb it less. The arithmetic of a token, head and iteration is
//! 2 D² operations for the state and about 3 C D for the pairs of its chunk, of which a strip leaves the future out.

mod processor_time;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memwall_kernels::Pool;
use memwall_kernels::ridge::{
    Form, Ridge, RidgeGradients, RidgeInputs, ridge_backward, ridge_backward_scratch, ridge_forward, ridge_scratch,
    ridge_step,
};
use processor_time::measure;

/// One sequence with queries of length 1, keys of half that, and gates that fade over tens of tokens.
struct Sequence {
    ridge: Ridge,
    cu: [i32; 2],
    q: Vec<f32>,
    k: Vec<f32>,
    g: Vec<f32>,
    out: Vec<f32>,
    state: Vec<f32>,
    gradients: [Vec<f32>; 3],
}

impl Sequence {
    fn new(ridge: Ridge, tokens: usize) -> Sequence {
        let mut seed = 1u64;
        let mut uniform = |n: usize| -> Vec<f32> {
            let mut next = || {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..n).map(|_| next()).collect()
        };
        let mut rows = |length: f32| {
            let mut x = uniform(tokens * ridge.heads * ridge.width);
            for row in x.chunks_exact_mut(ridge.width) {
                let by = length / row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x *= by);
            }
            x
        };
        let (q, k) = (rows(1.0), rows(0.5));
        let g: Vec<f32> = uniform(tokens * ridge.heads).into_iter().map(|z| -(-2.0 * z).exp().ln_1p() / 16.0).collect();
        Sequence {
            ridge,
            cu: [0, tokens as i32],
            gradients: [q.clone(), k.clone(), g.clone()],
            out: q.clone(),
            state: vec![0.0; ridge.state_elements(1)],
            q,
            k,
            g,
        }
    }

    fn run(&mut self, pool: &Pool, form: Form, forward: &mut [u8], backward: Option<&mut [u8]>) {
        let Sequence { ridge, cu, q, k, g, out, state, gradients } = self;
        let x = RidgeInputs { q, k, g: Some(g), cu_seqlens: cu, initial_state: None };
        ridge_forward(pool, ridge, form, &x, out, state, forward);
        if let Some(backward) = backward {
            let [dq, dk, dg] = gradients;
            let d = RidgeGradients { q: dq, k: dk, g: dg, initial_state: None };
            ridge_backward(pool, ridge, &x, out, q, None, d, backward);
        }
    }
}

fn forms(c: &mut Criterion) {
    let pool = Pool::new(1);
    for (heads, width, tokens) in [(2, 128, 1024), (2, 128, 4096), (4, 64, 1024), (4, 64, 4096)] {
        let ridge = Ridge::new(heads, width);
        let mut sequence = Sequence::new(ridge, tokens);
        let mut group = c.benchmark_group(format!("ridge H{heads} D{width}"));
        group.throughput(Throughput::Elements(tokens as u64)).sample_size(10);
        for (name, form, chunk) in
            [("recurrent", Form::Recurrent, 64), ("chunked 64", Form::Chunked, 64), ("chunked 32", Form::Chunked, 32)]
        {
            sequence.ridge.chunk = chunk;
            let mut scratch = vec![0; ridge_scratch::<f32>(&sequence.ridge, form, tokens, 1)];
            let mut backward = vec![0; ridge_backward_scratch::<f32>(&sequence.ridge, tokens, 1)];
            group.bench_function(BenchmarkId::new(format!("{name} forward"), tokens), |b| {
                measure(b, || sequence.run(&pool, form, &mut scratch, None));
            });
            group.bench_function(BenchmarkId::new(format!("{name} forward and backward"), tokens), |b| {
                measure(b, || sequence.run(&pool, form, &mut scratch, Some(&mut backward)));
            });
        }
    }
}

/// Decoding one sequence with so many iterations a token.
fn steps(c: &mut Criterion) {
    let pool = Pool::new(1);
    let mut group = c.benchmark_group("ridge step H2 D128, iterations");
    for num_iter in [1, 10, 30] {
        let ridge = Ridge { num_iter, ..Ridge::new(2, 128) };
        let Sequence { q, k, g, mut out, mut state, .. } = Sequence::new(ridge, 1);
        let mut step = || ridge_step(&pool, &ridge, &q, &k, Some(&g), &[0], &mut state, &mut out);
        group.sample_size(20).bench_function(BenchmarkId::from_parameter(num_iter), |b| measure(b, &mut step));
    }
}

criterion_group!(benches, forms, steps);
criterion_main!(benches);
