//! A chunk's tokens and every decay between them.
//!
//! Decays are products of exp(g), never differences of sums: a gate that forgets everything
//! (exp(g) = 0) is as exact as any other, and nothing overflows. With one gate a head, or none, a
//! decay is a number for each pair of tokens, D [C, C]. With gates by channel, pairs in a block of
//! 16 tokens have their own, and blocks meet through what is decayed to a block's start.
//!
//! Each token reads the state twice, by −k (what the state holds under its key) and by scale · q:
//! those query rows y are stacked, so that each product is done once for both.

use super::Inputs;
use crate::Real;
use crate::gemm::Start;
use crate::gla::GateKind;
use crate::gla::pack::exp;
use crate::gla::products::{Arrays, Products, read};
use crate::simd::Simd;

/// Tokens of a block of the second level.
pub(super) const SUB: usize = 16;

/// A chunk's arrays; rows are tokens.
pub(super) struct Chunk<'a, T> {
    pub keys: usize,
    pub values: usize,
    /// Tokens that the arrays have room for; elements between rows of scores.
    pub capacity: usize,
    /// Tokens n in use.
    pub tokens: usize,
    pub gate: GateKind,
    /// −k of all tokens, then scale · q of all [2n, K].
    pub y: &'a mut [T],
    /// [n, K].
    pub k: &'a mut [T],
    /// `[n]`.
    pub beta: &'a mut [T],
    /// y decayed from the start of its block (by channel), in the end from the start of the chunk [2n, K].
    pub inner: &'a mut [T],
    /// k decayed to the start of the block that is being built, in the end to the end of the chunk [n, K].
    pub rolled: &'a mut [T],
    /// Decay over the whole chunk `[K]`.
    pub total: &'a mut [T],
    /// Scores A′ of −k, zero from the diagonal on, then scores of q, zero after it [2n, C].
    pub a: &'a mut [T],
    /// One gate a head, or none: decay from token s, itself not included, to t, itself included [n, C].
    pub pairs: &'a mut [T],
    /// By channel: exp(g) [n, K].
    pub decay: &'a mut [T],
    /// By channel: decay from the start of the token's block to the token, itself included [n, K].
    pub within: &'a mut [T],
    /// By channel: decay from the token, itself not included, to the end of its block [n, K].
    pub left: &'a mut [T],
    /// By channel: decay over each block [C / 16, K].
    pub block: &'a mut [T],
    /// By channel: decay from the start of the chunk to each block [C / 16 + 1, K].
    pub before: &'a mut [T],
    /// One row of keys.
    pub row: &'a mut [T],
}

/// Sizes of a chunk's arrays in the order in which they are taken, enough for gates of any kind.
pub(super) fn sizes(chunk: usize, keys: usize) -> [usize; 14] {
    let (by_key, blocks) = (chunk * keys, chunk / SUB);
    [
        2 * by_key,
        by_key,
        chunk,
        2 * by_key,
        by_key,
        keys,
        2 * chunk * chunk,
        chunk * chunk,
        by_key,
        by_key,
        by_key,
        blocks * keys,
        (blocks + 1) * keys,
        keys,
    ]
}

/// `y *= x`, elementwise.
#[inline(always)]
pub(super) fn multiply<T: Real>(y: &mut [T], x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y *= *x);
}

/// `to = x · by`, elementwise.
#[inline(always)]
pub(super) fn scaled<T: Real>(to: &mut [T], x: &[T], by: T) {
    to.iter_mut().zip(x).for_each(|(y, x)| *y = *x * by);
}

/// `to = a · b`, elementwise.
#[inline(always)]
fn product<T: Real>(to: &mut [T], a: &[T], b: &[T]) {
    to.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = *a * *b);
}

impl<'a, T: Real> Chunk<'a, T> {
    pub(super) fn new(x: &Inputs<T>, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = sizes(capacity, x.key_width).into_iter();
        let mut next = || arrays.take(sizes.next().expect("one size an array"));
        Chunk {
            keys: x.key_width,
            values: x.value_width,
            capacity,
            tokens: 0,
            gate: x.gate,
            y: next(),
            k: next(),
            beta: next(),
            inner: next(),
            rolled: next(),
            total: next(),
            a: next(),
            pairs: next(),
            decay: next(),
            within: next(),
            left: next(),
            block: next(),
            before: next(),
            row: next(),
        }
    }

    pub(super) fn blocks(&self) -> usize {
        self.tokens.div_ceil(SUB)
    }

    /// Tokens of a block.
    pub(super) fn block_rows(&self, block: usize) -> std::ops::Range<usize> {
        block * SUB..((block + 1) * SUB).min(self.tokens)
    }

