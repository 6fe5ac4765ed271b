//! A chunk's keys, the decays between its tokens, and the norm of H at each of them.
//!
//! With H_0 the state that enters, e_t the decay from the chunk's start to token t and M_ts that from
//! token s to t (0 for s > t), H_t = e_t H_0 + Σ_s M_ts k_s k_sᵀ and, from F_0 = ‖H_0‖_F on,
//! F_t² = exp(g_t)² F_{t−1}² + 2 (e_t k_tᵀ H_0 k_t + Σ_{s<t} M_ts (k_tᵀ k_s)²) + (k_tᵀ k_t)²: nothing is
//! subtracted, so nothing cancels. Decays are products of exp(g), never differences of sums, so that a
//! gate that forgets everything is as exact as any other.

use super::{Inputs, LEAST_NORM, Ridge};
use crate::Real;
use crate::gemm::{Compute, Start};
use crate::gla::pack::exp;
use crate::gla::products::{Arrays, Products, dot, read};
use crate::simd::Simd;

/// Every chunk is a multiple of this.
const BLOCK: usize = 16;

/// Tokens that a chunk's arrays have room for.
pub(super) fn chunk_tokens(ridge: &Ridge, longest: usize) -> usize {
    ridge.chunk.min(longest.max(1).next_multiple_of(BLOCK))
}

/// A chunk's arrays; rows are tokens.
pub(super) struct Chunk<'a, T> {
    pub width: usize,
    /// Tokens that the arrays have room for; elements between rows of pairs.
    pub capacity: usize,
    /// Tokens n in use.
    pub tokens: usize,
    gated: bool,
    /// [n, D].
    pub k: &'a mut [T],
    /// exp(g) `[n]`.
    decay: &'a mut [T],
    /// e, decay from the start of the chunk to a token, itself included `[n]`.
    pub from_start: &'a mut [T],
    /// M, decay from token s, itself not included, to t, itself included; zero after t [n, C].
    pub pairs: &'a mut [T],
    /// k kᵀ [n, C].
    pub gram: &'a mut [T],
    /// F `[n]`, at least [`LEAST_NORM`].
    pub norm: &'a mut [T],
    /// k H_0, or keys decayed to the end of the chunk [n, D].
    rows: &'a mut [T],
}

/// Sizes of a chunk's arrays in the order in which they are taken.
pub(super) fn sizes(chunk: usize, width: usize) -> [usize; 7] {
    let (by_key, square) = (chunk * width, chunk * chunk);
    [by_key, chunk, chunk, square, square, chunk, by_key]
}

/// Bytes of scratch for every product of a task with so many tokens a chunk.
pub(super) fn product_bytes<T: Real>(width: usize, chunk: usize) -> usize {
    let shapes =
        [(chunk, width, width), (chunk, chunk, width.max(chunk)), (chunk, width, chunk), (width, width, chunk)];
    Products::scratch::<T>(&shapes, Compute::F32)
}

impl<'a, T: Real> Chunk<'a, T> {
    pub(super) fn new(x: &Inputs<T>, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = sizes(capacity, x.width).into_iter();
        let mut next = || arrays.take(sizes.next().expect("one size an array"));
        Chunk {
            width: x.width,
            capacity,
            tokens: 0,
            gated: !x.g.is_null(),
            k: next(),
            decay: next(),
            from_start: next(),
            pairs: next(),
            gram: next(),
            norm: next(),
            rows: next(),
        }
    }

    /// Reads the keys of a chunk and builds their decays.
    ///
    /// # Safety
    /// The inputs have these tokens.
    #[inline(always)]
    pub(super) unsafe fn read<S: Simd<E = T>>(&mut self, s: S, x: &Inputs<T>, at: usize, tokens: usize, head: usize) {
        let ld = self.capacity;
        self.tokens = tokens;
        // SAFETY: the caller's; the array has whole vectors more than it holds.
        unsafe {
            read(x.rows(x.k, at, tokens, head), self.k);
            if self.gated {
                (0..tokens).for_each(|t| self.decay[t] = *x.g.add((at + t) * x.heads + head));
                exp(s, self.decay.as_mut_ptr(), tokens);
            } else {
                self.decay[..tokens].fill(T::ONE);
            }
        }
        let mut from_start = T::ONE;
        for t in 0..tokens {
            let a = self.decay[t];
            from_start *= a;
            self.from_start[t] = from_start;
            let (done, row) = self.pairs.split_at_mut(t * ld);
            if t > 0 {
                row[..t].iter_mut().zip(&done[(t - 1) * ld..]).for_each(|(m, before)| *m = *before * a);
            }
            row[t] = T::ONE;
            row[t + 1..tokens].fill(T::ZERO);
        }
    }

    /// Decay from a token, itself not included, to the end of the chunk.
    #[inline(always)]
    pub(super) fn to_end(&self, token: usize) -> T {
        self.pairs[(self.tokens - 1) * self.capacity + token]
    }

    /// F of every token, and k kᵀ.
    #[inline(always)]
    pub(super) fn norms<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, state: &[T]) {
        let (n, ld, width) = (self.tokens, self.capacity, self.width);
        let k = (&*self.k, width, false);
        products.product((n, width, width), k, (state, width, false), self.rows, width, Start::Zero);
        products.product((n, n, width), k, (&*self.k, width, true), self.gram, ld, Start::Zero);
        let two = T::of(2.0);
        let mut squares = dot(s, state, state);
        for t in 0..n {
            let row = t * width..(t + 1) * width;
            let entering = self.from_start[t] * dot(s, &self.rows[row.clone()], &self.k[row]);
            let (pairs, gram) = (&self.pairs[t * ld..t * ld + t], &self.gram[t * ld..t * ld + t]);
            let inside = pairs.iter().zip(gram).fold(T::ZERO, |sum, (m, g)| (*m * *g).mul_add(*g, sum));
            let own = self.gram[t * ld + t];
            squares = self.decay[t] * self.decay[t] * squares + two * (entering + inside) + own * own;
            let (norm, least) = (squares.sqrt(), T::of(LEAST_NORM));
            self.norm[t] = if norm > least { norm } else { least };
        }
    }

    /// state = H_n.
    #[inline(always)]
    pub(super) fn advance(&mut self, products: &mut Products, state: &mut [T]) {
        let (n, width) = (self.tokens, self.width);
        for t in 0..n {
            let (row, to_end) = (t * width..(t + 1) * width, self.to_end(t));
            self.rows[row.clone()].iter_mut().zip(&self.k[row]).for_each(|(y, k)| *y = *k * to_end);
        }
        if self.gated {
            let total = self.from_start[n - 1];
            state.iter_mut().for_each(|h| *h *= total);
        }
        let rolled = (&*self.rows, width, true);
        products.product((width, width, n), rolled, (&*self.k, width, false), state, width, Start::Add);
    }
}
