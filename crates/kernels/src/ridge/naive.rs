//! The definition, token by token in plain loops, with a direct solver and gradients by its own
//! recurrences: the oracle. Also the iterative solvers by themselves, with a rounding of every
//! operand, to see what a number format does to them.

use super::chebyshev::Chebyshev;
use super::{LEAST_NORM, Ridge, RidgeInputs};
use crate::Real;

/// The largest of a state's Frobenius norm and [`LEAST_NORM`].
fn norm<T: Real>(h: &[T]) -> T {
    let norm = h.iter().fold(T::ZERO, |sum, x| x.mul_add(*x, sum)).sqrt();
    let least = T::of(LEAST_NORM);
    if norm > least { norm } else { least }
}

/// x = (H + λ I)⁻¹ b for a symmetric positive definite matrix, by Cholesky's factors.
///
/// # Panics
/// If H is not [D, D] for b `[D]`.
pub fn cholesky<T: Real>(h: &[T], lambda: T, b: &[T]) -> Vec<T> {
    let n = b.len();
    assert_eq!(h.len(), n * n, "H is [D, D]");
    let mut l = vec![T::ZERO; n * n];
    for i in 0..n {
        for j in 0..=i {
            let known = (0..j).fold(T::ZERO, |sum, p| l[i * n + p].mul_add(l[j * n + p], sum));
            let rest = h[i * n + j] - known + if i == j { lambda } else { T::ZERO };
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[j * n + j] };
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        let known = (0..i).fold(T::ZERO, |sum, p| l[i * n + p].mul_add(x[p], sum));
        x[i] = (x[i] - known) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let known = (i + 1..n).fold(T::ZERO, |sum, p| l[p * n + i].mul_add(x[p], sum));
        x[i] = (x[i] - known) / l[i * n + i];
    }
    x
}

/// H x, both rounded first.
fn product<T: Real>(h: &[T], x: &[T], round: impl Fn(T) -> T) -> Vec<T> {
    let row = |row: &[T]| row.iter().zip(x).fold(T::ZERO, |sum, (h, x)| round(*h).mul_add(round(*x), sum));
    h.chunks_exact(x.len()).map(row).collect()
}

/// Chebyshev's iteration for (H + λ I) x = b with eigenvalues of H from 0 to `largest`; `round` is applied
/// to operands of products and to iterates.
pub fn chebyshev<T: Real>(h: &[T], largest: T, lambda: T, b: &[T], num_iter: usize, round: impl Fn(T) -> T) -> Vec<T> {
    let coefficients = Chebyshev::new(lambda.f64() / largest.f64());
    let tau = T::of(coefficients.tau) / largest;
    let mut x: Vec<T> = b.iter().map(|b| round(tau * *b)).collect();
    let mut before = vec![T::ZERO; b.len()];
    for omega in coefficients.omegas().take(num_iter) {
        let omega = T::of(omega);
        let of_h = product(h, &x, &round);
        for i in 0..x.len() {
            let residual = of_h[i] + lambda * x[i] - b[i];
            let next = omega * (x[i] - tau * residual) - (omega - T::ONE) * before[i];
            before[i] = x[i];
            x[i] = round(next);
        }
    }
    x
}

/// Conjugate gradients for (H + λ I) x = b from x = 0, rounded as [`chebyshev`].
pub fn conjugate_gradients<T: Real>(h: &[T], lambda: T, b: &[T], num_iter: usize, round: impl Fn(T) -> T) -> Vec<T> {
    let dot = |a: &[T], b: &[T]| a.iter().zip(b).fold(T::ZERO, |sum, (a, b)| a.mul_add(*b, sum));
    let mut x = vec![T::ZERO; b.len()];
    let mut residual: Vec<T> = b.iter().map(|b| round(*b)).collect();
    let mut direction = residual.clone();
    let mut length = dot(&residual, &residual);
    for _ in 0..num_iter {
        let of_h: Vec<T> =
            product(h, &direction, &round).iter().zip(&direction).map(|(h, d)| *h + lambda * *d).collect();
        let curvature = dot(&direction, &of_h);
        if !(curvature > T::ZERO && length > T::ZERO) {
            break;
        }
        let step = length / curvature;
        for i in 0..x.len() {
            x[i] = round(x[i] + step * direction[i]);
            residual[i] = round(residual[i] - step * of_h[i]);
        }
        let next = dot(&residual, &residual);
        let share = next / length;
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = round(*r + share * *d));
        length = next;
    }
    x
}

/// H = exp(g) H + k kᵀ.
fn write<T: Real>(h: &mut [T], k: &[T], gate: Option<T>) {
    let decay = gate.map_or(T::ONE, T::exp);
    for (row, x) in h.chunks_exact_mut(k.len()).zip(k) {
        row.iter_mut().zip(k).for_each(|(h, k)| *h = x.mul_add(*k, decay * *h));
    }
}