    /// Reads the tokens of a chunk and builds their decays.
    ///
    /// # Safety
    /// The inputs have these tokens.
    #[inline(always)]
    pub(super) unsafe fn read<S: Simd<E = T>>(&mut self, s: S, x: &Inputs<T>, at: usize, tokens: usize, head: usize) {
        let n = tokens * self.keys;
        self.tokens = tokens;
        let (_, of_q) = self.y.split_at_mut(n);
        // SAFETY: the caller's; arrays have whole vectors more than they hold.
        unsafe {
            read(x.key_rows(x.k, at, tokens, head), self.k);
            read(x.key_rows(x.q, at, tokens, head), of_q);
            (0..tokens).for_each(|t| self.beta[t] = *x.beta.add((at + t) * x.heads + head));
            match x.gate {
                GateKind::None => self.row_decays(s, |_| T::ZERO),
                GateKind::Head => self.row_decays(s, |t| *x.g.add((at + t) * x.heads + head)),
                GateKind::Channel => {
                    read(x.gate_rows(x.g, at, tokens, head), self.decay);
                    exp(s, self.decay.as_mut_ptr(), n);
                }
            }
        }
        let scale = T::of(x.scale);
        let (of_k, of_q) = self.y.split_at_mut(n);
        scaled(of_k, &self.k[..n], -T::ONE);
        of_q[..n].iter_mut().for_each(|q| *q *= scale);
        if self.gate == GateKind::Channel {
            self.decay_by_channel();
        } else {
            self.decay_by_pair();
        }
    }

    /// exp of a gate a token, to the start of `decay`.
    #[inline(always)]
    fn row_decays<S: Simd<E = T>>(&mut self, s: S, gate: impl Fn(usize) -> T) {
        (0..self.tokens).for_each(|t| self.decay[t] = gate(t));
        // SAFETY: the array has whole vectors more than it holds.
        unsafe { exp(s, self.decay.as_mut_ptr(), self.tokens) }
    }

    /// D, and with it queries from the start of the chunk and keys to its end.
    #[inline(always)]
    fn decay_by_pair(&mut self) {
        let (n, ld, keys) = (self.tokens, self.capacity, self.keys);
        let mut from_start = T::ONE;
        for t in 0..n {
            let a = self.decay[t];
            let (done, row) = self.pairs.split_at_mut(t * ld);
            if t > 0 {
                scaled(&mut row[..t], &done[(t - 1) * ld..], a);
            }
            row[t] = T::ONE;
            from_start *= a;
            for row in [t, n + t] {
                scaled(&mut self.inner[row * keys..(row + 1) * keys], &self.y[row * keys..], from_start);
            }
        }
        for t in 0..n {
            let to_end = self.pairs[(n - 1) * ld + t];
            scaled(&mut self.rolled[t * keys..(t + 1) * keys], &self.k[t * keys..], to_end);
        }
        self.total[..keys].fill(from_start);
    }

    /// Decays inside blocks and between them; queries from the start of their block.
    #[inline(always)]
    fn decay_by_channel(&mut self) {
        let (n, keys) = (self.tokens, self.keys);
        self.before[..keys].fill(T::ONE);
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            let (first, last) = (rows.start * keys, (rows.end - 1) * keys);
            self.within[first..first + keys].copy_from_slice(&self.decay[first..first + keys]);
            for at in (first + keys..=last).step_by(keys) {
                let (done, row) = self.within.split_at_mut(at);
                product(&mut row[..keys], &done[at - keys..], &self.decay[at..]);
            }
            self.left[last..last + keys].fill(T::ONE);
            for at in (first..last).step_by(keys).rev() {
                let (row, done) = self.left.split_at_mut(at + keys);
                product(&mut row[at..], done, &self.decay[at + keys..]);
            }
            self.block[block * keys..(block + 1) * keys].copy_from_slice(&self.within[last..last + keys]);
            let (done, next) = self.before.split_at_mut((block + 1) * keys);
            product(&mut next[..keys], &done[block * keys..], &self.block[block * keys..]);
        }
        let blocks = self.blocks();
        self.total[..keys].copy_from_slice(&self.before[blocks * keys..(blocks + 1) * keys]);
        for half in [0, n * keys] {
            product(&mut self.inner[half..half + n * keys], &self.y[half..], &self.within[..]);
        }
    }

    /// By channel: decays the keys before a block over it and adds its own.
    #[inline(always)]
    pub(super) fn roll(&mut self, block: usize) {
        let (keys, rows) = (self.keys, self.block_rows(block));
        let decay = &self.block[block * keys..(block + 1) * keys];
        for row in self.rolled[..rows.start * keys].chunks_exact_mut(keys) {
            multiply(row, decay);
        }
        let own = rows.start * keys..rows.end * keys;
        product(&mut self.rolled[own.clone()], &self.k[own.clone()], &self.left[own]);
    }

    /// By channel: queries from the start of their block to the start of the chunk, to read the state that enters.
    #[inline(always)]
    pub(super) fn reach_back(&mut self) {
        for block in 1..self.blocks() {
            let rows = self.block_rows(block);
            let before = &self.before[block * self.keys..(block + 1) * self.keys];
            for half in [0, self.tokens] {
                let rows = (half + rows.start) * self.keys..(half + rows.end) * self.keys;
                for row in self.inner[rows].chunks_exact_mut(self.keys) {
                    multiply(row, before);
                }
            }
        }
    }

    /// state = diag(total) state + rolledᵀ u, with u [n, V].
    #[inline(always)]
    pub(super) fn advance(&self, products: &mut Products, u: &[T], state: &mut [T]) {
        self.decay_state(state);
        let rolled = (&*self.rolled, self.keys, true);
        let shape = (self.keys, self.values, self.tokens);
        products.product(shape, rolled, (u, self.values, false), state, self.values, Start::Add);
    }

    /// state = diag(total) state.
    #[inline(always)]
    pub(super) fn decay_state(&self, state: &mut [T]) {
        for (row, a) in state.chunks_exact_mut(self.values).zip(&*self.total) {
            row.iter_mut().for_each(|s| *s *= *a);
        }
    }
}
