//! The chunked form: chunks of C tokens by matrix products, states handed from chunk to chunk.
//!
//! With b the sum of log-gates from the start of a chunk, S the state that enters it:
//! - o = scale · (q ⊙ e^b) S + A v,  A_rs = scale · Σ_c q_rc k_sc e^(b_rc − b_sc) for s ≤ r,
//! - S_next = diag(e^(b_C)) S + (k ⊙ e^(b_C − b))ᵀ v.
//!
//! A is built in two levels, because e^(−b) alone overflows. Off the diagonal of 16 × 16 blocks,
//! rows i against the keys before them, it is a product of q ⊙ e^(b − b_i) and k ⊙ e^(b_i − b), b_i
//! the sum before block row i: no exponent is above 0. In the diagonal blocks each pair has its own
//! decay. All decays here are products of exp(g), never differences of sums, so that a gate that
//! forgets everything (exp(g) = 0) is as exact as any other.
//!
//! Backward recomputes the states, then goes from the last chunk to the first with dS:
//! dA = tril(do vᵀ), dv = Aᵀ do + (k ⊙ e^(b_C − b)) dS, dS_prev = diag(e^(b_C)) dS + scale · (q ⊙ e^b)ᵀ do;
//! dq and dk from dA in the same two levels, plus scale · e^b ⊙ (do Sᵀ) and e^(b_C − b) ⊙ (v dSᵀ);
//! dg is the sum of q ⊙ dq − k ⊙ dk from its token to the end of the chunk, plus rowsum(S_next ⊙ dS).
//!
//! A task is a head of a sequence. The parallel form is this with one chunk.

use super::pack::exp;
use super::products::{Arrays, Products, elements, read, worker_scratch, write};
use super::{Backward, Form, Forward, GateKind, Gla, Inputs};
use crate::gemm::Start;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Tokens of a block of the second level.
const SUB: usize = 16;
/// Rows of a product with the triangle A: what lies beyond their last column is left out.
const ROWS: usize = 64;
/// Tokens of a chunk: of the whole sequence in the parallel form.
pub(super) fn chunk_tokens(gla: &Gla, form: Form, longest: usize) -> usize {
    let all = longest.max(1).next_multiple_of(SUB);
    if form == Form::Parallel { all } else { gla.chunk.min(all) }
}

/// A chunk's arrays; rows are tokens.
struct Chunk<'a, T> {
    keys: usize,
    values: usize,
    /// Rows that the arrays have.
    capacity: usize,
    /// Rows in use.
    tokens: usize,
    gate: GateKind,
    /// scale · q [C, K].
    q: &'a mut [T],
    /// [C, K].
    k: &'a mut [T],
    /// [C, V].
    v: &'a mut [T],
    /// exp(g) [C, K].
    decay: &'a mut [T],
    /// Decay from the start of the token's block to the token, itself included [C, K].
    within: &'a mut [T],
    /// Decay from the token, itself not included, to the end of its block [C, K].
    left: &'a mut [T],
    /// Decay over each block [C / 16, K].
    block: &'a mut [T],
    /// Decay from the start of the chunk to each block, and over all [C / 16 + 1, K].
    before: &'a mut [T],
    /// q ⊙ within [C, K].
    inner: &'a mut [T],
    /// k decayed to the block that is being built; in the end, to the end of the chunk [C, K].
    rolled: &'a mut [T],
    /// One row of keys.
    row: &'a mut [T],
    /// A [C, C].
    a: &'a mut [T],
}

