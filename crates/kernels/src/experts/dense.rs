//! The mixture on weights of the element type, expert by expert: f64 for gradient checks, f32 where it is trained.

use super::Experts;
use super::combine::add_rows;
use super::order::by_expert;
use crate::gemm::{Compute, Gemm, gemm, gemm_scratch};
use crate::map::silu;
use crate::scratch::{self, Scratch};
use crate::{Pool, Real};

/// y[m, n] = x[m, k] · W[n, k]ᵀ.
pub(super) fn product(m: usize, n: usize, k: usize, compute: Compute) -> Gemm {
    Gemm { m, n, k, a_trans: false, b_trans: true, accumulate: false, compute }
}

/// Bytes of scratch that [`experts_dense`] needs for up to `tokens` tokens.
pub fn experts_dense_scratch<T: Real>(e: &Experts, compute: Compute, tokens: usize, threads: usize) -> usize {
    let of = |n, k| gemm_scratch(&product(tokens, n, k, compute), size_of::<T>(), threads);
    scratch::SLACK
        + scratch::bytes::<u32>(e.experts + 1)
        + scratch::bytes::<u32>(tokens * e.active)
        + 2 * scratch::bytes::<T>(tokens * e.width)
        + 2 * scratch::bytes::<T>(tokens * e.hidden)
        + of(e.hidden, e.width).max(of(e.width, e.hidden)).next_multiple_of(64)
}

/// y [N, D] of x [N, D], chosen and weights [N, k]; `matrices` are W_gate, W_up [E, F, D] and W_down [E, D, F].
///
/// # Panics
/// As [`super::experts`].
pub fn experts_dense<T: Real>(
    pool: &Pool,
    e: &Experts,
    compute: Compute,
    matrices: [&[T]; 3],
    x: &[T],
    chosen: &[i32],
    weights: &[T],
    y: &mut [T],
    scratch: &mut [u8],
) {
    let tokens = chosen.len().checked_div(e.active).unwrap_or(0);
    let (d, f) = (e.width, e.hidden);
    assert_eq!((x.len(), y.len()), (tokens * d, tokens * d), "experts: x and y [{tokens}, {d}]");
    assert!(matrices.iter().all(|m| m.len() == e.experts * d * f), "experts: weights of [{}, {f}, {d}]", e.experts);
    assert_eq!(weights.len(), chosen.len(), "experts: as many weights as choices");
    y.fill(T::ZERO);
    let mut scratch = Scratch::new(scratch);
    let offsets = scratch.take::<u32>(e.experts + 1);
    let order = scratch.take::<u32>(chosen.len());
    let (rows, out) = (scratch.take::<T>(tokens * d), scratch.take::<T>(tokens * d));
    let (gate, up) = (scratch.take::<T>(tokens * f), scratch.take::<T>(tokens * f));
    let rest = scratch.rest();
    by_expert(chosen, offsets, order);
    for expert in 0..e.experts {
        let order = &order[offsets[expert] as usize..offsets[expert + 1] as usize];
        let m = order.len();
        if m == 0 {
            continue;
        }
        let (rows, out) = (&mut rows[..m * d], &mut out[..m * d]);
        let (gate, up) = (&mut gate[..m * f], &mut up[..m * f]);
        let [w_gate, w_up, w_down] = matrices.map(|w| &w[expert * d * f..(expert + 1) * d * f]);
        let token = |r: usize| order[r] as usize / e.active;
        gather(d, x, token, rows);
        gemm(pool, product(m, f, d, compute), rows, w_gate, gate, rest);
        gemm(pool, product(m, f, d, compute), rows, w_up, up, rest);
        silu(gate);
        gate.iter_mut().zip(&*up).for_each(|(g, &u)| *g *= u);
        gemm(pool, product(m, d, f, compute), gate, w_down, out, rest);
        add_rows(pool, d, out, token, |r| weights[order[r] as usize], y);
    }
}

/// `rows[r] = x[token_of(r)]`.
pub(super) fn gather<T: Real>(width: usize, x: &[T], token_of: impl Fn(usize) -> usize, rows: &mut [T]) {
    for (r, row) in rows.chunks_exact_mut(width).enumerate() {
        row.copy_from_slice(&x[token_of(r) * width..(token_of(r) + 1) * width]);
    }
}
