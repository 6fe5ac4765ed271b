//! The forward pass of a block of query rows over one KV head.
//!
//! Per tile: `S = Q·Kᵀ` (a few rows at a time, so that S stays in registers and the first cache
//! level), then each row's running maximum m, sum l and unnormalized output are brought up to date:
//! `m' = max(m, max S)`, `P = e^(S − m')`, `l ← e^(m − m')·l + Σ P`, `O ← e^(m − m')·O + P·V`.
//! Per group: the state folds into the row's own: `w = e^(m − M')`, `L ← e^(M − M')·L + w·l`, and so for O.

use super::dropout::RowDropout;
use super::product::{Left, Out, Right, product};
use super::rounding::round_operands;
use super::scratch::{Scratch, bytes};
use super::tile::{Source, copy_rows};
use super::visible::{GROUP, TILE, Token, union};
use super::{Attention, BlockMask};
use crate::Real;
use crate::simd::Simd;
use std::ops::Range;

/// Rows that a block aims at; more only if one token has more query heads per KV head.
const ROWS: usize = 96;
/// Most tokens of a block.
pub(super) const TOKENS: usize = ROWS;
/// Rows whose scores are computed together.
const STRIP: usize = 6;
/// Widest vector of any instruction set, in elements.
const WIDEST: usize = 16;

/// Query tokens of a block for `group` query heads per KV head.
pub(super) fn tokens_per_block(group: usize) -> usize {
    (ROWS / group).max(1)
}

/// Rows that a [`State`] has room for: those of a block, or all heads of one token.
pub(super) fn most_rows(a: &Attention) -> usize {
    (tokens_per_block(a.group()) * a.group()).max(a.heads)
}

/// Value width rounded up to whole vectors.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(WIDEST)
}

/// A block: consecutive query tokens of one sequence, and the query heads of one KV head.
pub(super) struct Block<'a, T, K> {
    pub attention: &'a Attention,
    /// First query head of the group.
    pub head: usize,
    /// Row 0, head 0 of the block; rows follow at `heads · key_width`.
    pub q: *const T,
    pub tokens: &'a [Token],
    pub keys: K,
    /// One slope for each head.
    pub slopes: Option<&'a [T]>,
    pub mask: Option<&'a BlockMask>,
    /// Number of the sequence in the batch: part of the counter of dropout.
    pub sequence: usize,
    /// Which of the row states of a [`State`] this block uses; blocks that share one have as many rows.
    pub slot: usize,
}

/// The state of each row of a block, and the tiles that it works on, in scratch memory.
pub(super) struct State<'a, T> {
    q: &'a mut [T],
    keys: &'a mut [T],
    values: &'a mut [T],
    scores: &'a mut [T],
    /// Of the group: maximum, sum by lanes, output.
    top: &'a mut [T],
    lanes: &'a mut [T],
    output: &'a mut [T],
    /// Of the row: maximum, sum, output.
    row_top: &'a mut [T],
    row_sum: &'a mut [T],
    row_output: &'a mut [T],
}

impl<'a, T: Real> State<'a, T> {
    fn sizes(a: &Attention) -> [usize; 10] {
        let rows = most_rows(a);
        let (k, v) = (a.key_width, padded(a.value_width));
        [rows * k, k * TILE, TILE * v, STRIP * TILE, rows, rows * WIDEST, rows * v, rows, rows, rows * v]
    }

    pub(super) fn bytes(a: &Attention) -> usize {
        Self::sizes(a).map(bytes::<T>).iter().sum()
    }

    pub(super) fn cut(a: &Attention, scratch: &mut Scratch<'a>) -> State<'a, T> {
        let [q, keys, values, scores, top, lanes, output, row_top, row_sum, row_output] =
            Self::sizes(a).map(|n| scratch.take(n));
        State { q, keys, values, scores, top, lanes, output, row_top, row_sum, row_output }
    }
}

/// The state of one group of keys for one row: what threads hand over when they share a row's keys.
pub(super) struct Partial<'a, T> {
    pub top: &'a mut T,
    pub sum: &'a mut T,
    pub output: &'a mut [T],
}

