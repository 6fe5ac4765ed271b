//! Gradients of the mixture: of x, of the chosen weights, and of the experts that were chosen; the others' are zero.
//!
//! With g = W_gate x, u = W_up x, h = silu(g) ⊙ u and c = W_downᵀ dy: dw = c · h, dh = w c, dW_down = w dy hᵀ,
//! du = dh ⊙ silu(g), dg = dh ⊙ u ⊙ silu′(g), and dx, dW_gate, dW_up those of two products. g and u are computed again.

use super::Experts;
use super::combine::add_rows;
use super::dense::{gather, product};
use super::order::by_expert;
use crate::gemm::{Compute, Gemm, gemm, gemm_scratch};
use crate::map::{silu, silu_derivative};
use crate::scratch::{self, Scratch};
use crate::{Pool, Real};

/// Where gradients go.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of x [N, D].
    pub x: &'a mut [T],
    /// Of the weights [N, k].
    pub weights: &'a mut [T],
    /// Of W_gate, W_up [E, F, D] and W_down [E, D, F].
    pub matrices: [&'a mut [T]; 3],
}

/// Bytes of scratch that [`experts_backward`] needs for up to `tokens` tokens.
pub fn experts_backward_scratch<T: Real>(e: &Experts, compute: Compute, tokens: usize, threads: usize) -> usize {
    let (d, f) = (e.width, e.hidden);
    let products = [
        product(tokens, f, d, compute),
        product(tokens, d, f, compute),
        back(tokens, f, d, compute),
        back(tokens, d, f, compute),
        sum_of_rows(d, f, tokens, compute),
        sum_of_rows(f, d, tokens, compute),
    ];
    let most = products.iter().map(|g| gemm_scratch(g, size_of::<T>(), threads)).max().unwrap_or(0);
    scratch::SLACK
        + scratch::bytes::<u32>(e.experts + 1)
        + scratch::bytes::<u32>(tokens * e.active)
        + 3 * scratch::bytes::<T>(tokens * d)
        + 5 * scratch::bytes::<T>(tokens * f)
        + most.next_multiple_of(64)
}

/// dx[m, n] = dy[m, k] · W[k, n].
fn back(m: usize, n: usize, k: usize, compute: Compute) -> Gemm {
    Gemm { m, n, k, a_trans: false, b_trans: false, accumulate: false, compute }
}

/// dW[m, n] = Σ over `rows` of dy[rows, m]ᵀ x[rows, n].
fn sum_of_rows(m: usize, n: usize, rows: usize, compute: Compute) -> Gemm {
    Gemm { m, n, k: rows, a_trans: true, b_trans: false, accumulate: false, compute }
}

/// Gradients from dy [N, D]; all else as for [`super::experts_dense`].
///
/// # Panics
/// As [`super::experts`].
pub fn experts_backward<T: Real>(
    pool: &Pool,
    e: &Experts,
    compute: Compute,
    matrices: [&[T]; 3],
    x: &[T],
    chosen: &[i32],
    weights: &[T],
    dy: &[T],
    to: Gradients<'_, T>,
    scratch: &mut [u8],
) {
    let tokens = chosen.len().checked_div(e.active).unwrap_or(0);
    let (d, f) = (e.width, e.hidden);
    assert_eq!((x.len(), dy.len()), (tokens * d, tokens * d), "experts: x and dy [{tokens}, {d}]");
    assert!(matrices.iter().all(|m| m.len() == e.experts * d * f), "experts: weights of [{}, {f}, {d}]", e.experts);
    assert_eq!(weights.len(), chosen.len(), "experts: as many weights as choices");
    let Gradients { x: dx, weights: d_weights, matrices: [d_gate, d_up, d_down] } = to;
    dx.fill(T::ZERO);
    let mut scratch = Scratch::new(scratch);
    let offsets = scratch.take::<u32>(e.experts + 1);
    let order = scratch.take::<u32>(chosen.len());
    let [rows, dy_rows, dx_rows] = [(); 3].map(|()| scratch.take::<T>(tokens * d));
    let [gate, up, slope, h, dh] = [(); 5].map(|()| scratch.take::<T>(tokens * f));
    let rest = scratch.rest();
    by_expert(chosen, offsets, order);
    for expert in 0..e.experts {
        let order = &order[offsets[expert] as usize..offsets[expert + 1] as usize];
        let own = expert * d * f..(expert + 1) * d * f;
        let [w_gate, w_up, w_down] = matrices.map(|w| &w[own.clone()]);
        let [d_gate, d_up, d_down] = [&mut *d_gate, &mut *d_up, &mut *d_down].map(|w| &mut w[own.clone()]);
        let m = order.len();
        if m == 0 {
            [d_gate, d_up, d_down].into_iter().for_each(|w| w.fill(T::ZERO));
            continue;
        }
        let [rows, dy_rows, dx_rows] = [&mut *rows, &mut *dy_rows, &mut *dx_rows].map(|r| &mut r[..m * d]);
        let [gate, up, slope, h, dh] = [&mut *gate, &mut *up, &mut *slope, &mut *h, &mut *dh].map(|r| &mut r[..m * f]);
        let token = |r: usize| order[r] as usize / e.active;
        gather(d, x, token, rows);
        gather(d, dy, token, dy_rows);
        gemm(pool, product(m, f, d, compute), rows, w_gate, gate, rest);
        gemm(pool, product(m, f, d, compute), rows, w_up, up, rest);
        // slope = silu′(g), gate = silu(g).
        slope.copy_from_slice(gate);
        silu_derivative(slope);
        silu(gate);
        h.iter_mut().zip(&*gate).zip(&*up).for_each(|((h, &g), &u)| *h = g * u);
        gemm(pool, back(m, f, d, compute), dy_rows, w_down, dh, rest);
        for r in 0..m {
            let (place, row) = (order[r] as usize, r * f..(r + 1) * f);
            d_weights[place] = dh[row.clone()].iter().zip(&h[row.clone()]).fold(T::ZERO, |sum, (&c, &h)| sum + c * h);
            dh[row].iter_mut().for_each(|c| *c *= weights[place]);
            dy_rows[r * d..(r + 1) * d].iter_mut().for_each(|dy| *dy *= weights[place]);
        }
        gemm(pool, sum_of_rows(d, f, m, compute), dy_rows, h, d_down, rest);
        // gate becomes du, and slope dg.
        for ((gate, slope), (&up, &dh)) in gate.iter_mut().zip(&mut *slope).zip(up.iter().zip(&*dh)) {
            *gate *= dh;
            *slope *= dh * up;
        }
        gemm(pool, sum_of_rows(f, d, m, compute), slope, rows, d_gate, rest);
        gemm(pool, sum_of_rows(f, d, m, compute), gate, rows, d_up, rest);
        gemm(pool, back(m, d, f, compute), slope, w_gate, dx_rows, rest);
        add_rows(pool, d, dx_rows, token, |_| T::ONE, dx);
        gemm(pool, back(m, d, f, compute), gate, w_up, dx_rows, rest);
        add_rows(pool, d, dx_rows, token, |_| T::ONE, dx);
    }
}
