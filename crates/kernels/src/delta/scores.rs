//! A chunk's scores: what each query row reads of the keys before it, decayed.
//!
//! A′_ts = −Σ_c k_tc k_sc D_tsc for s < t, and the same of scale · q for s ≤ t. With one gate a head
//! a product of all pairs, times D. By channel in two levels: block rows against the keys before
//! their block by products whose factors are decayed to the block's start, and pairs inside a block
//! each with their own decay; in one level where decays can be divided by. A token with two key rows
//! has two columns, n apart.

use super::chunk::{Between, Chunk};
use crate::Real;
use crate::gemm::Start;
use crate::gla::products::Products;
use crate::simd::Simd;

impl<T: Real> Chunk<'_, T> {
    /// All scores (those of q only if `queries`); queries and keys are then decayed to the chunk's ends.
    #[inline(always)]
    pub(super) fn scores<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, queries: bool) {
        match self.between {
            Between::Pairs => self.scores_by_pair(products, queries),
            Between::Quotients => self.scores_by_quotient(products, queries),
            Between::Blocks => {
                for block in 0..self.blocks() {
                    self.block_scores(s, products, block, queries);
                    self.roll(block);
                }
                self.reach_back();
            }
        }
    }

    /// Scores whose decays are quotients.
    #[inline(always)]
    pub(super) fn scores_by_quotient(&mut self, products: &mut Products, queries: bool) {
        let (n, ld, keys) = (self.tokens, self.ld(), self.keys);
        let rows = if queries { 2 * n } else { n };
        let (inner, lifted) = ((&*self.inner, keys, false), (&*self.lifted, keys, true));
        products.product((rows, self.writes * n, keys), inner, lifted, self.a, ld, Start::Zero);
        clear_future(self.a, n, ld, self.writes, queries);
    }

    /// Scores of one gate a head, or none.
    #[inline(always)]
    pub(super) fn scores_by_pair(&mut self, products: &mut Products, queries: bool) {
        let (n, ld, keys) = (self.tokens, self.ld(), self.keys);
        let rows = if queries { 2 * n } else { n };
        let k = (&*self.k, keys, true);
        products.product((rows, n, keys), (self.y, keys, false), k, self.a, ld, Start::Zero);
        decay_pairs(self.a, self.pairs, n, ld, queries);
    }

    /// In blocks: the scores of a block's rows; keys before the block must be rolled to its start.
    #[inline(always)]
    pub(super) fn block_scores<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, block: usize, queries: bool) {
        let (n, ld, keys, rows) = (self.tokens, self.ld(), self.keys, self.block_rows(block));
        for (write, half) in (0..self.writes).flat_map(|w| (0..1 + usize::from(queries)).map(move |half| (w, half))) {
            let first = half * n + rows.start;
            let inner = (&self.inner[first * keys..], keys, false);
            let rolled = (&self.rolled[write * n * keys..], keys, true);
            let to = &mut self.a[first * ld + write * n..];
            products.product((rows.len(), rows.start, keys), inner, rolled, to, ld, Start::Zero);
            for t in rows.clone() {
                let row = (half * n + t) * ld + write * n;
                self.a[row + t..row + n].fill(T::ZERO);
            }
        }
        // Not by a closure: the compiler made it a function without the instruction set.
        for write in 0..self.writes {
            self.pairs_inside(s, rows.clone(), write, queries);
        }
    }

    /// In blocks: the scores of a block's rows with key rows of the same block, the `write`-th of their tokens.
    #[inline(always)]
    fn pairs_inside<S: Simd<E = T>>(&mut self, s: S, rows: std::ops::Range<usize>, write: usize, queries: bool) {
        let (n, ld, keys, before) = (self.tokens, self.ld(), self.keys, self.reads_before());
        for column in rows.clone() {
            let key = &mut self.row[..keys];
            key.copy_from_slice(&self.k[(write * n + column) * keys..(write * n + column + 1) * keys]);
            for t in column..rows.end {
                let decay = &self.decay[t * keys..(t + 1) * keys];
                let (of_k, of_q) = (&self.y[t * keys..(t + 1) * keys], &self.y[(n + t) * keys..(n + t + 1) * keys]);
                let (mut by_k, mut by_q) = (s.zero(), s.zero());
                for i in (0..keys).step_by(S::LANES) {
                    let at = i..(i + S::LANES).min(keys);
                    let mut k = s.load_any(&key[at.clone()]);
                    let undecayed = k;
                    if t > column {
                        k = k * s.load_any(&decay[at.clone()]);
                        s.store_any(k, &mut key[at.clone()]);
                    }
                    by_k = s.fma(s.load_any(&of_k[at.clone()]), if before { undecayed } else { k }, by_k);
                    by_q = s.fma(s.load_any(&of_q[at]), k, by_q);
                }
                if t > column {
                    self.a[t * ld + write * n + column] = s.sum(by_k);
                }
                if queries {
                    self.a[(n + t) * ld + write * n + column] = s.sum(by_q);
                }
            }
        }
    }
}

/// Multiplies pairs by their decay: below the diagonal in the first n rows, up to it in the others; zeros beyond.
#[inline(always)]
pub(super) fn decay_pairs<T: Real>(a: &mut [T], pairs: &[T], n: usize, ld: usize, queries: bool) {
    for half in 0..1 + usize::from(queries) {
        for t in 0..n {
            let row = &mut a[(half * n + t) * ld..][..n];
            let (seen, future) = row.split_at_mut(t + half);
            seen.iter_mut().zip(&pairs[t * ld..]).for_each(|(a, d)| *a *= *d);
            future.fill(T::ZERO);
        }
    }
}

/// Zeros from the diagonal on in the first n rows, after it in the others (only if `queries`).
#[inline(always)]
pub(super) fn clear_future<T: Real>(a: &mut [T], n: usize, ld: usize, writes: usize, queries: bool) {
    for half in 0..1 + usize::from(queries) {
        for t in 0..n {
            for write in 0..writes {
                let row = (half * n + t) * ld + write * n;
                a[row + t + half..row + n].fill(T::ZERO);
            }
        }
    }
}
