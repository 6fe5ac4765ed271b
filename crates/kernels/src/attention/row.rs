//! One row of scores: to weights, and the states that rows leave behind and are folded into.

use super::Attention;
use super::dropout::RowDropout;
use crate::Real;
use crate::simd::Simd;

/// The state of one group of keys for one row: what threads hand over when they share a row's keys.
pub(super) struct Partial<'a, T> {
    pub top: &'a mut T,
    pub sum: &'a mut T,
    pub output: &'a mut [T],
}

/// Products to scores: scale, softcap, ALiBi. Key j of the tile is at distance `offset − j`.
#[inline(always)]
pub(super) fn to_scores<S: Simd>(s: S, a: &Attention, slope: Option<S::E>, offset: i64, scores: &mut [S::E]) {
    let scale = s.splat(S::E::of(a.scale));
    for x in scores.chunks_exact_mut(S::LANES) {
        s.store(s.load(x) * scale, x);
    }
    if let Some(cap) = a.softcap {
        let cap = s.splat(S::E::of(cap));
        for x in scores.chunks_exact_mut(S::LANES) {
            s.store(s.tanh(s.load(x) / cap) * cap, x);
        }
    }
    if let Some(slope) = slope {
        for (j, x) in scores.iter_mut().enumerate() {
            *x -= slope * S::E::of((offset - j as i64).unsigned_abs() as f64);
        }
    }
}

/// −∞ for keys whose bit is 0.
#[inline(always)]
pub(super) fn hide<T: Real>(scores: &mut [T], bits: u64) {
    for (j, x) in scores.iter_mut().enumerate() {
        if bits >> j & 1 == 0 {
            *x = T::NEG_INFINITY;
        }
    }
}

/// Weights that dropout keeps times `scale`, 0 for the others.
#[inline(always)]
pub(super) fn drop_weights<T: Real>(row: RowDropout, scale: T, tile: usize, weights: &mut [T]) {
    for (j, p) in weights.iter_mut().enumerate() {
        *p = if row.keeps(tile + j) { *p * scale } else { T::ZERO };
    }
}

/// Folds a group (maximum, sum, output) into a row's state.
#[inline(always)]
pub(super) fn fold_row<S: Simd>(s: S, (top, sum, output): (S::E, S::E, &[S::E]), row: Partial<S::E>) {
    let none = S::E::NEG_INFINITY;
    if top == none && sum == S::E::ZERO {
        return;
    }
    let new = if top > *row.top { top } else { *row.top };
    // If all scores are −∞ or NaN so far, there is no maximum to subtract.
    let base = if new == none { S::E::ZERO } else { new };
    let (old_weight, weight) = (s.exp(s.splat(*row.top - base)), s.exp(s.splat(top - base)));
    let one = &mut [S::E::ZERO];
    s.store_part(s.fma(s.splat(sum), weight, s.splat(*row.sum) * old_weight), one);
    *row.sum = one[0];
    *row.top = new;
    for (to, from) in row.output.chunks_exact_mut(S::LANES).zip(output.chunks_exact(S::LANES)) {
        s.store(s.fma(s.load(from), weight, s.load(to) * old_weight), to);
    }
}

/// `O = output / sum`, `L = top + ln sum`; 0 and −∞ for a row that sees nothing.
#[inline(always)]
pub(super) fn finish_row<S: Simd>(s: S, (top, sum, output): (S::E, S::E, &[S::E]), o: &mut [S::E], lse: &mut S::E) {
    if sum == S::E::ZERO {
        o.fill(S::E::ZERO);
        *lse = S::E::NEG_INFINITY;
        return;
    }
    *lse = top + sum.ln();
    for (o, from) in o.chunks_mut(S::LANES).zip(output.chunks_exact(S::LANES)) {
        s.store_any(s.load(from) / s.splat(sum), o);
    }
}
