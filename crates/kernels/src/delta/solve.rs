//! The triangular systems of a chunk, by blocks: products off the diagonal, substitution inside.
//!
//! Forward: w = r + A′ u with u = diag(β) w, A′ strictly lower: what each token writes, given what
//! the tokens before it in the chunk wrote. This is (I − A′ diag(β)) w = r, the chunk's WY (or UT)
//! transform applied to its right-hand side; substitution needs no inverse and is as stable as the
//! recurrence. Backward: du += A′ᵀ dw with dw = diag(β) du, from the last token to the first.

use super::chunk::{Chunk, SUB, scaled};
use crate::Real;
use crate::gemm::Start;
use crate::gla::products::Products;
use crate::simd::Simd;

/// Vectors of a row that are summed side by side.
const VECTORS: usize = 4;

impl<T: Real> Chunk<'_, T> {
    /// From r to w in place, and u = diag(β) w; both [n, V].
    #[inline(always)]
    pub(super) fn solve<S: Simd<E = T>>(&self, s: S, products: &mut Products, w: &mut [T], u: &mut [T]) {
        let (values, ld) = (self.values, self.ld());
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            let a = (&self.a[rows.start * ld..], ld, false);
            let to = &mut w[rows.start * values..];
            products.product((rows.len(), values, rows.start), a, (u, values, false), to, values, Start::Add);
            for t in rows.clone() {
                let row = t * values..(t + 1) * values;
                let scores = &self.a[t * ld..(t + 1) * ld];
                combine(s, &mut w[row.clone()], u, values, rows.start..t, |from| scores[from]);
                scaled(&mut u[row.clone()], &w[row], self.beta[t]);
            }
        }
    }

    /// Completes du in place and makes dw = diag(β) du; both [n, V].
    #[inline(always)]
    pub(super) fn solve_back<S: Simd<E = T>>(&self, s: S, products: &mut Products, du: &mut [T], dw: &mut [T]) {
        let (n, values, ld) = (self.tokens, self.values, self.ld());
        for block in (0..self.blocks()).rev() {
            let rows = self.block_rows(block);
            if rows.end < n {
                let a = (&self.a[rows.end * ld + rows.start..], ld, true);
                let (b, to) = ((&dw[rows.end * values..], values, false), &mut du[rows.start * values..]);
                products.product((SUB, values, n - rows.end), a, b, to, values, Start::Add);
            }
            for t in rows.clone().rev() {
                let row = t * values..(t + 1) * values;
                combine(s, &mut du[row.clone()], dw, values, t + 1..rows.end, |from| self.a[from * ld + t]);
                scaled(&mut dw[row.clone()], &du[row], self.beta[t]);
            }
        }
    }
}

/// row += Σ_from factor(from) · x[from], over rows of x.
#[inline(always)]
fn combine<S: Simd>(
    s: S,
    row: &mut [S::E],
    x: &[S::E],
    width: usize,
    from: std::ops::Range<usize>,
    factor: impl Fn(usize) -> S::E,
) {
    for first in (0..width).step_by(VECTORS * S::LANES) {
        let part = |j: usize| (first + j * S::LANES).min(width)..(first + (j + 1) * S::LANES).min(width);
        // Loops, because a closure is compiled without the instruction set that the task runs with.
        let mut sum = [s.zero(); VECTORS];
        for (j, sum) in sum.iter_mut().enumerate() {
            *sum = s.load_any(&row[part(j)]);
        }
        for i in from.clone() {
            let a = s.splat(factor(i));
            let x = &x[i * width..(i + 1) * width];
            for (j, sum) in sum.iter_mut().enumerate() {
                *sum = s.fma(a, s.load_any(&x[part(j)]), *sum);
            }
        }
        for (j, sum) in sum.into_iter().enumerate() {
            s.store_any(sum, &mut row[part(j)]);
        }
    }
}
