//! The chunked form: chunks of C tokens by matrix products, states handed from chunk to chunk.
//!
//! With b the sum of log-gates from the start of a chunk, S the state that enters it:
//! - o = scale · (q ⊙ e^b) S + A v,  A_rs = scale · Σ_c q_rc k_sc e^(b_rc − b_sc) for s ≤ r,
//! - S_next = diag(e^(b_C)) S + (k ⊙ e^(b_C − b))ᵀ v.
//!
//! Where a head has one gate, or none, the decay of a pair is a number, and A is one product times a
//! triangle of decays (`by_head`); gates by channel need two levels (`by_channel`). All decays are
//! products of exp(g), never differences of sums, so that a gate that forgets everything (exp(g) = 0)
//! is as exact as any other.
//!
//! Backward recomputes the states, then goes from the last chunk to the first with dS:
//! dA = tril(do vᵀ), dv = Aᵀ do + (k ⊙ e^(b_C − b)) dS, dS_prev = diag(e^(b_C)) dS + scale · (q ⊙ e^b)ᵀ do;
//! dq and dk from dA as A is from q and k, plus scale · e^b ⊙ (do Sᵀ) and e^(b_C − b) ⊙ (v dSᵀ);
//! dg is the sum of q ⊙ dq − k ⊙ dk from its token to the end of the chunk, plus rowsum(S_next ⊙ dS).
//!
//! A task is a head of a sequence. The parallel form is this with one chunk.

mod by_channel;
mod by_head;

use super::products::{Arrays, Products, elements, read, worker_scratch, write};
use super::{Backward, Form, Forward, GateKind, Gla, Inputs};
use crate::gemm::Start;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use by_channel::ByChannel;
use by_head::ByHead;

/// Tokens of a block of the second level.
const SUB: usize = 16;
/// Rows of a product with the triangle A: what lies beyond their last column is left out.
const ROWS: usize = 64;

/// Tokens of a chunk: of the whole sequence in the parallel form.
pub(super) fn chunk_tokens(gla: &Gla, form: Form, longest: usize) -> usize {
    let all = longest.max(1).next_multiple_of(SUB);
    if form == Form::Parallel { all } else { gla.chunk.min(all) }
}

/// The tokens of a chunk and how they meet, by the kind of gate.
trait Chunk<'a, T: Real>: Sized {
    /// Elements of the arrays of a chunk of so many tokens.
    fn elements(chunk: usize, keys: usize, values: usize) -> usize;

    /// A chunk of up to `capacity` tokens.
    fn new(x: &Inputs<T>, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self;

    /// Reads tokens and builds their decays.
    ///
    /// # Safety
    /// The inputs have these tokens.
    unsafe fn read<S: Simd<E = T>>(&mut self, s: S, x: &Inputs<T>, at: usize, tokens: usize, head: usize);

    /// o from the state that enters; the state becomes the one that leaves.
    fn outputs<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, state: &mut [T], o: &mut [T]);

    /// The state alone, from the one that enters to the one that leaves.
    fn advance(&mut self, products: &mut Products, state: &mut [T]);

    /// All gradients from `d.o` and `d.state`, which becomes that of the state that enters.
    fn gradients<S: Simd<E = T>>(
        &mut self,
        s: S,
        products: &mut Products,
        before: &[T],
        after: &[T],
        d: &mut Gradients<'_, T>,
    );
}

/// The gradients of a chunk and what leads to them.
struct Gradients<'a, T> {
    /// Of the state after the chunk [K, V].
    state: &'a mut [T],
    /// [C, V].
    o: &'a mut [T],
    /// [C, V].
    v: &'a mut [T],
    /// dq / scale [C, K].
    q: &'a mut [T],
    /// [C, K].
    k: &'a mut [T],
    /// The part of q through the state that enters, of k through the state that leaves [C, K].
    through: &'a mut [T],
    /// [C, K], or `[C]` where a head has one gate.
    g: &'a mut [T],
    /// [C, C].
    a: &'a mut [T],
}

