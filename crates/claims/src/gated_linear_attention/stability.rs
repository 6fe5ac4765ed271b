//! The two-level form against the recurrence in f64, at any gate, cut anywhere; the one-level form beside it.

use memwall_kernels::Pool;
use memwall_kernels::gla::{Form, Gate, Gla, gla_forward, gla_scratch, naive};
use memwall_tasks::Philox;

use crate::largest::largest;

/// Temperatures τ of log-gates logsigmoid(z) / τ, from the published one to one that forgets within a few tokens.
const TEMPERATURES: [f64; 3] = [16.0, 1.0, 0.1];
/// Lengths around those of chunks and their parts.
const LENGTHS: [usize; 8] = [1, 15, 16, 17, 63, 64, 65, 200];

/// Inputs of one sequence, values that f32 holds exactly.
pub(super) struct Sequence {
    pub(super) gla: Gla,
    pub(super) tokens: usize,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    g: Vec<f64>,
}

impl Sequence {
    /// Standard normal queries, keys, values and logits of gates of temperature `tau`.
    pub(super) fn new(gla: Gla, tokens: usize, tau: f64, rng: &mut Philox) -> Sequence {
        let mut normal = |n: usize| -> Vec<f64> {
            let mut one = || (-2.0 * rng.unit().ln()).sqrt() * (2.0 * std::f64::consts::PI * rng.unit()).cos();
            (0..n).map(|_| f64::from(one() as f32)).collect()
        };
        let (by_key, by_value) = (tokens * gla.heads * gla.key_width, tokens * gla.heads * gla.value_width);
        let gate = |z: &f64| f64::from((-(-z).exp().ln_1p() / tau) as f32);
        let g = normal(by_key).iter().map(gate).collect();
        Sequence { gla, tokens, q: normal(by_key), k: normal(by_key), v: normal(by_value), g }
    }

    /// Outputs of the recurrence, by its definition.
    fn exact(&self) -> Vec<f64> {
        let gla = &self.gla;
        let mut o = vec![0.0; self.v.len()];
        let mut state = vec![0.0; gla.heads * gla.key_width * gla.value_width];
        let cu = [0, self.tokens as i32];
        naive::forward(gla, &self.q, &self.k, &self.v, Gate::Channel(&self.g), &cu, None, &mut o, &mut state);
        o
    }

    /// q, k, v and log-gates in f32.
    pub(super) fn single(&self) -> [Vec<f32>; 4] {
        [&self.q, &self.k, &self.v, &self.g].map(|x| x.iter().map(|&x| x as f32).collect())
    }

    /// Outputs and last states of tokens `cu[0]..cu[last]` in f32, from `initial` states.
    fn run(&self, pool: &Pool, form: Form, cu: &[usize], initial: Option<&[f32]>) -> [Vec<f32>; 2] {
        let (gla, [q, k, v, g]) = (&self.gla, self.single());
        let (first, last) = (cu[0], cu[cu.len() - 1]);
        let part = |x: &'_ [f32], width: usize| x[first * gla.heads * width..last * gla.heads * width].to_vec();
        let (q, k, g) = (part(&q, gla.key_width), part(&k, gla.key_width), part(&g, gla.key_width));
        let v = part(&v, gla.value_width);
        let offsets: Vec<i32> = cu.iter().map(|c| (c - first) as i32).collect();
        let mut o = vec![0.0; v.len()];
        let mut state = vec![0.0; (cu.len() - 1) * gla.heads * gla.key_width * gla.value_width];
        let mut scratch = vec![0; gla_scratch::<f32>(gla, form, last - first, pool.threads())];
        let gates = Gate::Channel(&g[..]);
        gla_forward(pool, gla, form, &q, &k, &v, gates, &offsets, initial, &mut o, &mut state, &mut scratch);
        [o, state]
    }
}

/// max |x − exact| / max |exact|.
fn error(x: &[f32], exact: &[f64]) -> f64 {
    let scale = largest(exact.iter().map(|e| e.abs()));
    largest(x.iter().zip(exact).map(|(x, e)| (f64::from(*x) - e).abs() / scale))
}

/// The largest error of the chunked form in f32 over lengths and temperatures.
pub(super) fn worst_error(pool: &Pool, seed: u64) -> f64 {
    let mut rng = Philox::new(seed, 0);
    let mut errors = Vec::new();
    for tau in TEMPERATURES {
        for tokens in LENGTHS {
            let sequence = Sequence::new(Gla::new(2, 32, 48), tokens, tau, &mut rng);
            let [o, _] = sequence.run(pool, Form::Chunked, &[0, tokens], None);
            errors.push(error(&o, &sequence.exact()));
        }
    }
    largest(errors)
}

