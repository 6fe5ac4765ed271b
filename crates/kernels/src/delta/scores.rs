//! A chunk's scores: what each query row reads of the keys before it, decayed.
//!
//! A′_ts = −Σ_c k_tc k_sc D_tsc for s < t, and the same of scale · q for s ≤ t. With one gate a head
//! a product of all pairs, times D. By channel in two levels: block rows against the keys before
//! their block by products whose factors are decayed to the block's start, and pairs inside a block
//! each with their own decay.

use super::chunk::Chunk;
use crate::Real;
use crate::gemm::Start;
use crate::gla::GateKind;
use crate::gla::products::Products;
use crate::simd::Simd;

impl<T: Real> Chunk<'_, T> {
    /// All scores (those of q only if `queries`); queries and keys are then decayed to the chunk's ends.
    #[inline(always)]
    pub(super) fn scores<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, queries: bool) {
        if self.gate != GateKind::Channel {
            return self.scores_by_pair(products, queries);
        }
        for block in 0..self.blocks() {
            self.block_scores(s, products, block, queries);
            self.roll(block);
        }
        self.reach_back();
    }

    /// Scores of one gate a head, or none.
    #[inline(always)]
    pub(super) fn scores_by_pair(&mut self, products: &mut Products, queries: bool) {
        let (n, ld, keys) = (self.tokens, self.capacity, self.keys);
        let rows = if queries { 2 * n } else { n };
        let k = (&*self.k, keys, true);
        products.product((rows, n, keys), (self.y, keys, false), k, self.a, ld, Start::Zero);
        decay_pairs(self.a, self.pairs, n, ld, queries);
    }

    /// By channel: the scores of a block's rows; keys before the block must be rolled to its start.
    #[inline(always)]
    pub(super) fn block_scores<S: Simd<E = T>>(&mut self, s: S, products: &mut Products, block: usize, queries: bool) {
        let (n, ld, keys, rows) = (self.tokens, self.capacity, self.keys, self.block_rows(block));
        for half in 0..1 + usize::from(queries) {
            let first = half * n + rows.start;
            let inner = (&self.inner[first * keys..], keys, false);
            let rolled = (&*self.rolled, keys, true);
            let to = &mut self.a[first * ld..];
            products.product((rows.len(), rows.start, keys), inner, rolled, to, ld, Start::Zero);
            for t in rows.clone() {
                self.a[(half * n + t) * ld + t..(half * n + t) * ld + n].fill(T::ZERO);
            }
        }
        for column in rows.clone() {
            let key = &mut self.row[..keys];
            key.copy_from_slice(&self.k[column * keys..(column + 1) * keys]);
            for t in column..rows.end {
                let decay = &self.decay[t * keys..(t + 1) * keys];
                let (of_k, of_q) = (&self.y[t * keys..(t + 1) * keys], &self.y[(n + t) * keys..(n + t + 1) * keys]);
                let (mut by_k, mut by_q) = (s.zero(), s.zero());
                for i in (0..keys).step_by(S::LANES) {
                    let at = i..(i + S::LANES).min(keys);
                    let mut k = s.load_any(&key[at.clone()]);
                    if t > column {
                        k = k * s.load_any(&decay[at.clone()]);
                        s.store_any(k, &mut key[at.clone()]);
                    }
                    by_k = s.fma(s.load_any(&of_k[at.clone()]), k, by_k);
                    by_q = s.fma(s.load_any(&of_q[at]), k, by_q);
                }
                if t > column {
                    self.a[t * ld + column] = s.sum(by_k);
                }
                if queries {
                    self.a[(n + t) * ld + column] = s.sum(by_q);
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
