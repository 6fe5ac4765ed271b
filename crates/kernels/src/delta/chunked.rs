//! The chunked form: chunks of C tokens by matrix products, states handed from chunk to chunk.
//!
//! With S the state that enters, P_t the decay from the chunk's start to token t and D_ts that from s
//! to t, tokens of a chunk write u_t = β_t w_t,
//! - w_t = v_t − (P_t ⊙ k_t)ᵀ S − Σ_{s<t} (k_tᵀ D_ts k_s) u_s: a triangular system (`solve`),
//! - o_t = scale · ((P_t ⊙ q_t)ᵀ S + Σ_{s≤t} (q_tᵀ D_ts k_s) u_s),
//! - S_next = diag(P_C) S + Σ_t (D_Ct ⊙ k_t) u_tᵀ.
//!
//! In the generalized rule w_t = u_t is what a_t reads, of the state, of what b_s u_sᵀ have written and of the values
//! k_s v_sᵀ; [u; v] are written under [b; k], so that rows of u are twice as many.
//!
//! Backward keeps the state before each chunk and w of each token, both recomputed by a first pass,
//! then goes from the last chunk to the first with dS (`chunk_gradients`).
//!
//! A task is a head of a sequence.

use super::chunk::{Chunk, SUB, scaled};
use super::chunk_gradients::Gradients;
use super::{Backward, Delta, Forward, Inputs};
use crate::gemm::{Compute, Start};
use crate::gla::products::{Arrays, Products, elements, read, worker_scratch, write};
use crate::gla::{GateKind, state_of};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Rows of a product with a triangle: what lies beyond their last column is left out.
pub(super) const ROWS: usize = 32;

/// What sizes of arrays follow from.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub keys: usize,
    pub values: usize,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Key rows R of a token: 2 in the generalized rule.
    pub writes: usize,
}

impl Sizes {
    pub(super) fn of(delta: &Delta) -> Sizes {
        Sizes { keys: delta.key_width, values: delta.value_width, chunk: delta.chunk, writes: 1 }
    }

    /// With chunks no longer than such sequences need.
    fn fit(self, longest: usize) -> Sizes {
        Sizes { chunk: self.chunk.min(longest.max(1).next_multiple_of(SUB)), ..self }
    }

    /// Bytes of scratch for every product of a task.
    fn product_bytes<T: Real>(&self) -> usize {
        let Sizes { keys: k, values: v, chunk: c, writes } = *self;
        let (wide, rows, r) = (k.max(v), c.min(ROWS), writes * c);
        let shapes = [
            (2 * c, r, wide),
            (2 * c, wide, wide),
            (2 * c, k, r),
            (r, k, 2 * c),
            (rows, wide, c),
            (c, wide, SUB),
            (k, v, 2 * c),
        ];
        Products::scratch::<T>(&shapes, Compute::F32)
    }
}

pub(crate) fn forward_elements<T: Real>(sizes: &Sizes, longest: usize) -> usize {
    let fit = sizes.fit(longest);
    let Sizes { keys: k, values: v, chunk: c, writes } = fit;
    let products = fit.product_bytes::<T>().div_ceil(size_of::<T>());
    elements(&super::chunk::sizes(c, k, writes)) + elements(&[k * v, 2 * c * v, writes * c * v]) + products
}

pub(crate) fn backward_elements<T: Real>(sizes: &Sizes, longest: usize) -> usize {
    let fit = sizes.fit(longest);
    let Sizes { keys: k, values: v, chunk: c, writes } = fit;
    let products = fit.product_bytes::<T>().div_ceil(size_of::<T>());
    let states = (longest.div_ceil(c) + 1) * k * v;
    elements(&super::chunk::sizes(c, k, writes))
        + elements(&Gradients::<T>::sizes(c, k, v, writes))
        + elements(&[states, longest * v, writes * c * v])
        + products
}

pub(crate) fn forward<T: Real>(pool: &Pool, sizes: &Sizes, f: &Forward<T>, longest: usize) {
    let sizes = sizes.fit(longest);
    pool.run(f.x.sequences * f.x.heads, |task, worker| T::dispatch(ForwardTask { f, sizes, task, worker }));
}

struct ForwardTask<'a, T> {
    f: &'a Forward<T>,
    sizes: Sizes,
    task: usize,
    worker: usize,
}

/// Copies the state before a sequence, zero if there is none.
///
/// # Safety
/// The state lies there.
unsafe fn first_state<T: Real>(states: *const T, at: usize, to: &mut [T]) {
    // SAFETY: the caller's.
    match unsafe { state_of(states, at, to.len()) } {
        Some(state) => to.copy_from_slice(state),
        None => to.fill(T::ZERO),
    }
}