/// x and the final states; see [`ridge_forward`](super::ridge_forward). The number of iterations plays no part.
pub fn forward<T: Real>(ridge: &Ridge, x: &RidgeInputs<'_, T>, out: &mut [T], final_state: &mut [T]) {
    let (d, size) = (ridge.width, ridge.width * ridge.width);
    match x.initial_state {
        Some(state) => final_state.copy_from_slice(state),
        None => final_state.fill(T::ZERO),
    }
    for (i, h) in final_state.chunks_exact_mut(size).enumerate() {
        let (b, head) = (i / ridge.heads, i % ridge.heads);
        for t in x.cu_seqlens[b] as usize..x.cu_seqlens[b + 1] as usize {
            let row = (t * ridge.heads + head) * d..(t * ridge.heads + head + 1) * d;
            write(h, &x.k[row.clone()], x.g.map(|g| g[t * ridge.heads + head]));
            let lambda = T::of(ridge.ridge_strength) * norm(h);
            out[row.clone()].copy_from_slice(&cholesky(h, lambda, &x.q[row]));
        }
    }
}

/// Gradients of all inputs.
pub struct Gradients<T> {
    /// [N, H, D].
    pub q: Vec<T>,
    /// [N, H, D].
    pub k: Vec<T>,
    /// As the gates.
    pub g: Vec<T>,
    /// [B, H, D, D], symmetric.
    pub initial_state: Vec<T>,
}

/// All gradients, the gate's by its definition exp(g) ∂/∂exp(g), with every state kept.
pub fn backward<T: Real>(
    ridge: &Ridge,
    x: &RidgeInputs<'_, T>,
    d_out: &[T],
    d_final_state: Option<&[T]>,
) -> Gradients<T> {
    let (d, size) = (ridge.width, ridge.width * ridge.width);
    let sequences = x.cu_seqlens.len() - 1;
    let zeros = |n| vec![T::ZERO; n];
    let mut r = Gradients {
        q: zeros(x.q.len()),
        k: zeros(x.k.len()),
        g: zeros(x.g.map_or(0, <[T]>::len)),
        initial_state: zeros(ridge.state_elements(sequences)),
    };
    let a = T::of(ridge.ridge_strength);
    for i in 0..sequences * ridge.heads {
        let (b, head) = (i / ridge.heads, i % ridge.heads);
        let tokens = x.cu_seqlens[b] as usize..x.cu_seqlens[b + 1] as usize;
        let row = |t: usize| (t * ridge.heads + head) * d..(t * ridge.heads + head + 1) * d;
        let gate = |t: usize| x.g.map(|g| g[t * ridge.heads + head]);
        let of = |states: Option<&[T]>| states.map_or(zeros(size), |s| s[i * size..(i + 1) * size].to_vec());
        let mut states = vec![of(x.initial_state)];
        for t in tokens.clone() {
            let mut h = states[states.len() - 1].clone();
            write(&mut h, &x.k[row(t)], gate(t));
            states.push(h);
        }
        let mut dh = of(d_final_state);
        for t in tokens.clone().rev() {
            let (before, h) = (&states[t - tokens.start], &states[t - tokens.start + 1]);
            let f = norm(h);
            let solution = cholesky(h, a * f, &x.q[row(t)]);
            let dq = cholesky(h, a * f, &d_out[row(t)]);
            let along = dq.iter().zip(&solution).fold(T::ZERO, |sum, (a, b)| a.mul_add(*b, sum));
            let through_norm = if ridge.bp_lambda { a * along / f } else { T::ZERO };
            for p in 0..d {
                for s in 0..d {
                    dh[p * d + s] = dh[p * d + s] - dq[p] * solution[s] - through_norm * h[p * d + s];
                }
            }
            let k = &x.k[row(t)];
            for p in 0..d {
                r.k[row(t)][p] = (0..d).fold(T::ZERO, |sum, s| (dh[p * d + s] + dh[s * d + p]).mul_add(k[s], sum));
            }
            r.q[row(t)].copy_from_slice(&dq);
            if let Some(g) = gate(t) {
                let decay = g.exp();
                let along = dh.iter().zip(before).fold(T::ZERO, |sum, (a, b)| a.mul_add(*b, sum));
                r.g[t * ridge.heads + head] = decay * along;
                dh.iter_mut().for_each(|x| *x *= decay);
            }
        }
        let half = T::of(0.5);
        for p in 0..d {
            for s in 0..d {
                r.initial_state[i * size + p * d + s] = half * (dh[p * d + s] + dh[s * d + p]);
            }
        }
    }
    r
}
