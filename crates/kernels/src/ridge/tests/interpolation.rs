//! What the regression reads back, beside linear attention and one pass of the delta rule: no training.

use crate::gla::tests::Random;
use crate::ridge::naive::cholesky;
use crate::ridge::*;

const D: usize = 64;

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Rows of `keys` applied to a query through a memory of `values`.
fn read(keys: &[f64], values: &[f64], x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; D];
    for (k, v) in keys.chunks(D).zip(values.chunks(D)) {
        let along: f64 = k.iter().zip(x).map(|(k, x)| k * x).sum();
        y.iter_mut().zip(v).for_each(|(y, v)| *y += along * v);
    }
    y
}

/// Mean cosines of what is read with what was written: linear attention, delta rule, exact ridge, 30 steps.
fn recall(n: usize, draws: u64) -> [f64; 4] {
    let mut means = [0.0; 4];
    for draw in 0..draws {
        let mut r = Random(1000 * n as u64 + draw);
        let mut keys: Vec<f64> = r.tensor(n * D);
        for k in keys.chunks_mut(D) {
            let length = k.iter().map(|k| k * k).sum::<f64>().sqrt();
            k.iter_mut().for_each(|k| *k /= length);
        }
        let values: Vec<f64> = r.tensor(n * D);
        // One pass of the delta rule, β = 1: rows are key channels.
        let mut delta = vec![0.0; D * D];
        for (k, v) in keys.chunks(D).zip(values.chunks(D)) {
            let held: Vec<f64> = (0..D).map(|j| (0..D).map(|c| k[c] * delta[c * D + j]).sum()).collect();
            (0..D * D).for_each(|i| delta[i] += k[i / D] * (v[i % D] - held[i % D]));
        }
        // All keys are written; then each is asked for once, with a key of zero: H stays.
        let ridge = Ridge::new(1, D);
        let q = [vec![0.0; n * D], keys.clone()].concat();
        let k = [keys.clone(), vec![0.0; n * D]].concat();
        let cu = [0, 2 * n as i32];
        let x = RidgeInputs { q: &q, k: &k, g: None, cu_seqlens: &cu, initial_state: None };
        let (mut out, mut state) = (vec![0.0; q.len()], vec![0.0; D * D]);
        let mut scratch = vec![0; ridge_scratch::<f64>(&ridge, Form::Chunked, 2 * n, 1)];
        ridge_forward(&Pool::new(1), &ridge, Form::Chunked, &x, &mut out, &mut state, &mut scratch);
        let lambda = 0.02 * state.iter().map(|h| h * h).sum::<f64>().sqrt();
        for (i, (k, v)) in keys.chunks(D).zip(values.chunks(D)).enumerate() {
            let by_delta: Vec<f64> = (0..D).map(|j| (0..D).map(|c| k[c] * delta[c * D + j]).sum()).collect();
            let exact = cholesky(&state, lambda, k);
            let iterated = &out[(n + i) * D..(n + i + 1) * D];
            let found =
                [read(&keys, &values, k), by_delta, read(&keys, &values, &exact), read(&keys, &values, iterated)];
            means.iter_mut().zip(&found).for_each(|(m, y)| *m += cosine(y, v) / (n as f64 * draws as f64));
        }
    }
    means
}

#[test]
fn the_ridge_reads_back_what_linear_attention_and_the_delta_rule_blur() {
    // Means over ten draws by an independent calculation: linear, delta, ridge.
    let published = [
        (16, [0.907, 0.934, 0.9986]),
        (32, [0.823, 0.841, 0.987]),
        (48, [0.760, 0.757, 0.954]),
        (64, [0.713, 0.677, 0.901]),
        (128, [0.579, 0.448, 0.691]),
    ];
    for (n, want) in published {
        let found = recall(n, 10);
        eprintln!("{n} pairs: linear, delta, ridge, 30 steps {found:.4?}");
        for (found, want) in found.iter().zip(want) {
            assert!((found - want).abs() < 0.02, "{n} pairs: {found:.4}, not {want}");
        }
        assert!((found[3] - found[2]).abs() < 1e-3, "{n} pairs: 30 steps");
        assert!(found[2] > found[0] && found[2] > found[1], "{n} pairs");
    }
}