/// Bytes of scratch for every product of a task.
fn product_bytes<T: Real>(gla: &Gla, chunk: usize) -> usize {
    let (keys, values, rows) = (gla.key_width, gla.value_width, chunk.min(ROWS));
    let shapes = [
        (SUB, chunk, keys),
        (SUB, keys, chunk),
        (chunk, keys, SUB.max(values)),
        (rows, chunk, keys.max(values)),
        (rows, keys.max(values), chunk),
        (chunk, keys.max(values), keys),
        (keys, values, chunk),
    ];
    Products::scratch::<T>(&shapes, gla.compute)
}

/// Elements of a chunk's arrays, whatever the gates, and of products.
fn common_elements<T: Real>(gla: &Gla, chunk: usize) -> usize {
    let (k, v) = (gla.key_width, gla.value_width);
    let arrays = ByChannel::<T>::elements(chunk, k, v).max(ByHead::<T>::elements(chunk, k, v));
    arrays + product_bytes::<T>(gla, chunk).div_ceil(size_of::<T>())
}

/// Elements of scratch of a thread for the forward pass.
pub(super) fn forward_elements<T: Real>(gla: &Gla, chunk: usize) -> usize {
    let (k, v) = (gla.key_width, gla.value_width);
    common_elements::<T>(gla, chunk) + elements(&[k * v, chunk * v])
}

/// Elements of scratch of a thread for the backward pass: with the states of every chunk.
pub(super) fn backward_elements<T: Real>(gla: &Gla, chunk: usize, longest: usize) -> usize {
    let (k, v) = (gla.key_width, gla.value_width);
    let states = (longest.div_ceil(chunk) + 1) * k * v;
    common_elements::<T>(gla, chunk)
        + elements(&[states, k * v, chunk * v, chunk * v, chunk * k, chunk * k, chunk * k, chunk * k, chunk * chunk])
}

/// `y *= x`, elementwise.
#[inline(always)]
fn multiply<T: Real>(y: &mut [T], x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y *= *x);
}

/// Zeros above the diagonal, as far as products by groups of ROWS rows read.
fn clear_future<T: Real>(a: &mut [T], ld: usize, tokens: usize) {
    for r in 0..tokens {
        a[r * ld + r + 1..r * ld + ((r / ROWS + 1) * ROWS).min(tokens).max(r + 1)].fill(T::ZERO);
    }
}

/// c [tokens, n] = (or +=) A b, with A a lower triangle [tokens, ld] and b [tokens, n].
#[inline(always)]
fn times_triangle<T: Real>(
    products: &mut Products,
    (a, ld): (&[T], usize),
    tokens: usize,
    (b, n): (&[T], usize),
    c: &mut [T],
    start: Start,
) {
    for first in (0..tokens).step_by(ROWS) {
        let end = (first + ROWS).min(tokens);
        let a = (&a[first * ld..], ld, false);
        products.product((end - first, n, end), a, (b, n, false), &mut c[first * n..], n, start);
    }
}

/// c [tokens, n] = (or +=) Aᵀ b, with A a lower triangle [tokens, ld] and b [tokens, n].
#[inline(always)]
fn times_transposed<T: Real>(
    products: &mut Products,
    (a, ld): (&[T], usize),
    tokens: usize,
    (b, n): (&[T], usize),
    c: &mut [T],
    start: Start,
) {
    for first in (0..tokens).step_by(ROWS) {
        let end = (first + ROWS).min(tokens);
        let a = (&a[first * ld + first..], ld, true);
        products.product(
            (end - first, n, tokens - first),
            a,
            (&b[first * n..], n, false),
            &mut c[first * n..],
            n,
            start,
        );
    }
}