impl<T: Real> Kernel<T> for ForwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (f, x) = (self.f, &self.f.x);
        let (sequence, head) = (self.task / x.heads, self.task % x.heads);
        let (keys, values) = (x.key_width, x.value_width);
        let (capacity, bytes) = (self.sizes.chunk, self.sizes.product_bytes::<T>());
        // SAFETY: the scratch has `forward_elements` for each worker.
        let (mut arrays, mut products) =
            unsafe { worker_scratch(f.scratch, f.scratch_elements, self.worker, bytes, Compute::F32) };
        let mut chunk = Chunk::new(x, capacity, &mut arrays);
        let state = &mut arrays.take(keys * values)[..keys * values];
        let out = arrays.take(2 * capacity * values);
        let u = arrays.take(chunk.writes * capacity * values);
        let state_at = x.state(sequence, head);
        // SAFETY: the state of this head of this sequence.
        unsafe { first_state(x.initial_state, state_at, state) };
        let (start, end) = x.range(sequence);
        for at in (start..end).step_by(capacity) {
            let n = capacity.min(end - at);
            // SAFETY: the sequence has these tokens.
            unsafe { chunk.read(s, x, at, n, head) };
            chunk.scores(s, &mut products, true);
            let (inner, entering) = ((&*chunk.inner, keys, false), (&*state, values, false));
            products.product((2 * n, values, keys), inner, entering, out, values, Start::Zero);
            let (w, o) = out.split_at_mut(n * values);
            // SAFETY: the sequence has these tokens.
            unsafe { chunk.add_values(x, &mut products, at, head, w, u) };
            chunk.solve(s, &mut products, w, u);
            for write in 0..chunk.writes {
                chunk.read_written(&mut products, 1, write, u, o);
            }
            chunk.advance(&mut products, u, state);
            // SAFETY: the outputs of this head of this sequence are this task's own.
            unsafe { write(o, x.value_rows(f.o, at, n, head), false) };
        }
        // SAFETY: as above.
        unsafe { f.final_state.add(state_at).copy_from_nonoverlapping(state.as_ptr(), keys * values) };
    }
}

/// w += v.
///
/// # Safety
/// The inputs have these tokens.
#[inline(always)]
unsafe fn add<T: Real>(x: &Inputs<T>, at: usize, tokens: usize, head: usize, w: &mut [T]) {
    let v = x.value_rows(x.v, at, tokens, head);
    for (t, row) in w.chunks_exact_mut(v.width).take(tokens).enumerate() {
        // SAFETY: the caller's.
        let v = unsafe { std::slice::from_raw_parts(v.at.add(t * v.stride), v.width) };
        row.iter_mut().zip(v).for_each(|(w, v)| *w += *v);
    }
}

impl<T: Real> Chunk<'_, T> {
    /// To w, which holds what the state gives, what does not depend on u: values, or what a reads of values, which
    /// are then the second half of u.
    ///
    /// # Safety
    /// The inputs have these tokens.
    #[inline(always)]
    unsafe fn add_values(
        &self,
        x: &Inputs<T>,
        products: &mut Products,
        at: usize,
        head: usize,
        w: &mut [T],
        u: &mut [T],
    ) {
        if self.writes == 2 {
            // SAFETY: the caller's.
            unsafe { read(x.value_rows(x.v, at, self.tokens, head), &mut u[self.tokens * self.values..]) };
            self.read_written(products, 0, 1, u, w);
        } else {
            // SAFETY: the caller's.
            unsafe { add(x, at, self.tokens, head, w) };
        }
    }

    /// o += (scores of the `half`-th query rows with the `write`-th key rows) times what those write.
    #[inline(always)]
    fn read_written(&self, products: &mut Products, half: usize, write: usize, u: &[T], o: &mut [T]) {
        let (n, ld, values) = (self.tokens, self.ld(), self.values);
        for first in (0..n).step_by(ROWS) {
            let end = (first + ROWS).min(n);
            let a = (&self.a[(half * n + first) * ld + write * n..], ld, false);
            let (u, to) = ((&u[write * n * values..], values, false), &mut o[first * values..]);
            products.product((end - first, values, end), a, u, to, values, Start::Add);
        }
    }
}

pub(crate) fn backward<T: Real>(pool: &Pool, sizes: &Sizes, b: &Backward<T>, longest: usize) {
    let sizes = sizes.fit(longest);
    pool.run(b.x.sequences * b.x.key_heads, |task, worker| {
        T::dispatch(BackwardTask { b, sizes, longest, task, worker });
    });
}

struct BackwardTask<'a, T> {
    b: &'a Backward<T>,
    sizes: Sizes,
    longest: usize,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for BackwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let x = &self.b.x;
        let (sequence, key_head) = (self.task / x.key_heads, self.task % x.key_heads);
        for i in 0..x.repeat() {
            self.head(s, sequence, key_head * x.repeat() + i, i > 0);
        }
    }
}

