//! The regression in f64 against its definition, and the iteration cut short against its bound.

use memwall_kernels::Pool;
use memwall_kernels::ridge::chebyshev::Chebyshev;
use memwall_kernels::ridge::{
    Form, Ridge, RidgeGradients, RidgeInputs, naive, ridge_backward, ridge_backward_scratch, ridge_forward,
    ridge_scratch,
};
use memwall_tasks::Philox;

use crate::largest::largest;
use crate::random::normal;

/// Temperatures of gates, logsigmoid(z) / τ; the last is of no gates.
const TEMPERATURES: [f64; 4] = [16.0, 1.0, 0.1, f64::INFINITY];
/// Steps after which f64 holds no more.
const ENOUGH: usize = 140;

/// Rows of length 1, or of a uniform length below 1.
pub(super) fn rows(n: usize, width: usize, shorter: bool, rng: &mut Philox) -> Vec<f64> {
    let mut all = Vec::with_capacity(n * width);
    for _ in 0..n {
        let row: Vec<f64> = (0..width).map(|_| normal(rng)).collect();
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let by = if shorter { rng.unit() } else { 1.0 };
        all.extend(row.iter().map(|x| by * x / length));
    }
    all
}

struct Sequence {
    q: Vec<f64>,
    k: Vec<f64>,
    g: Option<Vec<f64>>,
    cu: [i32; 2],
    d: Vec<f64>,
}

impl Sequence {
    fn new(ridge: &Ridge, tokens: usize, tau: f64, rng: &mut Philox) -> Sequence {
        let n = tokens * ridge.heads;
        let mut gate = || -(-normal(rng)).exp().ln_1p() / tau;
        let g = tau.is_finite().then(|| (0..n).map(|_| gate()).collect());
        let cu = [0, tokens as i32];
        let mut of = |shorter| rows(n, ridge.width, shorter, rng);
        Sequence { q: of(false), k: of(true), g, cu, d: of(false) }
    }

    fn inputs(&self) -> RidgeInputs<'_, f64> {
        RidgeInputs { q: &self.q, k: &self.k, g: self.g.as_deref(), cu_seqlens: &self.cu, initial_state: None }
    }

    /// x and the last states.
    fn forward(&self, pool: &Pool, ridge: &Ridge, form: Form) -> [Vec<f64>; 2] {
        let (mut x, mut state) = (vec![0.0; self.q.len()], vec![0.0; ridge.state_elements(1)]);
        let mut scratch = vec![0; ridge_scratch::<f64>(ridge, form, self.cu[1] as usize, pool.threads())];
        ridge_forward(pool, ridge, form, &self.inputs(), &mut x, &mut state, &mut scratch);
        [x, state]
    }

    fn exact(&self, ridge: &Ridge) -> [Vec<f64>; 2] {
        let (mut x, mut state) = (vec![0.0; self.q.len()], vec![0.0; ridge.state_elements(1)]);
        naive::forward(ridge, &self.inputs(), &mut x, &mut state);
        [x, state]
    }

    /// Gradients of q, k and the gates at the solutions `x`.
    fn backward(&self, pool: &Pool, ridge: &Ridge, x: &[f64]) -> [Vec<f64>; 3] {
        let [mut q, mut k] = [&self.q, &self.k].map(|x| vec![0.0; x.len()]);
        let mut g = vec![0.0; self.g.as_ref().map_or(0, Vec::len)];
        let mut scratch = vec![0; ridge_backward_scratch::<f64>(ridge, self.cu[1] as usize, pool.threads())];
        let d = RidgeGradients { q: &mut q, k: &mut k, g: &mut g, initial_state: None };
        ridge_backward(pool, ridge, &self.inputs(), x, &self.d, None, d, &mut scratch);
        [q, k, g]
    }
}

/// max |x − exact| / max |exact|.
fn error(x: &[f64], exact: &[f64]) -> f64 {
    let scale = largest(exact.iter().map(|e| e.abs()));
    if scale == 0.0 { 0.0 } else { largest(x.iter().zip(exact).map(|(x, e)| (x - e).abs() / scale)) }
}

/// The largest error of solutions and states in both forms, and of gradients.
pub(super) fn worst_errors(pool: &Pool, tokens: usize, seed: u64) -> [f64; 2] {
    let mut rng = Philox::new(seed, 0);
    let ridge = Ridge { num_iter: ENOUGH, ..Ridge::new(2, 24) };
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for tau in TEMPERATURES {
        let sequence = Sequence::new(&ridge, tokens, tau, &mut rng);
        let exact = sequence.exact(&ridge);
        let definition = naive::backward(&ridge, &sequence.inputs(), &sequence.d, None);
        for form in [Form::Chunked, Form::Recurrent] {
            let found = sequence.forward(pool, &ridge, form);
            forward.extend(found.iter().zip(&exact).map(|(x, e)| error(x, e)));
            let gradients = sequence.backward(pool, &ridge, &found[0]);
            let wanted = [&definition.q, &definition.k, &definition.g];
            backward.extend(gradients.iter().zip(wanted).map(|(x, e)| error(x, e)));
        }
    }
    [largest(forward), largest(backward)]
}

/// The largest share of the bound on what is missing after n steps, over n and gates.
pub(super) fn beyond_bound(pool: &Pool, tokens: usize, seed: u64) -> f64 {
    let mut rng = Philox::new(seed, 1);
    let mut shares = Vec::new();
    for tau in TEMPERATURES {
        let sequence = Sequence::new(&Ridge::new(1, 24), tokens, tau, &mut rng);
        for num_iter in [1, 5, 10, 20, 30, 50] {
            let ridge = Ridge { num_iter, ..Ridge::new(1, 24) };
            let ([x, _], [exact, _]) = (sequence.forward(pool, &ridge, Form::Chunked), sequence.exact(&ridge));
            let bound = Chebyshev::new(ridge.ridge_strength).error_bound(num_iter);
            for (x, e) in x.chunks_exact(ridge.width).zip(exact.chunks_exact(ridge.width)) {
                let missing: f64 = x.iter().zip(e).map(|(x, e)| (x - e) * (x - e)).sum();
                let whole: f64 = e.iter().map(|e| e * e).sum();
                shares.push((missing / whole).sqrt() / bound);
            }
        }
    }
    largest(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_and_their_gradients_keep_their_bars() {
        let pool = Pool::new(2);
        let [forward, backward] = worst_errors(&pool, 70, 9);
        assert!(forward <= 1e-11 && backward <= 1e-7, "{forward:.1e} {backward:.1e}");
        assert!(beyond_bound(&pool, 40, 9) <= 1.0);
    }
}
