//! Chebyshev's iteration for the tokens of a chunk, as matrix products.
//!
//! With the chunk's H_0, e and M, rows of H x are (e x) H_0 + ((x kᵀ) ∘ M) k. Tokens are lanes here: a
//! strip of as many tokens as a product has columns lies as [D, lanes], which is how a product wants its
//! second operand, so that iterates are never packed; H_0, k and kᵀ are packed once. τ / F_t is folded
//! into e and M, which leaves coefficients that all tokens share.

use super::Ridge;
use super::chebyshev::Chebyshev;
use super::chunk::Chunk;
use crate::Real;
use crate::gemm::{Compute, PackedBlock, Start, pack_rows, packed_bytes, strip_columns};
use crate::gla::products::{Arrays, elements};
use crate::simd::Simd;

/// What the solves of a task work with.
pub(super) struct Solver<'a, T> {
    width: usize,
    num_iter: usize,
    chebyshev: Chebyshev,
    /// Tokens of a strip.
    lanes: usize,
    /// H_0 [D, D], packed.
    state: &'a mut [T],
    /// k [C, D], packed.
    keys: &'a mut [T],
    /// kᵀ [D, C], packed for the strip in work.
    turned: &'a mut [T],
    /// τ M / F of the strip in work [C, lanes].
    pairs: &'a mut [T],
    /// τ e / F of the strip `[lanes]`.
    entering: &'a mut [T],
    /// x kᵀ of the strip [C, lanes].
    scores: &'a mut [T],
    /// x̂_0, x̂, x̂ of the step before [D, lanes].
    first: &'a mut [T],
    x: &'a mut [T],
    before: &'a mut [T],
    /// What the state that enters, and what the chunk's keys make of x̂ [D, lanes].
    of_state: &'a mut [T],
    of_keys: &'a mut [T],
}

/// Elements that hold a packed first operand of a product.
fn packed<T: Real>(rows: usize, k: usize) -> usize {
    packed_bytes::<T>(rows, k, Compute::F32, true).div_ceil(size_of::<T>())
}

/// Sizes of the arrays in the order in which they are taken.
fn sizes<T: Real>(width: usize, chunk: usize) -> [usize; 11] {
    let lanes = strip_columns::<T>();
    let strip = width * lanes;
    [
        packed::<T>(width, width),
        packed::<T>(chunk, width),
        packed::<T>(width, chunk),
        chunk * lanes,
        lanes,
        chunk * lanes,
        strip,
        strip,
        strip,
        strip,
        strip,
    ]
}

/// Elements of scratch of a task.
pub(super) fn solver_elements<T: Real>(width: usize, chunk: usize) -> usize {
    elements(&sizes::<T>(width, chunk))
}

impl<'a, T: Real> Solver<'a, T> {
    pub(super) fn new(ridge: &Ridge, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = sizes::<T>(ridge.width, capacity).into_iter();
        let mut next = || {
            let size = sizes.next().expect("one size an array");
            &mut arrays.take(size)[..size]
        };
        Solver {
            width: ridge.width,
            num_iter: ridge.num_iter,
            chebyshev: Chebyshev::new(ridge.ridge_strength),
            lanes: strip_columns::<T>(),
            state: next(),
            keys: next(),
            turned: next(),
            pairs: next(),
            entering: next(),
            scores: next(),
            first: next(),
            x: next(),
            before: next(),
            of_state: next(),
            of_keys: next(),
        }
    }

    /// `rows` [n, D], right sides, become their solutions; `state` is H_0, and the chunk has its norms.
    #[inline(always)]
    pub(super) fn solve<S: Simd<E = T>>(&mut self, s: S, chunk: &Chunk<T>, state: &[T], rows: &mut [T]) {
        let (n, width) = (chunk.tokens, self.width);
        pack(state, width, false, [width, width], self.state);
        pack(chunk.k, width, false, [n, width], self.keys);
        for start in (0..n).step_by(self.lanes) {
            self.strip(s, chunk, start, rows);
        }
    }

