//! A chunk's tokens and every decay between them.
//!
//! Decays are products of exp(g), never differences of sums: a gate that forgets everything
//! (exp(g) = 0) is as exact as any other, and nothing overflows. With one gate a head, or none, a
//! decay is a number for each pair of tokens, D [C, C]. With gates by channel, pairs in a block of
//! 16 tokens have their own, and blocks meet through what is decayed to a block's start.
//!
//! Each token reads the state twice, by −k (what the state holds under its key) and by scale · q:
//! those query rows y are stacked, so that each product is done once for both. The generalized rule
//! (RWKV-7) reads by a, before the token decays the state, and writes twice, under b what a has read
//! and under k the value: its key rows z are stacked too. Where its chunk keeps some of every
//! channel, one level is enough: y is decayed from the chunk's start, z divided by the same decay.

use super::Inputs;
use crate::Real;
use crate::gemm::Start;
use crate::gla::GateKind;
use crate::gla::pack::exp;
use crate::gla::products::{Arrays, Products, read};
use crate::simd::Simd;

/// Tokens of a block of the second level.
pub(crate) const SUB: usize = 16;

/// What log-gates may sum to in a chunk of one level: quotients by e to the power of it are far from overflow.
const GENTLE: f64 = -44.0;

/// How the decays between tokens are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// A number for each pair.
    Pairs,
    /// By channel, in two levels.
    Blocks,
    /// By channel, as quotients of decays from the chunk's start.
    Quotients,
}

/// A chunk's arrays; rows are tokens.
pub(super) struct Chunk<'a, T> {
    pub keys: usize,
    pub values: usize,
    /// Tokens that the arrays have room for; elements between rows of scores.
    pub capacity: usize,
    /// Tokens n in use.
    pub tokens: usize,
    pub gate: GateKind,
    pub between: Between,
    /// Key rows R of a token: 2 in the generalized rule, whose first query row reads the state before the token decays it.
    pub writes: usize,
    /// −k of all tokens, then scale · q of all [2n, K]; a, then q in the generalized rule.
    pub y: &'a mut [T],
    /// [R n, K]: b of all tokens, then k of all in the generalized rule.
    pub k: &'a mut [T],
    /// `[n]`.
    pub beta: &'a mut [T],
    /// y decayed from the start of its block (in blocks), in the end from the start of the chunk [2n, K].
    pub inner: &'a mut [T],
    /// k decayed to the start of the block that is being built, in the end to the end of the chunk [R n, K].
    pub rolled: &'a mut [T],
    /// Decay over the whole chunk `[K]`.
    pub total: &'a mut [T],
    /// Scores A′ of −k, zero from the diagonal on, then scores of q, zero after it [2n, R C].
    pub a: &'a mut [T],
    /// One gate a head, or none: decay from token s, itself not included, to t, itself included [n, C].
    pub pairs: &'a mut [T],
    /// By channel: exp(g) [n, K].
    pub decay: &'a mut [T],
    /// By channel: decay from the start of the token's block, or of the chunk, to the token, itself included [n, K].
    pub within: &'a mut [T],
    /// In blocks: decay from the token, itself not included, to the end of its block; quotients: 1 / within [n, K].
    pub left: &'a mut [T],
    /// In blocks: decay over each block [C / 16, K].
    pub block: &'a mut [T],
    /// In blocks: decay from the start of the chunk to each block [C / 16 + 1, K].
    pub before: &'a mut [T],
    /// Quotients: k / within [R n, K].
    pub lifted: &'a mut [T],
    /// One row of keys.
    pub row: &'a mut [T],
}

