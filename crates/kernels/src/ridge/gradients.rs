//! Backward: implicit gradients, chunk by chunk from the last to the first.
//!
//! With y_t = (H_t + λ_t I)⁻¹ dx_t, which is dq_t, c_t = a (y_t · x_t) / F_t (0 where λ is a constant), and
//! S the symmetric gradient of the state that leaves the chunk, dH_t = −y_t x_tᵀ − c_t H_t. Of a chunk:
//! - P = (x kᵀ) ∘ M, R = (y kᵀ) ∘ M, w_j = Σ_t M_tj c_t e_t, W = Mᵀ diag(c) M,
//! - dk = 2 (M_n ⊙ k) S − Pᵀ y − Rᵀ x − 2 w ⊙ (k H_0) − 2 (W ∘ k kᵀ) k,
//! - S_0 = e_n S − sym((e ⊙ y)ᵀ x) − (Σ_t c_t e_t²) H_0 − kᵀ diag(w) k,
//! - dg_t = dg_{t+1} + ⟨dH_t, H_t⟩ − ½ k_t · dk_t, from ⟨S, H_n⟩ at the end of the chunk, with
//!   ⟨dH_t, H_t⟩ = −y_t · H_t x_t − c_t F_t².
//!
//! The state before each chunk is kept from a first pass over the keys. A task is a head of a sequence.

use super::chunk::{Chunk, chunk_tokens, product_bytes, sizes};
use super::chunked::first_state;
use super::solve::{Solver, solver_elements};
use super::{Backward, Ridge};
use crate::gemm::{Compute, Start};
use crate::gla::products::{Arrays, Products, dot, elements, read, worker_scratch, write};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

pub(super) fn backward_elements<T: Real>(ridge: &Ridge, longest: usize) -> usize {
    let (width, chunk) = (ridge.width, chunk_tokens(ridge, longest));
    let states = (longest.div_ceil(chunk) + 1) * width * width;
    elements(&sizes(chunk, width))
        + elements(&Gradients::<T>::sizes(chunk, width))
        + solver_elements::<T>(width, chunk)
        + elements(&[states])
        + product_bytes::<T>(width, chunk).div_ceil(size_of::<T>())
}

pub(super) fn backward<T: Real>(pool: &Pool, ridge: &Ridge, b: &Backward<T>, longest: usize) {
    let chunk = chunk_tokens(ridge, longest);
    pool.run(b.x.sequences * b.x.heads, |task, worker| T::dispatch(Task { b, ridge, chunk, longest, task, worker }));
}

struct Task<'a, T> {
    b: &'a Backward<T>,
    ridge: &'a Ridge,
    chunk: usize,
    longest: usize,
    task: usize,
    worker: usize,
}

/// The gradients of a chunk and what leads to them.
struct Gradients<'a, T> {
    /// S, of the state that leaves [D, D].
    state: &'a mut [T],
    /// A [D, D] that is needed for a moment.
    square: &'a mut [T],
    /// [n, D].
    x: &'a mut [T],
    /// dx, then y = dq [n, D].
    y: &'a mut [T],
    /// [n, D].
    k: &'a mut [T],
    /// x H_0, k H_0, k S, or rows of keys with factors [n, D].
    rows: &'a mut [T],
    /// P, then W ∘ k kᵀ [n, C].
    p: &'a mut [T],
    /// R, then diag(c) M [n, C].
    r: &'a mut [T],
    /// c `[n]`.
    c: &'a mut [T],
    /// w `[n]`.
    w: &'a mut [T],
    /// ⟨dH_t, H_t⟩, then dg `[n]`.
    g: &'a mut [T],
}

impl<'a, T: Real> Gradients<'a, T> {
    fn sizes(chunk: usize, width: usize) -> [usize; 11] {
        let (by_key, square, pairs) = (chunk * width, width * width, chunk * chunk);
        [square, square, by_key, by_key, by_key, by_key, pairs, pairs, chunk, chunk, chunk]
    }

    fn new(chunk: usize, width: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = Self::sizes(chunk, width).into_iter();
        let mut next = || {
            let size = sizes.next().expect("one size an array");
            &mut arrays.take(size)[..size]
        };
        Gradients {
            state: next(),
            square: next(),
            x: next(),
            y: next(),
            k: next(),
            rows: next(),
            p: next(),
            r: next(),
            c: next(),
            w: next(),
            g: next(),
        }
    }
}