impl<T: Real, K: Source<T>> Block<'_, T, K> {
    pub(super) fn rows(&self) -> usize {
        self.tokens.len() * self.attention.group()
    }

    /// The groups in which some row sees a key.
    pub(super) fn groups(&self) -> Range<usize> {
        let keys = union(self.tokens);
        keys.start / GROUP..keys.end.div_ceil(GROUP)
    }

    /// The tiles of a group in which some row may see a key.
    pub(super) fn tiles(&self, group: usize) -> impl Iterator<Item = usize> + use<T, K> {
        let keys = union(self.tokens);
        let first = (group * GROUP).max(keys.start / TILE * TILE);
        (first..((group + 1) * GROUP).min(keys.end)).step_by(TILE)
    }

    /// Where the state holds row `row`.
    #[inline(always)]
    fn at(&self, row: usize) -> usize {
        self.slot * self.rows() + row
    }

    /// Copies the queries together (row = token · group + head), and sets the rows' states to: no key seen.
    #[inline(always)]
    pub(super) fn begin(&self, st: &mut State<T>) {
        let (group, width, heads) = (self.attention.group(), self.attention.key_width, self.attention.heads);
        let to = st.q[self.at(0) * width..][..self.rows() * width].as_mut_ptr();
        // SAFETY: the block's tokens exist, and each has `group` heads from `q` on.
        unsafe { copy_rows(self.q, heads * width, self.tokens.len(), group * width, to, group * width) }
        round_operands(self.attention, &mut st.q[self.at(0) * width..][..self.rows() * width]);
        let (rows, width) = (self.at(0)..self.at(self.rows()), padded(self.attention.value_width));
        st.row_top[rows.clone()].fill(T::NEG_INFINITY);
        st.row_sum[rows.clone()].fill(T::ZERO);
        st.row_output[rows.start * width..rows.end * width].fill(T::ZERO);
    }

    /// Sets the state of the group to: no key seen.
    #[inline(always)]
    pub(super) fn begin_group<S: Simd<E = T>>(&self, _: S, st: &mut State<T>) {
        let (rows, width) = (self.at(0)..self.at(self.rows()), padded(self.attention.value_width));
        st.top[rows.clone()].fill(T::NEG_INFINITY);
        st.lanes[rows.start * S::LANES..rows.end * S::LANES].fill(T::ZERO);
        st.output[rows.start * width..rows.end * width].fill(T::ZERO);
    }

    /// Attends to the keys of one tile.
    #[inline(always)]
    pub(super) fn attend<S: Simd<E = T>>(&self, s: S, tile: usize, st: &mut State<T>) {
        let rows = self.rows();
        let tokens = self.tokens.len();
        let value_width = padded(self.attention.value_width);
        let whole = |token: &Token| token.lo <= tile && tile + TILE <= token.hi;
        let mut bits = [!0u64; TOKENS];
        if self.mask.is_some() || !self.tokens.iter().all(whole) {
            for (bits, token) in bits.iter_mut().zip(self.tokens) {
                *bits = token.bits(tile, self.mask);
            }
        }
        let any = bits[..tokens].iter().fold(0, |a, b| a | b);
        if any == 0 {
            return;
        }
        let present = tile + any.trailing_zeros() as usize..tile + TILE - any.leading_zeros() as usize;
        if present.len() < TILE {
            st.keys.fill(T::ZERO);
        }
        // SAFETY: visible keys exist; the scratch was cut for these widths.
        unsafe {
            self.keys.keys_transposed(tile, present.clone(), self.attention.key_width, st.keys.as_mut_ptr());
            let values = st.values.as_mut_ptr();
            self.keys.values(tile, present, self.attention.value_width, value_width, values);
        }
        round_operands(self.attention, st.keys);
        round_operands(self.attention, st.values);
        for row in (0..rows).step_by(STRIP) {
            self.strip(s, tile, row..(row + STRIP).min(rows), &bits, st);
        }
    }

    /// A few rows against the tile in scratch memory.
    #[inline(always)]
    fn strip<S: Simd<E = T>>(&self, s: S, tile: usize, rows: Range<usize>, bits: &[u64; TOKENS], st: &mut State<T>) {
        let a = self.attention;
        let (group, width, value_width) = (a.group(), a.key_width, padded(a.value_width));
        let bits_of = |row: usize| bits[row / group];
        let (all, any) = rows.clone().fold((!0, 0), |(all, any), row| (all & bits_of(row), any | bits_of(row)));
        if any == 0 {
            return;
        }
        // SAFETY: q holds all rows of `width`, keys `width` rows of 64, scores a strip of 64.
        unsafe {
            let q = Left { at: st.q.as_ptr().add(self.at(rows.start) * width), row: width, step: 1 };
            let k = Right { at: st.keys.as_ptr(), step: TILE };
            let scores = Out { at: st.scores.as_mut_ptr(), row: TILE };
            product(s, (rows.len(), TILE), width, q, k, scores, false);
        }
        for (i, row) in rows.clone().enumerate() {
            let bits = bits_of(row);
            if bits != 0 {
                self.soften(s, tile, row, bits, i, st);
            }
        }
        // Keys that only some rows see are added to those rows alone, so that nothing of a key (it may be NaN) reaches
        // a row that does not see it. `edges`: where the set of seeing rows changes.
        let mut edges = match all {
            u64::MAX => 0,
            _ => rows.clone().fold(0, |edges, row| edges | (bits_of(row) ^ (bits_of(row) << 1))) & !1,
        };
        let mut from = 0;
        while from < TILE {
            let to = if edges == 0 { TILE } else { edges.trailing_zeros() as usize };
            edges &= edges.wrapping_sub(1);
            let sees = |&row: &usize| bits_of(row) >> from & 1 == 1;
            let mut next = rows.start;
            while let Some(first) = (next..rows.end).find(sees) {
                next = (first..rows.end).find(|row| !sees(row)).unwrap_or(rows.end);
                // SAFETY: weights are in `scores`, the rows' outputs are whole vectors wide, and only keys of the tile
                // that these rows see are read.
                unsafe {
                    let weights = st.scores.as_ptr().add((first - rows.start) * TILE + from);
                    let p = Left { at: weights, row: TILE, step: 1 };
                    let v = Right { at: st.values.as_ptr().add(from * value_width), step: value_width };
                    let o = Out { at: st.output.as_mut_ptr().add(self.at(first) * value_width), row: value_width };
                    product(s, (next - first, value_width), to - from, p, v, o, true);
                }
            }
            from = to;
        }
    }

    /// Raw products of one row, in line `line` of the strip, to weights; brings maximum and sum up to date.
    #[inline(always)]
    fn soften<S: Simd<E = T>>(&self, s: S, tile: usize, row: usize, bits: u64, line: usize, st: &mut State<T>) {
        let a = self.attention;
        let scores = &mut st.scores[line * TILE..][..TILE];
        let (token, head) = (&self.tokens[row / a.group()], self.head + row % a.group());
        let slope = self.slopes.map(|slopes| slopes[head]);
        to_scores(s, a, slope, token.position - tile as i64, scores);
        if bits != !0 {
            hide(scores, bits);
        }

        let mut v = [s.zero(); TILE / 8];
        let vectors = TILE / S::LANES;
        for (i, v) in v.iter_mut().enumerate().take(vectors) {
            *v = s.load(&scores[i * S::LANES..]);
        }
        let mut greatest = v[0];
        for &v in &v[1..vectors] {
            greatest = s.max(v, greatest);
        }
        let greatest = s.reduce_max(greatest);
        let row = self.at(row);
        let lanes = &mut st.lanes[row * S::LANES..][..S::LANES];
        let mut sum = s.load(lanes);
        let mut top = st.top[row];
        if greatest > top {
            let shrink = s.exp(s.splat(top - greatest));
            top = greatest;
            st.top[row] = top;
            sum = sum * shrink;
            let width = padded(a.value_width);
            for o in st.output[row * width..][..width].chunks_exact_mut(S::LANES) {
                s.store(s.load(o) * shrink, o);
            }
        }
        // Only scores of −∞ so far: their weights are 0, not e^(−∞ + ∞).
        let top = if top == T::NEG_INFINITY { T::ZERO } else { top };
        let top = s.splat(top);
        for (i, v) in v.iter().enumerate().take(vectors) {
            let p = s.exp(*v - top);
            sum = sum + p;
            s.store(p, &mut scores[i * S::LANES..]);
        }
        s.store(sum, lanes);
        if a.dropout > 0.0 {
            let row = RowDropout::new(a.dropout, a.seed, self.sequence, head, token.query);
            drop_weights(row, T::of(1.0 / (1.0 - a.dropout)), tile, scores);
        }
        round_operands(a, scores);
    }

    /// Folds the state of the group into the rows'.
    #[inline(always)]
    pub(super) fn fold<S: Simd<E = T>>(&self, s: S, st: &mut State<T>) {
        let width = padded(self.attention.value_width);
        for row in self.at(0)..self.at(self.rows()) {
            let sum = s.sum(s.load(&st.lanes[row * S::LANES..]));
            let group = (st.top[row], sum, &st.output[row * width..][..width]);
            let output = &mut st.row_output[row * width..][..width];
            fold_row(s, group, Partial { top: &mut st.row_top[row], sum: &mut st.row_sum[row], output });
        }
    }

    /// Writes the state of the group to where `partial(row)` says, if anywhere.
    #[inline(always)]
    pub(super) fn hand_over<'p, S: Simd<E = T>>(
        &self,
        s: S,
        st: &State<T>,
        partial: impl Fn(usize) -> Option<Partial<'p, T>>,
    ) where
        T: 'p,
    {
        let width = padded(self.attention.value_width);
        for row in 0..self.rows() {
            let Some(to) = partial(row) else { continue };
            let row = self.at(row);
            *to.top = st.top[row];
            *to.sum = s.sum(s.load(&st.lanes[row * S::LANES..]));
            to.output.copy_from_slice(&st.output[row * width..][..width]);
        }
    }

    /// Writes O and L of every row; `out(token, head)` says where.
    #[inline(always)]
    pub(super) fn finish<'o, S: Simd<E = T>>(
        &self,
        s: S,
        st: &State<T>,
        out: impl Fn(usize, usize) -> (&'o mut [T], &'o mut T),
    ) where
        T: 'o,
    {
        let (group, width) = (self.attention.group(), padded(self.attention.value_width));
        for row in 0..self.rows() {
            let (o, lse) = out(row / group, self.head + row % group);
            let row = self.at(row);
            let state = (st.row_top[row], st.row_sum[row], &st.row_output[row * width..][..width]);
            finish_row(s, state, o, lse);
        }
    }
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
fn hide<T: Real>(scores: &mut [T], bits: u64) {
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