/// Sizes of a chunk's arrays in the order in which they are taken, enough for gates of any kind.
pub(super) fn sizes(chunk: usize, keys: usize, writes: usize) -> [usize; 15] {
    let (by_key, blocks) = (chunk * keys, chunk / SUB);
    [
        2 * by_key,
        writes * by_key,
        chunk,
        2 * by_key,
        writes * by_key,
        keys,
        2 * writes * chunk * chunk,
        chunk * chunk,
        by_key,
        by_key,
        by_key,
        blocks * keys,
        (blocks + 1) * keys,
        if writes == 2 { writes * by_key } else { 0 },
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
pub(super) fn product<T: Real>(to: &mut [T], a: &[T], b: &[T]) {
    to.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = *a * *b);
}

impl<'a, T: Real> Chunk<'a, T> {
    pub(super) fn new(x: &Inputs<T>, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let writes = x.writes();
        let mut sizes = sizes(capacity, x.key_width, writes).into_iter();
        let mut next = || arrays.take(sizes.next().expect("one size an array"));
        Chunk {
            keys: x.key_width,
            values: x.value_width,
            capacity,
            tokens: 0,
            gate: x.gate,
            between: Between::Pairs,
            writes,
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
            lifted: next(),
            row: next(),
        }
    }

    pub(super) fn blocks(&self) -> usize {
        self.tokens.div_ceil(SUB)
    }

    /// Whether first query rows read the state before their token decays it.
    #[inline(always)]
    pub(super) fn reads_before(&self) -> bool {
        self.writes == 2
    }

    /// Elements between rows of scores.
    #[inline(always)]
    pub(super) fn ld(&self) -> usize {
        self.writes * self.capacity
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
        let (of_k, of_q) = self.y.split_at_mut(n);
        // SAFETY: the caller's; arrays have whole vectors more than they hold.
        unsafe {
            read(x.key_rows(x.q, at, tokens, head), of_q);
            if let Some(general) = &x.general {
                read(x.key_rows(general.a, at, tokens, head), of_k);
                read(x.key_rows(general.b, at, tokens, head), self.k);
                read(x.key_rows(x.k, at, tokens, head), &mut self.k[n..]);
                self.beta[..tokens].fill(T::ONE);
            } else {
                read(x.key_rows(x.k, at, tokens, head), self.k);
                (0..tokens).for_each(|t| self.beta[t] = *x.beta.add((at + t) * x.heads + head));
                scaled(of_k, &self.k[..n], -T::ONE);
            }
            match x.gate {
                GateKind::None => self.row_decays(s, |_| T::ZERO),
                GateKind::Head => self.row_decays(s, |t| *x.g.add((at + t) * x.heads + head)),
                GateKind::Channel => read(x.gate_rows(x.g, at, tokens, head), self.decay),
            }
        }
        let scale = T::of(x.scale);
        self.y[n..2 * n].iter_mut().for_each(|q| *q *= scale);
        self.between = if self.gate != GateKind::Channel {
            Between::Pairs
        } else if self.writes == 2 && self.is_gentle() {
            Between::Quotients
        } else {
            Between::Blocks
        };
        if self.gate == GateKind::Channel {
            // SAFETY: the array has whole vectors more than it holds.
            unsafe { exp(s, self.decay.as_mut_ptr(), n) };
        }
        match self.between {
            Between::Pairs => self.decay_by_pair(),
            Between::Blocks => self.decay_by_channel(),
            Between::Quotients => self.decay_by_quotient(),
        }
    }

    /// Whether every channel keeps enough over the chunk to divide by it; `decay` still holds log-gates.
    #[inline(always)]
    fn is_gentle(&mut self) -> bool {
        let (keys, sum) = (self.keys, &mut self.row[..self.keys]);
        sum.fill(T::ZERO);
        for row in self.decay[..self.tokens * keys].chunks_exact(keys) {
            sum.iter_mut().zip(row).for_each(|(sum, g)| *sum += *g);
        }
        let least = T::of(GENTLE);
        sum.iter().all(|sum| *sum >= least)
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
        if !self.reads_before() {
            product(&mut self.inner[..n * keys], &self.y[..], &self.within[..]);
        } else {
            for block in 0..self.blocks() {
                self.decay_before(self.block_rows(block));
            }
        }
        product(&mut self.inner[n * keys..2 * n * keys], &self.y[n * keys..], &self.within[..]);
    }

    /// By channel: first query rows that read before their token decays, from the start of these rows.
    #[inline(always)]
    fn decay_before(&mut self, rows: std::ops::Range<usize>) {
        let (first, second, end) = (rows.start * self.keys, (rows.start + 1) * self.keys, rows.end * self.keys);
        self.inner[first..second].copy_from_slice(&self.y[first..second]);
        product(&mut self.inner[second..end], &self.y[second..end], &self.within[first..]);
    }

    /// Decays from the chunk's start and what they divide; queries from its start, keys to its end.
    #[inline(always)]
    fn decay_by_quotient(&mut self) {
        let (n, keys) = (self.tokens, self.keys);
        self.within[..keys].copy_from_slice(&self.decay[..keys]);
        for at in (keys..n * keys).step_by(keys) {
            let (done, row) = self.within.split_at_mut(at);
            product(&mut row[..keys], &done[at - keys..], &self.decay[at..]);
        }
        self.left[..n * keys].iter_mut().zip(&*self.within).for_each(|(y, x)| *y = T::ONE / *x);
        self.total[..keys].copy_from_slice(&self.within[(n - 1) * keys..n * keys]);
        self.decay_before(0..n);
        product(&mut self.inner[n * keys..2 * n * keys], &self.y[n * keys..], &self.within[..]);
        for of in (0..self.writes).map(|write| write * n * keys) {
            product(&mut self.lifted[of..of + n * keys], &self.k[of..], &self.left[..]);
        }
        let rows = self.rolled.chunks_exact_mut(keys).zip(self.lifted.chunks_exact(keys));
        for (rolled, lifted) in rows.take(self.writes * n) {
            product(rolled, lifted, &self.total[..keys]);
        }
    }

    /// In blocks: decays the keys before a block over it and adds its own.
    #[inline(always)]
    pub(super) fn roll(&mut self, block: usize) {
        let (n, keys, rows) = (self.tokens, self.keys, self.block_rows(block));
        let decay = &self.block[block * keys..(block + 1) * keys];
        for first in (0..self.writes).map(|write| write * n) {
            for row in self.rolled[first * keys..(first + rows.start) * keys].chunks_exact_mut(keys) {
                multiply(row, decay);
            }
            let own = (first + rows.start) * keys..(first + rows.end) * keys;
            product(&mut self.rolled[own.clone()], &self.k[own], &self.left[rows.start * keys..]);
        }
    }

    /// In blocks: queries from the start of their block to the start of the chunk, to read the state that enters.
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

    /// state = diag(total) state + rolledᵀ u, with u [R n, V].
    #[inline(always)]
    pub(super) fn advance(&self, products: &mut Products, u: &[T], state: &mut [T]) {
        self.decay_state(state);
        let rolled = (&*self.rolled, self.keys, true);
        let shape = (self.keys, self.values, self.writes * self.tokens);
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