    /// The tokens from `start` on.
    #[inline(always)]
    fn strip<S: Simd<E = T>>(&mut self, s: S, chunk: &Chunk<T>, start: usize, rows: &mut [T]) {
        let (n, width, lanes) = (chunk.tokens, self.width, self.lanes);
        let end = (start + lanes).min(n);
        self.open(chunk, start, end, rows);
        let product = |m: usize, k: usize| PackedBlock { m, n: lanes, k, compute: Compute::F32, start: Start::Zero };
        for omega in self.chebyshev.omegas().take(self.num_iter) {
            let x = bytemuck::cast_slice(self.x);
            product(width, width).run(bytemuck::cast_slice(self.state), x, self.of_state, lanes);
            product(end, width).run(bytemuck::cast_slice(self.keys), x, self.scores, lanes);
            for i in (0..end * lanes).step_by(S::LANES) {
                s.store(s.load(&self.scores[i..]) * s.load(&self.pairs[i..]), &mut self.scores[i..]);
            }
            let scores = bytemuck::cast_slice(self.scores);
            product(width, end).run(bytemuck::cast_slice(self.turned), scores, self.of_keys, lanes);
            self.step(s, omega);
        }
        // Token t of the strip is lane t.
        for (t, row) in (start..end).enumerate() {
            let norm = chunk.norm[row];
            for (d, y) in rows[row * width..(row + 1) * width].iter_mut().enumerate() {
                *y = self.x[d * lanes + t] / norm;
            }
        }
    }

    /// Coefficients and first iterates of the tokens `start..end`.
    #[inline(always)]
    fn open(&mut self, chunk: &Chunk<T>, start: usize, end: usize, rows: &[T]) {
        let (width, lanes, ld) = (self.width, self.lanes, chunk.capacity);
        let tau = T::of(self.chebyshev.tau);
        pack(chunk.k, width, true, [width, end], self.turned);
        self.pairs[..end * lanes].fill(T::ZERO);
        self.entering.fill(T::ZERO);
        self.first.fill(T::ZERO);
        for (t, row) in (start..end).enumerate() {
            let by = tau / chunk.norm[row];
            self.entering[t] = chunk.from_start[row] * by;
            for (j, m) in chunk.pairs[row * ld..row * ld + row + 1].iter().enumerate() {
                self.pairs[j * lanes + t] = *m * by;
            }
            for (d, q) in rows[row * width..(row + 1) * width].iter().enumerate() {
                self.first[d * lanes + t] = *q * tau;
            }
        }
        self.x.copy_from_slice(self.first);
        self.before.fill(T::ZERO);
    }

    /// x̂ and the one before it, moved on by one step.
    #[inline(always)]
    fn step<S: Simd<E = T>>(&mut self, s: S, omega: f64) {
        let least = s.splat(T::of(self.chebyshev.least));
        let (ahead, momentum) = (s.splat(T::of(omega)), s.splat(T::of(omega - 1.0)));
        for row in (0..self.width * self.lanes).step_by(self.lanes) {
            for lane in (0..self.lanes).step_by(S::LANES) {
                let i = row + lane;
                let entering = s.load(&self.entering[lane..]);
                let now = s.load(&self.x[i..]);
                let of_h = s.fma(entering, s.load(&self.of_state[i..]), s.load(&self.of_keys[i..]));
                let residual = s.load(&self.first[i..]) - s.fma(least, now, of_h);
                let next = now + s.fma(ahead, residual, momentum * (now - s.load(&self.before[i..])));
                s.store(next, &mut self.before[i..]);
            }
        }
        std::mem::swap(&mut self.x, &mut self.before);
    }
}

/// Packs op(a) [m, k] as the first operand of products.
fn pack<T: Real>(a: &[T], ld: usize, turned: bool, [m, k]: [usize; 2], to: &mut [T]) {
    let bytes = packed_bytes::<T>(m, k, Compute::F32, true);
    pack_rows(a, ld, turned, m, k, Compute::F32, &mut bytemuck::cast_slice_mut(to)[..bytes]);
}