/// Sizes of a chunk's arrays in the order in which they are taken.
fn chunk_sizes(chunk: usize, keys: usize, values: usize) -> [usize; 12] {
    let (by_key, blocks) = (chunk * keys, chunk / SUB);
    [
        by_key,
        by_key,
        chunk * values,
        by_key,
        by_key,
        by_key,
        blocks * keys,
        (blocks + 1) * keys,
        by_key,
        by_key,
        keys,
        chunk * chunk,
    ]
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

/// Elements of scratch of a thread for the forward pass.
pub(super) fn forward_elements<T: Real>(gla: &Gla, chunk: usize) -> usize {
    let (k, v) = (gla.key_width, gla.value_width);
    let products = product_bytes::<T>(gla, chunk).div_ceil(size_of::<T>());
    elements(&chunk_sizes(chunk, k, v)) + elements(&[k * v, chunk * v]) + products
}

/// Elements of scratch of a thread for the backward pass: with the states of every chunk.
pub(super) fn backward_elements<T: Real>(gla: &Gla, chunk: usize, longest: usize) -> usize {
    let (k, v) = (gla.key_width, gla.value_width);
    let products = product_bytes::<T>(gla, chunk).div_ceil(size_of::<T>());
    let states = (longest.div_ceil(chunk) + 1) * k * v;
    elements(&chunk_sizes(chunk, k, v))
        + elements(&[states, k * v, chunk * v, chunk * v, chunk * k, chunk * k, chunk * k, chunk * k, chunk * chunk])
        + products
}

/// `y *= x`, elementwise.
#[inline(always)]
fn multiply<T: Real>(y: &mut [T], x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y *= *x);
}

impl<'a, T: Real> Chunk<'a, T> {
    fn new(x: &Inputs<T>, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = chunk_sizes(capacity, x.key_width, x.value_width).into_iter();
        let mut next = || arrays.take(sizes.next().expect("one size an array"));
        Chunk {
            keys: x.key_width,
            values: x.value_width,
            capacity,
            tokens: 0,
            gate: x.gate,
            q: next(),
            k: next(),
            v: next(),
            decay: next(),
            within: next(),
            left: next(),
            block: next(),
            before: next(),
            inner: next(),
            rolled: next(),
            row: next(),
            a: next(),
        }
    }

    /// Blocks of the second level: without gates one is enough.
    fn block_tokens(&self) -> usize {
        if self.gate == GateKind::None { self.capacity } else { SUB }
    }

    fn blocks(&self) -> usize {
        self.tokens.div_ceil(self.block_tokens())
    }

    /// Rows of a block.
    fn block_rows(&self, block: usize) -> std::ops::Range<usize> {
        block * self.block_tokens()..((block + 1) * self.block_tokens()).min(self.tokens)
    }