/// The lower triangle of x yᵀ, x and y [tokens, n]; what lies above in a group of ROWS rows is not yet zero.
#[inline(always)]
fn triangle<T: Real>(products: &mut Products, tokens: usize, n: usize, x: &[T], y: &[T], (a, ld): (&mut [T], usize)) {
    for first in (0..tokens).step_by(ROWS) {
        let end = (first + ROWS).min(tokens);
        let x = (&x[first * n..], n, false);
        products.product((end - first, end, n), x, (y, n, true), &mut a[first * ld..], ld, Start::Zero);
    }
}

pub(super) fn forward<T: Real>(pool: &Pool, gla: &Gla, f: &Forward<T>, chunk: usize) {
    let tasks = f.x.sequences * f.x.heads;
    pool.run(tasks, |task, worker| T::dispatch(ForwardTask { f, gla, chunk, task, worker }));
}

struct ForwardTask<'a, T> {
    f: &'a Forward<T>,
    gla: &'a Gla,
    chunk: usize,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for ForwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        match self.f.x.gate {
            GateKind::Channel => self.run_as::<S, ByChannel<T>>(s),
            GateKind::None | GateKind::Head => self.run_as::<S, ByHead<T>>(s),
        }
    }
}

impl<T: Real> ForwardTask<'_, T> {
    #[inline(always)]
    fn run_as<'a, S: Simd<E = T>, C: Chunk<'a, T>>(&self, s: S)
    where
        T: 'a,
    {
        let (f, x) = (self.f, &self.f.x);
        let (sequence, head) = (self.task / x.heads, self.task % x.heads);
        let (keys, values) = (x.key_width, x.value_width);
        let bytes = product_bytes::<T>(self.gla, self.chunk);
        // SAFETY: the scratch has `forward_elements` for each worker.
        let (mut arrays, mut products) =
            unsafe { worker_scratch(f.scratch, f.scratch_elements, self.worker, bytes, self.gla.compute) };
        let mut chunk = C::new(x, self.chunk, &mut arrays);
        let state = &mut arrays.take(keys * values)[..keys * values];
        let o = arrays.take(self.chunk * values);
        // SAFETY: the state and the outputs of this head of this sequence are this task's own.
        let initial = unsafe { super::state_of(f.initial_state, x.state(sequence, head), keys * values) };
        match initial {
            Some(initial) => state.copy_from_slice(initial),
            None => state.fill(T::ZERO),
        }
        let (start, end) = x.range(sequence);
        for at in (start..end).step_by(self.chunk) {
            let tokens = self.chunk.min(end - at);
            // SAFETY: the sequence has these tokens.
            unsafe { chunk.read(s, x, at, tokens, head) };
            chunk.outputs(s, &mut products, state, o);
            // SAFETY: as above.
            unsafe { write(o, x.output_rows(f.o, at, tokens, head), false) };
        }
        // SAFETY: as above.
        unsafe { f.final_state.add(x.state(sequence, head)).copy_from_nonoverlapping(state.as_ptr(), keys * values) };
    }
}

pub(super) fn backward<T: Real>(pool: &Pool, gla: &Gla, b: &Backward<T>, chunk: usize) {
    let tasks = b.x.sequences * b.x.kv_heads;
    pool.run(tasks, |task, worker| T::dispatch(BackwardTask { b, gla, chunk, task, worker }));
}

struct BackwardTask<'a, T> {
    b: &'a Backward<T>,
    gla: &'a Gla,
    chunk: usize,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for BackwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let x = &self.b.x;
        let repeat = x.heads / x.kv_heads;
        let (sequence, kv_head) = (self.task / x.kv_heads, self.task % x.kv_heads);
        for head in kv_head * repeat..(kv_head + 1) * repeat {
            let add = head > kv_head * repeat;
            match x.gate {
                GateKind::Channel => self.head::<S, ByChannel<T>>(s, sequence, head, add),
                GateKind::None | GateKind::Head => self.head::<S, ByHead<T>>(s, sequence, head, add),
            }
        }
    }
}