/// The largest error of the chunked form when a sequence is cut in two and the state is handed over.
pub(super) fn split_error(pool: &Pool, seed: u64) -> f64 {
    let mut rng = Philox::new(seed, 4);
    let mut errors = Vec::new();
    for tau in TEMPERATURES {
        let sequence = Sequence::new(Gla::new(2, 32, 48), 200, tau, &mut rng);
        let exact = sequence.exact();
        for cut in [1, 16, 63, 64, 65, 199] {
            let [first, state] = sequence.run(pool, Form::Chunked, &[0, cut], None);
            let [second, _] = sequence.run(pool, Form::Chunked, &[cut, 200], Some(&state));
            errors.push(error(&[first, second].concat(), &exact));
        }
    }
    largest(errors)
}

/// The largest difference between packed sequences and the same ones alone, in any form.
pub(super) fn packed_difference(pool: &Pool, seed: u64) -> f64 {
    let sequence = Sequence::new(Gla::new(2, 32, 48), 200, 1.0, &mut Philox::new(seed, 5));
    let cu = [0, 17, 18, 82, 200];
    let mut gaps = Vec::new();
    for form in [Form::Parallel, Form::Chunked, Form::Recurrent] {
        let packed = sequence.run(pool, form, &cu, None);
        let alone: Vec<[Vec<f32>; 2]> = cu.windows(2).map(|two| sequence.run(pool, form, two, None)).collect();
        for part in 0..2 {
            let alone = alone.iter().flat_map(|results| &results[part]);
            gaps.extend(packed[part].iter().zip(alone).map(|(x, y)| f64::from((x - y).abs())));
        }
    }
    largest(gaps)
}

/// The largest difference between the state after a log-gate of −1e30 and the new token's k vᵀ, in any form.
pub(super) fn reset_difference(pool: &Pool, seed: u64) -> f64 {
    let (tokens, mut gaps) = (65, Vec::new());
    let mut sequence = Sequence::new(Gla::new(2, 32, 48), tokens, 1.0, &mut Philox::new(seed, 6));
    let row = sequence.gla.heads * sequence.gla.key_width;
    sequence.g[(tokens - 1) * row..].fill(-1e30);
    let (k, v) = (&sequence.k[(tokens - 1) * row..], &sequence.v[(tokens - 1) * sequence.v.len() / tokens..]);
    for form in [Form::Parallel, Form::Chunked, Form::Recurrent] {
        let [_, state] = sequence.run(pool, form, &[0, tokens], None);
        for (i, rows) in state.chunks_exact(sequence.gla.value_width).enumerate() {
            let head = i / sequence.gla.key_width;
            let values = &v[head * sequence.gla.value_width..][..sequence.gla.value_width];
            gaps.extend(rows.iter().zip(values).map(|(s, v)| f64::from((s - k[i] as f32 * *v as f32).abs())));
        }
    }
    largest(gaps)
}

/// Share of the outputs of 64 tokens at τ = 0.1 that the one-level form makes infinite or NaN in f32.
pub(super) fn one_level_not_finite(seed: u64) -> f64 {
    let sequence = Sequence::new(Gla::new(1, 32, 32), 64, 0.1, &mut Philox::new(seed, 1));
    let (width, tokens) = (32, sequence.tokens);
    let [q, k, v, mut b] = sequence.single();
    for i in width..b.len() {
        b[i] += b[i - width];
    }
    let queries: Vec<f32> = q.iter().zip(&b).map(|(q, b)| q * b.exp()).collect();
    let keys: Vec<f32> = k.iter().zip(&b).map(|(k, b)| k * (-b).exp()).collect();
    let row = |x: &[f32], t: usize| x[t * width..][..width].to_vec();
    let mut not_finite = 0;
    for t in 0..tokens {
        let mut o = vec![0.0f32; width];
        for s in 0..=t {
            let score: f32 = row(&queries, t).iter().zip(row(&keys, s)).map(|(q, k)| q * k).sum();
            o.iter_mut().zip(row(&v, s)).for_each(|(o, v)| *o += score * v);
        }
        not_finite += o.iter().filter(|x| !x.is_finite()).count();
    }
    not_finite as f64 / (tokens * width) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_keep_their_bars_and_the_one_level_form_breaks() {
        let pool = Pool::new(2);
        assert!(worst_error(&pool, 9) <= 5e-6 && split_error(&pool, 9) <= 5e-6);
        assert_eq!((packed_difference(&pool, 9), reset_difference(&pool, 9)), (0.0, 0.0));
        assert!(one_level_not_finite(9) > 0.1);
    }

    #[test]
    fn an_error_that_is_no_number_is_the_largest() {
        assert!(error(&[1.0, f32::NAN, 1.0], &[1.0, 1.0, 1.0]).is_nan());
        assert_eq!(error(&[1.0, 3.0], &[1.0, 4.0]), 0.25);
    }
}