/// x = (x + xᵀ) / 2.
fn symmetrize<T: Real>(x: &mut [T], width: usize) {
    let half = T::of(0.5);
    for row in 0..width {
        for column in 0..row {
            let mean = half * (x[row * width + column] + x[column * width + row]);
            x[row * width + column] = mean;
            x[column * width + row] = mean;
        }
    }
}

impl<T: Real> Kernel<T> for Task<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (b, x) = (self.b, &self.b.x);
        let (sequence, head) = (self.task / x.heads, self.task % x.heads);
        let (size, state_at) = (x.width * x.width, x.state(sequence, head));
        let (start, end) = x.range(sequence);
        let chunks = (end - start).div_ceil(self.chunk);
        let bytes = product_bytes::<T>(x.width, self.chunk);
        // SAFETY: the scratch has `backward_elements` for each worker.
        let (mut arrays, mut products): (Arrays<T>, _) =
            unsafe { worker_scratch(b.scratch, b.scratch_elements, self.worker, bytes, Compute::F32) };
        let mut chunk = Chunk::new(x, self.chunk, &mut arrays);
        let mut d = Gradients::new(self.chunk, x.width, &mut arrays);
        let mut solver = Solver::new(self.ridge, self.chunk, &mut arrays);
        let states = arrays.take((self.longest.div_ceil(self.chunk) + 1) * size);
        // SAFETY: the states of this head of this sequence.
        unsafe {
            first_state(x.initial_state, state_at, &mut states[..size]);
            first_state(b.d_final_state, state_at, d.state);
        }
        symmetrize(d.state, x.width);
        let tokens = |at: usize| self.chunk.min(end - at);
        for i in 0..chunks {
            let at = start + i * self.chunk;
            // SAFETY: the sequence has these tokens.
            unsafe { chunk.read(s, x, at, tokens(at), head) };
            states.copy_within(i * size..(i + 1) * size, (i + 1) * size);
            chunk.advance(&mut products, &mut states[(i + 1) * size..(i + 2) * size]);
        }
        for i in (0..chunks).rev() {
            let at = start + i * self.chunk;
            let n = tokens(at);
            let (before, after) = states[i * size..(i + 2) * size].split_at(size);
            // SAFETY: the sequence has these tokens.
            unsafe {
                chunk.read(s, x, at, n, head);
                read(x.rows(b.out, at, n, head), d.x);
                read(x.rows(b.d_out, at, n, head), d.y);
            }
            chunk.norms(s, &mut products, before);
            solver.solve(s, &chunk, before, d.y);
            self.gradients(s, &mut products, &chunk, [before, after], &mut d);
            // SAFETY: the gradients of this head of these tokens are this task's own.
            unsafe {
                write(d.y, x.rows(b.dq, at, n, head), false);
                write(d.k, x.rows(b.dk, at, n, head), false);
                if !x.g.is_null() {
                    (0..n).for_each(|t| *b.dg.add((at + t) * x.heads + head) = d.g[t]);
                }
            }
        }
        if !b.d_initial_state.is_null() {
            // SAFETY: as above.
            unsafe { b.d_initial_state.add(state_at).copy_from_nonoverlapping(d.state.as_ptr(), size) };
        }
    }
}