    /// Reads the tokens of a chunk and builds every decay.
    ///
    /// # Safety
    /// The inputs have these tokens.
    #[inline(always)]
    unsafe fn read<S: Simd<E = T>>(&mut self, s: S, x: &Inputs<T>, at: usize, tokens: usize, head: usize) {
        let (keys, kv_head) = (self.keys, x.kv_head(head));
        self.tokens = tokens;
        // SAFETY: the caller's; the arrays have SLACK elements more than they hold.
        unsafe {
            read(x.query_rows(x.q, at, tokens, head), self.q);
            read(x.key_rows(x.k, at, tokens, kv_head), self.k);
            read(x.value_rows(x.v, at, tokens, kv_head), self.v);
            match x.gate {
                GateKind::None => self.decay[..tokens * keys].fill(T::ONE),
                GateKind::Head => {
                    for (t, row) in self.decay.chunks_exact_mut(keys).take(tokens).enumerate() {
                        row.fill(*x.g.add((at + t) * x.kv_heads + kv_head));
                    }
                    exp(s, self.decay.as_mut_ptr(), tokens * keys);
                }
                GateKind::Channel => {
                    read(x.key_rows(x.g, at, tokens, kv_head), self.decay);
                    exp(s, self.decay.as_mut_ptr(), tokens * keys);
                }
            }
        }
        let scale = T::of(x.scale);
        self.q[..tokens * keys].iter_mut().for_each(|q| *q *= scale);
        self.before[..keys].fill(T::ONE);
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            let (first, last) = (rows.start * keys, (rows.end - 1) * keys);
            self.within[first..first + keys].copy_from_slice(&self.decay[first..first + keys]);
            for at in (first + keys..=last).step_by(keys) {
                let (done, row) = self.within.split_at_mut(at);
                for ((w, before), a) in row.iter_mut().zip(&done[at - keys..]).zip(&self.decay[at..at + keys]) {
                    *w = *before * *a;
                }
            }
            self.left[last..last + keys].fill(T::ONE);
            for at in (first..last).step_by(keys).rev() {
                let (row, done) = self.left.split_at_mut(at + keys);
                for ((w, after), a) in row[at..].iter_mut().zip(&*done).zip(&self.decay[at + keys..at + 2 * keys]) {
                    *w = *after * *a;
                }
            }
            self.block[block * keys..(block + 1) * keys].copy_from_slice(&self.within[last..last + keys]);
            let (done, next) = self.before.split_at_mut((block + 1) * keys);
            for ((y, x), a) in next.iter_mut().zip(&done[block * keys..]).zip(&self.block[block * keys..]).take(keys) {
                *y = *x * *a;
            }
        }
        let n = tokens * keys;
        for ((y, q), w) in self.inner[..n].iter_mut().zip(&self.q[..n]).zip(&self.within[..n]) {
            *y = *q * *w;
        }
    }

    /// Decays the keys before a block over it and adds its own.
    #[inline(always)]
    fn roll(&mut self, block: usize) {
        let (keys, rows) = (self.keys, self.block_rows(block));
        let decay = &self.block[block * keys..(block + 1) * keys];
        for row in self.rolled[..rows.start * keys].chunks_exact_mut(keys) {
            multiply(row, decay);
        }
        let own = rows.start * keys..rows.end * keys;
        for ((y, k), w) in self.rolled[own.clone()].iter_mut().zip(&self.k[own.clone()]).zip(&self.left[own]) {
            *y = *k * *w;
        }
    }

    /// Decay over the whole chunk.
    fn total(&self) -> &[T] {
        &self.before[self.blocks() * self.keys..][..self.keys]
    }

    /// state = diag(total) state + rolledᵀ v.
    #[inline(always)]
    fn advance(&self, products: &mut Products, state: &mut [T]) {
        for (row, a) in state.chunks_exact_mut(self.values).zip(self.total()) {
            row.iter_mut().for_each(|s| *s *= *a);
        }
        let shape = (self.keys, self.values, self.tokens);
        products.product(
            shape,
            (self.rolled, self.keys, true),
            (self.v, self.values, false),
            state,
            self.values,
            Start::Add,
        );
    }

    /// inner = q decayed from the start of the chunk: what reads the state that enters.
    #[inline(always)]
    fn reach_back(&mut self) {
        for block in 1..self.blocks() {
            let rows = self.block_rows(block);
            let before = &self.before[block * self.keys..(block + 1) * self.keys];
            for row in self.inner[rows.start * self.keys..rows.end * self.keys].chunks_exact_mut(self.keys) {
                multiply(row, before);
            }
        }
    }

    /// The scores of a block of rows: a product against the keys before it, pairs inside it.
    #[inline(always)]
    fn scores<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, block: usize) {
        let (keys, ld, rows) = (self.keys, self.capacity, self.block_rows(block));
        let inner = &self.inner[rows.start * keys..];
        let a = &mut self.a[rows.start * ld..];
        products.product(
            (rows.len(), rows.start, keys),
            (inner, keys, false),
            (self.rolled, keys, true),
            a,
            ld,
            Start::Zero,
        );
        if self.gate == GateKind::None {
            // One block: every pair at once, then the triangle.
            for first in (0..self.tokens).step_by(ROWS) {
                let end = (first + ROWS).min(self.tokens);
                let shape = (end - first, end, keys);
                let q = (&self.q[first * keys..], keys, false);
                products.product(shape, q, (self.k, keys, true), &mut self.a[first * ld..], ld, Start::Zero);
            }
            self.clear_future();
            return;
        }
        for r in rows.clone() {
            self.a[r * ld + r + 1..r * ld + rows.end].fill(T::ZERO);
        }
        for column in rows.clone() {
            self.row[..keys].copy_from_slice(&self.k[column * keys..(column + 1) * keys]);
            for r in column..rows.end {
                let (q, decay) = (&self.q[r * keys..(r + 1) * keys], &self.decay[r * keys..(r + 1) * keys]);
                let mut sum = s.zero();
                for i in (0..keys).step_by(S::LANES) {
                    let at = i..(i + S::LANES).min(keys);
                    let mut k = s.load_any(&self.row[at.clone()]);
                    if r > column {
                        k = k * s.load_any(&decay[at.clone()]);
                        s.store_any(k, &mut self.row[at.clone()]);
                    }
                    sum = s.fma(s.load_any(&q[at]), k, sum);
                }
                self.a[r * ld + column] = s.sum(sum);
            }
        }
    }

    /// Zeros above the diagonal of A, as far as products with it read.
    fn clear_future(&mut self) {
        clear_future(self.a, self.capacity, self.tokens);
    }

    /// Zeros between the blocks of rows already built and the end of a group of ROWS rows.
    #[inline(always)]
    fn clear_beyond_blocks(&mut self) {
        for r in 0..self.tokens {
            let (built, end) = (self.block_rows(r / self.block_tokens()).end, (r / ROWS + 1) * ROWS);
            self.a[r * self.capacity + built..r * self.capacity + end.min(self.tokens).max(built)].fill(T::ZERO);
        }
    }

    /// c [tokens, n] += A b, b [tokens, n].
    #[inline(always)]
    fn times_a(&self, products: &mut Products, b: &[T], n: usize, c: &mut [T], start: Start) {
        for first in (0..self.tokens).step_by(ROWS) {
            let end = (first + ROWS).min(self.tokens);
            let a = (&self.a[first * self.capacity..], self.capacity, false);
            products.product((end - first, n, end), a, (b, n, false), &mut c[first * n..], n, start);
        }
    }
}

