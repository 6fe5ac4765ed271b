//! A chunk of gates by channel: scores in two levels, because e^(−b) alone overflows.
//!
//! Off the diagonal of 16 × 16 blocks, rows i of A against the keys before them, it is a product of
//! q ⊙ e^(b − b_i) and k ⊙ e^(b_i − b), b_i the sum of log-gates before block row i: no exponent is above
//! 0. In the diagonal blocks each pair has its own decay.

use super::super::Inputs;
use super::super::pack::exp;
use super::super::products::{Arrays, Products, elements, read};
use super::{Chunk, Gradients, ROWS, SUB, clear_future, multiply, times_transposed, times_triangle, triangle};
use crate::Real;
use crate::gemm::Start;
use crate::simd::Simd;

/// A chunk's arrays; rows are tokens.
pub(super) struct ByChannel<'a, T> {
    keys: usize,
    values: usize,
    /// Rows that the arrays have.
    capacity: usize,
    /// Rows in use.
    tokens: usize,
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

impl<T: Real> ByChannel<'_, T> {
    fn blocks(&self) -> usize {
        self.tokens.div_ceil(SUB)
    }

    /// Rows of a block.
    fn block_rows(&self, block: usize) -> std::ops::Range<usize> {
        block * SUB..((block + 1) * SUB).min(self.tokens)
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
    fn carry(&self, products: &mut Products, state: &mut [T]) {
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

    /// Zeros between the blocks of rows already built and the end of a group of ROWS rows.
    #[inline(always)]
    fn clear_beyond_blocks(&mut self) {
        for r in 0..self.tokens {
            let (built, end) = (self.block_rows(r / SUB).end, (r / ROWS + 1) * ROWS);
            self.a[r * self.capacity + built..r * self.capacity + end.min(self.tokens).max(built)].fill(T::ZERO);
        }
    }
}

impl<T: Real> ByChannel<'_, T> {
    /// dq and dk through pairs of the same block, pair by pair.
    #[inline(always)]
    fn gradients_inside_blocks(&mut self, d: &mut Gradients<'_, T>) {
        let (keys, ld) = (self.keys, self.capacity);
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

impl<'a, T: Real> Chunk<'a, T> for ByChannel<'a, T> {
    fn elements(chunk: usize, keys: usize, values: usize) -> usize {
        elements(&chunk_sizes(chunk, keys, values))
    }

    fn new(x: &Inputs<T>, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = chunk_sizes(capacity, x.key_width, x.value_width).into_iter();
        let mut next = || arrays.take(sizes.next().expect("one size an array"));
        ByChannel {
            keys: x.key_width,
            values: x.value_width,
            capacity,
            tokens: 0,
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

    #[inline(always)]
    unsafe fn read<S: Simd<E = T>>(&mut self, s: S, x: &Inputs<T>, at: usize, tokens: usize, head: usize) {
        let (keys, kv_head) = (self.keys, x.kv_head(head));
        self.tokens = tokens;
        // SAFETY: the caller's; the arrays have SLACK elements more than they hold.
        unsafe {
            read(x.query_rows(x.q, at, tokens, head), self.q);
            read(x.key_rows(x.k, at, tokens, kv_head), self.k);
            read(x.value_rows(x.v, at, tokens, kv_head), self.v);
            read(x.key_rows(x.g, at, tokens, kv_head), self.decay);
            exp(s, self.decay.as_mut_ptr(), tokens * keys);
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

    #[inline(always)]
    fn outputs<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, state: &mut [T], o: &mut [T]) {
        let (keys, values, n) = (self.keys, self.values, self.tokens);
        for block in 0..self.blocks() {
            self.scores(s, products, block);
            self.roll(block);
        }
        self.clear_beyond_blocks();
        self.reach_back();
        products.product((n, values, keys), (self.inner, keys, false), (state, values, false), o, values, Start::Zero);
        times_triangle(products, (self.a, self.capacity), n, (self.v, values), o, Start::Add);
        self.carry(products, state);
    }

    #[inline(always)]
    fn advance(&mut self, products: &mut Products, state: &mut [T]) {
        (0..self.blocks()).for_each(|block| self.roll(block));
        self.carry(products, state);
    }

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
        triangle(products, n, values, d.o, self.v, (d.a, ld));
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
        times_transposed(products, (self.a, ld), n, (d.o, values), d.v, Start::Add);

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
        self.gradients_inside_blocks(d);
        self.gate_gradients(after, d);
        self.reach_back();
        for (row, a) in d.state.chunks_exact_mut(values).zip(self.total()) {
            row.iter_mut().for_each(|s| *s *= *a);
        }
        let queries = (&*self.inner, keys, true);
        products.product((keys, values, n), queries, (d.o, values, false), d.state, values, Start::Add);
    }
}