impl<T: Real> Task<'_, T> {
    /// All gradients of a chunk from `d.x`, `d.y` and `d.state`, which becomes that of the state that enters.
    #[inline(always)]
    fn gradients<S: Simd<E = T>>(
        &self,
        s: S,
        products: &mut Products,
        chunk: &Chunk<T>,
        [before, after]: [&[T]; 2],
        d: &mut Gradients<'_, T>,
    ) {
        let (n, ld, width) = (chunk.tokens, chunk.capacity, chunk.width);
        let keys = (&*chunk.k, width, false);
        products.product((n, n, width), (&*d.x, width, false), (&*chunk.k, width, true), d.p, ld, Start::Zero);
        products.product((n, n, width), (&*d.y, width, false), (&*chunk.k, width, true), d.r, ld, Start::Zero);
        let x_state = (&*d.x, width, false);
        products.product((n, width, width), x_state, (before, width, false), d.rows, width, Start::Zero);
        let a = if self.ridge.bp_lambda { T::of(self.ridge.ridge_strength) } else { T::ZERO };
        for t in 0..n {
            let (row, pairs) = (t * width..(t + 1) * width, t * ld..t * ld + n);
            let (x, y) = (&d.x[row.clone()], &d.y[row.clone()]);
            d.c[t] = a * dot(s, y, x) / chunk.norm[t];
            let m = &chunk.pairs[pairs.clone()];
            d.p[pairs.clone()].iter_mut().zip(m).for_each(|(p, m)| *p *= *m);
            let reached =
                chunk.from_start[t] * dot(s, y, &d.rows[row]) + dot(s, &d.p[pairs.clone()], &d.r[pairs.clone()]);
            d.g[t] = -(reached + d.c[t] * chunk.norm[t] * chunk.norm[t]);
            d.r[pairs].iter_mut().zip(m).for_each(|(r, m)| *r *= *m);
        }
        // Through the state that leaves.
        products.product((n, width, width), keys, (&*d.state, width, false), d.k, width, Start::Zero);
        let two = T::of(2.0);
        for t in 0..n {
            let by = two * chunk.to_end(t);
            d.k[t * width..(t + 1) * width].iter_mut().for_each(|k| *k *= by);
        }
        // Through −y xᵀ, taken together: what is subtracted is gathered in `rows`.
        let p = (&*d.p, ld, true);
        products.product((n, width, n), p, (&*d.y, width, false), d.rows, width, Start::Zero);
        let r = (&*d.r, ld, true);
        products.product((n, width, n), r, (&*d.x, width, false), d.rows, width, Start::Add);
        subtract(&mut d.k[..n * width], &d.rows[..n * width], T::ONE);

        let mut sum = dot(s, after, d.state);
        self.to_entering(products, chunk, before, d);
        for t in (0..n).rev() {
            let row = t * width..(t + 1) * width;
            sum += d.g[t] - T::of(0.5) * dot(s, &chunk.k[row.clone()], &d.k[row]);
            d.g[t] = sum;
        }
    }

    /// The gradient of the state that enters, and that of keys through c H.
    #[inline(always)]
    fn to_entering(&self, products: &mut Products, chunk: &Chunk<T>, before: &[T], d: &mut Gradients<'_, T>) {
        let (n, ld, width) = (chunk.tokens, chunk.capacity, chunk.width);
        for t in 0..n {
            let e = chunk.from_start[t];
            let row = t * width..(t + 1) * width;
            d.rows[row.clone()].iter_mut().zip(&d.y[row]).for_each(|(to, y)| *to = *y * e);
        }
        let rows = (&*d.rows, width, true);
        products.product((width, width, n), rows, (&*d.x, width, false), d.square, width, Start::Zero);
        symmetrize(d.square, width);
        let total = chunk.from_start[n - 1];
        d.state.iter_mut().zip(&*d.square).for_each(|(to, x)| *to = *to * total - *x);
        if !self.ridge.bp_lambda {
            return;
        }
        let mut of_state = T::ZERO;
        d.w[..n].fill(T::ZERO);
        for t in 0..n {
            let (e, c, pairs) = (chunk.from_start[t], d.c[t], t * ld..t * ld + n);
            of_state += c * e * e;
            let (w, m) = (&mut d.w[..n], &chunk.pairs[pairs.clone()]);
            w.iter_mut().zip(m).for_each(|(w, m)| *w = (*m * c).mul_add(e, *w));
            d.r[pairs].iter_mut().zip(m).for_each(|(r, m)| *r = *m * c);
        }
        let two = T::of(2.0);
        // −2 (W ∘ k kᵀ) k.
        products.product((n, n, n), (&*chunk.pairs, ld, true), (&*d.r, ld, false), d.p, ld, Start::Zero);
        for t in 0..n {
            let pairs = t * ld..t * ld + n;
            d.p[pairs.clone()].iter_mut().zip(&chunk.gram[pairs]).for_each(|(p, g)| *p *= *g);
        }
        let keys = (&*chunk.k, width, false);
        products.product((n, width, n), (&*d.p, ld, false), keys, d.rows, width, Start::Zero);
        subtract(&mut d.k[..n * width], &d.rows[..n * width], two);
        // −2 w ⊙ (k H_0).
        products.product((n, width, width), keys, (before, width, false), d.rows, width, Start::Zero);
        for t in 0..n {
            let row = t * width..(t + 1) * width;
            subtract(&mut d.k[row.clone()], &d.rows[row.clone()], two * d.w[t]);
            d.rows[row.clone()].iter_mut().zip(&chunk.k[row]).for_each(|(to, k)| *to = *k * d.w[t]);
        }
        products.product((width, width, n), (&*d.rows, width, true), keys, d.square, width, Start::Zero);
        symmetrize(d.square, width);
        subtract(d.state, d.square, T::ONE);
        subtract(d.state, before, of_state);
    }
}

/// y −= by · x.
#[inline(always)]
fn subtract<T: Real>(y: &mut [T], x: &[T], by: T) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = (-by).mul_add(*x, *y));
}