/// Zeros above the diagonal, as far as products by groups of ROWS rows read.
fn clear_future<T: Real>(a: &mut [T], ld: usize, tokens: usize) {
    for r in 0..tokens {
        a[r * ld + r + 1..r * ld + ((r / ROWS + 1) * ROWS).min(tokens).max(r + 1)].fill(T::ZERO);
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
        let (f, x) = (self.f, &self.f.x);
        let (sequence, head) = (self.task / x.heads, self.task % x.heads);
        let (keys, values) = (x.key_width, x.value_width);
        let bytes = product_bytes::<T>(self.gla, self.chunk);
        // SAFETY: the scratch has `forward_elements` for each worker.
        let (mut arrays, mut products) =
            unsafe { worker_scratch(f.scratch, f.scratch_elements, self.worker, bytes, self.gla.compute) };
        let mut chunk = Chunk::new(x, self.chunk, &mut arrays);
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
            for block in 0..chunk.blocks() {
                chunk.scores(s, &mut products, block);
                chunk.roll(block);
            }
            chunk.clear_beyond_blocks();
            chunk.reach_back();
            let shape = (tokens, values, keys);
            products.product(shape, (chunk.inner, keys, false), (state, values, false), o, values, Start::Zero);
            chunk.times_a(&mut products, chunk.v, values, o, Start::Add);
            chunk.advance(&mut products, state);
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
            self.head(s, sequence, head, head > kv_head * repeat);
        }
    }
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
    /// [C, K].
    g: &'a mut [T],
    /// [C, C].
    a: &'a mut [T],
}