impl<T: Real> BackwardTask<'_, T> {
    /// One head; adds to the gradients of its key head if `add`.
    #[inline(always)]
    fn head<'a, S: Simd<E = T>, C: Chunk<'a, T>>(&self, s: S, sequence: usize, head: usize, add: bool)
    where
        T: 'a,
    {
        let (b, x) = (self.b, &self.b.x);
        let (keys, values) = (x.key_width, x.value_width);
        let size = keys * values;
        let (start, end) = x.range(sequence);
        let chunks = (end - start).div_ceil(self.chunk);
        let bytes = product_bytes::<T>(self.gla, self.chunk);
        // SAFETY: the scratch has `backward_elements` for each worker.
        let (mut arrays, mut products) =
            unsafe { worker_scratch(b.scratch, b.scratch_elements, self.worker, bytes, self.gla.compute) };
        let mut chunk = C::new(x, self.chunk, &mut arrays);
        let (by_key, by_value) = (self.chunk * keys, self.chunk * values);
        let mut d = Gradients {
            state: &mut arrays.take(size)[..size],
            o: arrays.take(by_value),
            v: arrays.take(by_value),
            q: arrays.take(by_key),
            k: arrays.take(by_key),
            through: arrays.take(by_key),
            g: arrays.take(by_key),
            a: arrays.take(self.chunk * self.chunk),
        };
        let states = arrays.take((chunks + 1) * size);
        // SAFETY: the states of this head of this sequence lie there.
        unsafe {
            match super::state_of(b.initial_state, x.state(sequence, head), size) {
                Some(initial) => states[..size].copy_from_slice(initial),
                None => states[..size].fill(T::ZERO),
            }
            match super::state_of(b.d_final_state, x.state(sequence, head), size) {
                Some(last) => d.state.copy_from_slice(last),
                None => d.state.fill(T::ZERO),
            }
        }
        let tokens = |at: usize| self.chunk.min(end - at);
        for c in 0..chunks {
            let at = start + c * self.chunk;
            // SAFETY: the sequence has these tokens.
            unsafe { chunk.read(s, x, at, tokens(at), head) };
            states.copy_within(c * size..(c + 1) * size, (c + 1) * size);
            chunk.advance(&mut products, &mut states[(c + 1) * size..(c + 2) * size]);
        }
        for c in (0..chunks).rev() {
            let at = start + c * self.chunk;
            let n = tokens(at);
            // SAFETY: the sequence has these tokens; their gradients are this task's own.
            unsafe {
                chunk.read(s, x, at, n, head);
                read(x.output_rows(b.d_o, at, n, head), d.o);
            }
            let (before, after) = states[c * size..(c + 2) * size].split_at(size);
            chunk.gradients(s, &mut products, before, after, &mut d);
            let scale = T::of(x.scale);
            d.q[..n * keys].iter_mut().for_each(|q| *q *= scale);
            // SAFETY: as above.
            unsafe {
                let kv_head = x.kv_head(head);
                write(d.q, x.query_rows(b.dq, at, n, head), false);
                write(d.k, x.key_rows(b.dk, at, n, kv_head), add);
                write(d.v, x.value_rows(b.dv, at, n, kv_head), add);
                match x.gate {
                    GateKind::None => {}
                    GateKind::Channel => write(d.g, x.key_rows(b.dg, at, n, kv_head), add),
                    GateKind::Head => {
                        for (t, g) in d.g[..n].iter().enumerate() {
                            let dg = &mut *b.dg.add((at + t) * x.kv_heads + kv_head);
                            *dg = if add { *dg + *g } else { *g };
                        }
                    }
                }
            }
        }
        if !b.d_initial_state.is_null() {
            // SAFETY: as above.
            unsafe {
                b.d_initial_state.add(x.state(sequence, head)).copy_from_nonoverlapping(d.state.as_ptr(), size);
            }
        }
    }
}