impl<T: Real> BackwardTask<'_, T> {
    /// One head; adds to the gradients of its key head if `add_keys`.
    #[inline(always)]
    fn head<S: Simd<E = T>>(&self, s: S, sequence: usize, head: usize, add_keys: bool) {
        let (b, x) = (self.b, &self.b.x);
        let (keys, values) = (x.key_width, x.value_width);
        let (size, state_at) = (keys * values, x.state(sequence, head));
        let (start, end) = x.range(sequence);
        let (capacity, bytes) = (self.sizes.chunk, self.sizes.product_bytes::<T>());
        let chunks = (end - start).div_ceil(capacity);
        // SAFETY: the scratch has `backward_elements` for each worker.
        let (mut arrays, mut products): (Arrays<T>, _) =
            unsafe { worker_scratch(b.scratch, b.scratch_elements, self.worker, bytes, Compute::F32) };
        let mut chunk = Chunk::new(x, capacity, &mut arrays);
        let mut d = Gradients::new(&self.sizes, &mut arrays);
        let states = arrays.take((self.longest.div_ceil(capacity) + 1) * size);
        let missing = arrays.take(self.longest * values);
        let u = arrays.take(chunk.writes * capacity * values);
        // SAFETY: the states of this head of this sequence.
        unsafe {
            first_state(x.initial_state, state_at, &mut states[..size]);
            first_state(b.d_final_state, state_at, d.state);
        }
        let tokens = |at: usize| capacity.min(end - at);
        for c in 0..chunks {
            let at = start + c * capacity;
            let (n, w) = (tokens(at), &mut missing[c * capacity * values..]);
            // SAFETY: the sequence has these tokens.
            unsafe { chunk.read(s, x, at, n, head) };
            chunk.scores(s, &mut products, false);
            states.copy_within(c * size..(c + 1) * size, (c + 1) * size);
            let next = &mut states[(c + 1) * size..(c + 2) * size];
            let (inner, entering) = ((&*chunk.inner, keys, false), (&*next, values, false));
            products.product((n, values, keys), inner, entering, w, values, Start::Zero);
            // SAFETY: as above.
            unsafe { chunk.add_values(x, &mut products, at, head, w, u) };
            chunk.solve(s, &mut products, w, u);
            chunk.advance(&mut products, u, next);
        }
        for c in (0..chunks).rev() {
            let at = start + c * capacity;
            let (n, w) = (tokens(at), &missing[c * capacity * values..]);
            // SAFETY: the sequence has these tokens.
            unsafe {
                chunk.read(s, x, at, n, head);
                read(x.value_rows(b.d_o, at, n, head), &mut d.seen[n * values..]);
                if chunk.writes == 2 {
                    read(x.value_rows(x.v, at, n, head), &mut u[n * values..]);
                }
            }
            for t in 0..n {
                scaled(&mut u[t * values..(t + 1) * values], &w[t * values..], chunk.beta[t]);
            }
            let (before, after) = states[c * size..(c + 2) * size].split_at(size);
            chunk.gradients(s, &mut products, [before, after], w, u, &mut d);
            // SAFETY: the gradients of this head of these tokens are this task's own.
            unsafe { self.write(&chunk, &mut d, at, head, add_keys) };
        }
        if !b.d_initial_state.is_null() {
            // SAFETY: as above.
            unsafe { b.d_initial_state.add(state_at).copy_from_nonoverlapping(d.state.as_ptr(), size) };
        }
    }

    /// # Safety
    /// No other task writes the gradients of these tokens of this head.
    #[inline(always)]
    unsafe fn write(&self, chunk: &Chunk<T>, d: &mut Gradients<'_, T>, at: usize, head: usize, add_keys: bool) {
        let (b, x, n) = (self.b, &self.b.x, chunk.tokens);
        let (of_k, of_q) = d.y.split_at_mut(n * x.key_width);
        let scale = T::of(x.scale);
        of_q[..n * x.key_width].iter_mut().for_each(|q| *q *= scale);
        if b.general.is_none() {
            // A key is read with a minus sign, and written.
            d.k.iter_mut().zip(&*of_k).for_each(|(k, y)| *k -= *y);
        }
        // SAFETY: the caller's.
        unsafe {
            write(of_q, x.key_rows(b.dq, at, n, head), add_keys);
            if let Some(general) = &b.general {
                write(of_k, x.key_rows(general.a, at, n, head), add_keys);
                write(d.k, x.key_rows(general.b, at, n, head), add_keys);
                write(&d.k[n * x.key_width..], x.key_rows(b.dk, at, n, head), add_keys);
                write(&d.u[n * x.value_width..], x.value_rows(b.dv, at, n, head), false);
            } else {
                write(d.k, x.key_rows(b.dk, at, n, head), add_keys);
                write(d.seen, x.value_rows(b.dv, at, n, head), false);
                (0..n).for_each(|t| *b.d_beta.add((at + t) * x.heads + head) = d.beta[t]);
            }
            match x.gate {
                GateKind::None => {}
                GateKind::Channel => write(d.g, x.gate_rows(b.dg, at, n, head), false),
                GateKind::Head => (0..n).for_each(|t| *b.dg.add((at + t) * x.heads + head) = d.g[t]),
            }
        }
    }
}