impl<T: Real> BackwardTask<'_, T> {
    /// One head; adds to the gradients of its key head if `add`.
    #[inline(always)]
    fn head<S: Simd<E = T>>(&self, s: S, sequence: usize, head: usize, add: bool) {
        let (b, x) = (self.b, &self.b.x);
        let (keys, values) = (x.key_width, x.value_width);
        let size = keys * values;
        let (start, end) = x.range(sequence);
        let chunks = (end - start).div_ceil(self.chunk);
        let bytes = product_bytes::<T>(self.gla, self.chunk);
        // SAFETY: the scratch has `backward_elements` for each worker.
        let (mut arrays, mut products) =
            unsafe { worker_scratch(b.scratch, b.scratch_elements, self.worker, bytes, self.gla.compute) };
        let mut chunk = Chunk::new(x, self.chunk, &mut arrays);
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
            (0..chunk.blocks()).for_each(|block| chunk.roll(block));
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
                        for (t, row) in d.g.chunks_exact(keys).take(n).enumerate() {
                            let dg = &mut *b.dg.add((at + t) * x.kv_heads + kv_head);
                            let sum = row.iter().fold(T::ZERO, |sum, g| sum + *g);
                            *dg = if add { *dg + sum } else { sum };
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

impl<T: Real> Chunk<'_, T> {
    /// All gradients of a chunk from `d.o` and `d.state`, which becomes that of the state before it.
    #[inline(always)]
    fn gradients<S: Simd<E = T>>(
        &mut self,
        s: S,
        products: &mut Products,
        before: &[T],
        after: &[T],
        d: &mut Gradients<'_, T>,
    ) {
        let (keys, values, n, ld) = (self.keys, self.values, self.tokens, self.capacity);
        for first in (0..n).step_by(ROWS) {
            let end = (first + ROWS).min(n);
            let d_o = (&d.o[first * values..], values, false);
            let a = &mut d.a[first * ld..];
            products.product((end - first, end, values), d_o, (self.v, values, true), a, ld, Start::Zero);
        }
        clear_future(d.a, ld, n);

        // Scores, and dq through them.
        d.q[..n * keys].fill(T::ZERO);
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            self.scores(s, products, block);
            let shape = (rows.len(), keys, rows.start);
            let a = (&d.a[rows.start * ld..], ld, false);
            products.product(shape, a, (self.rolled, keys, false), &mut d.q[rows.start * keys..], keys, Start::Zero);
            self.roll(block);
        }
        self.clear_beyond_blocks();

        // dv.
        products.product(
            (n, values, keys),
            (self.rolled, keys, false),
            (d.state, values, false),
            d.v,
            values,
            Start::Zero,
        );
        for first in (0..n).step_by(ROWS) {
            let end = (first + ROWS).min(n);
            let a = (&self.a[first * ld + first..], ld, true);
            let d_o = (&d.o[first * values..], values, false);
            products.product((end - first, values, n - first), a, d_o, &mut d.v[first * values..], values, Start::Add);
        }

        // dq through the state that enters; its decay from the block's start is common to both parts.
        products.product((n, keys, values), (d.o, values, false), (before, values, true), d.through, keys, Start::Zero);
        for block in 0..self.blocks() {
            let reach = &self.before[block * keys..(block + 1) * keys];
            for r in self.block_rows(block) {
                let row = r * keys..(r + 1) * keys;
                let through = d.through[row.clone()].iter().zip(reach).zip(&self.within[row.clone()]);
                for (q, ((through, reach), within)) in d.q[row].iter_mut().zip(through) {
                    *q = *within * (*q + *through * *reach);
                }
            }
        }

        // dk through the state that leaves and the scores of later blocks, each decayed on its way.
        let d_state = (&*d.state, values, true);
        products.product((n, keys, values), (self.v, values, false), d_state, d.k, keys, Start::Zero);
        for block in (0..self.blocks()).rev() {
            let rows = self.block_rows(block);
            let decay = &self.block[block * keys..(block + 1) * keys];
            for row in d.k[..rows.start * keys].chunks_exact_mut(keys) {
                multiply(row, decay);
            }
            let a = (&d.a[rows.start * ld..], ld, true);
            let inner = (&self.inner[rows.start * keys..], keys, false);
            products.product((rows.start, keys, rows.len()), a, inner, d.k, keys, Start::Add);
        }
        multiply(&mut d.k[..n * keys], &self.left[..n * keys]);
        self.gradients_inside_blocks(products, d);

        if self.gate != GateKind::None {
            self.gate_gradients(after, d);
        }
        self.reach_back();
        for (row, a) in d.state.chunks_exact_mut(values).zip(self.total()) {
            row.iter_mut().for_each(|s| *s *= *a);
        }
        let queries = (&*self.inner, keys, true);
        products.product((keys, values, n), queries, (d.o, values, false), d.state, values, Start::Add);
    }

    /// dq and dk through pairs of the same block, pair by pair.
    #[inline(always)]
    fn gradients_inside_blocks(&mut self, products: &mut Products, d: &mut Gradients<'_, T>) {
        let (keys, n, ld) = (self.keys, self.tokens, self.capacity);
        if self.gate == GateKind::None {
            for first in (0..n).step_by(ROWS) {
                let end = (first + ROWS).min(n);
                let a = (&d.a[first * ld..], ld, false);
                let to = &mut d.q[first * keys..];
                products.product((end - first, keys, end), a, (self.k, keys, false), to, keys, Start::Add);
                let a = (&d.a[first * ld + first..], ld, true);
                let q = (&self.q[first * keys..], keys, false);
                products.product((end - first, keys, n - first), a, q, &mut d.k[first * keys..], keys, Start::Add);
            }
            return;
        }
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            for column in rows.clone() {
                let key = &mut self.row[..keys];
                key.copy_from_slice(&self.k[column * keys..(column + 1) * keys]);
                for r in column..rows.end {
                    if r > column {
                        multiply(key, &self.decay[r * keys..(r + 1) * keys]);
                    }
                    let a = d.a[r * ld + column];
                    for (q, k) in d.q[r * keys..(r + 1) * keys].iter_mut().zip(&*key) {
                        *q = a.mul_add(*k, *q);
                    }
                }
                // The same pairs seen from the key, the last query first (Horner's rule over decays).
                let sum = key;
                sum.fill(T::ZERO);
                for r in (column..rows.end).rev() {
                    if r + 1 < rows.end {
                        multiply(sum, &self.decay[(r + 1) * keys..(r + 2) * keys]);
                    }
                    let a = d.a[r * ld + column];
                    for (sum, q) in sum.iter_mut().zip(&self.q[r * keys..(r + 1) * keys]) {
                        *sum = a.mul_add(*q, *sum);
                    }
                }
                for (k, sum) in d.k[column * keys..(column + 1) * keys].iter_mut().zip(&*sum) {
                    *k += *sum;
                }
            }
        }
    }

    /// dg from dq / scale, dk, the state after the chunk and its gradient.
    #[inline(always)]
    fn gate_gradients(&mut self, after: &[T], d: &mut Gradients<'_, T>) {
        let keys = self.keys;
        let sum = &mut self.row[..keys];
        let states = after.chunks_exact(self.values).zip(d.state.chunks_exact(self.values));
        for (sum, (state, d_state)) in sum.iter_mut().zip(states) {
            *sum = state.iter().zip(d_state).fold(T::ZERO, |sum, (s, d)| s.mul_add(*d, sum));
        }
        for t in (0..self.tokens).rev() {
            let row = t * keys..(t + 1) * keys;
            let of_q = self.q[row.clone()].iter().zip(&d.q[row.clone()]);
            let of_k = self.k[row.clone()].iter().zip(&d.k[row.clone()]);
            for (((g, sum), (q, dq)), (k, dk)) in d.g[row].iter_mut().zip(&mut *sum).zip(of_q).zip(of_k) {
                *sum += *q * *dq - *k * *dk;
                *g = *sum;
            }
        }
    }
}
