//! The forward pass of a block of query rows over one KV head.
//!
//! Per tile: `S = Q·Kᵀ` (a few rows at a time, so that S stays in registers and the first cache
//! level), then each row's running maximum m, sum l and unnormalized output are brought up to date:
//! `m' = max(m, max S)`, `P = e^(S − m')`, `l ← e^(m − m')·l + Σ P`, `O ← e^(m − m')·O + P·V`.
//! Per group: the state folds into the row's own: `w = e^(m − M')`, `L ← e^(M − M')·L + w·l`, and so for O.

use super::dropout::RowDropout;
use super::product::{Left, Out, Right, product};
use super::row::{Partial, drop_weights, finish_row, fold_row, hide, to_scores};
use super::state::{STRIP, State, padded};
use super::tile::{Source, left_row};
use super::visible::{GROUP, TILE, Token, below, union};
use super::{Attention, BlockMask};
use crate::Real;
use crate::gemm::Operand;
use crate::simd::Simd;
use bytemuck::{cast_slice, cast_slice_mut};
use std::ops::Range;

/// Rows that a block aims at; more only if one token has more query heads per KV head.
const ROWS: usize = 96;
/// Most tokens of a block.
pub(super) const TOKENS: usize = ROWS;

/// Query tokens of a block for `group` query heads per KV head.
pub(super) fn tokens_per_block(group: usize) -> usize {
    (ROWS / group).max(1)
}

/// A block: consecutive query tokens of one sequence, and the query heads of one KV head.
pub(super) struct Block<'a, T, K> {
    pub attention: &'a Attention,
    /// First query head of the group.
    pub head: usize,
    /// From row 0, head 0 of the block on; rows follow at `heads · key_width`.
    pub q: &'a [T],
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
    pub(super) fn begin<S: Simd<E = T>, O: Operand<S>>(&self, s: S, st: &mut State<T>) {
        let (group, width, heads) = (self.attention.group(), self.attention.key_width, self.attention.heads);
        let steps = width.div_ceil(O::DEPTH);
        let to = &mut cast_slice_mut::<T, O::Packed>(st.q)[self.at(0) * steps..];
        for (row, to) in to.chunks_exact_mut(steps).enumerate().take(self.rows()) {
            let from = (row / group * heads + row % group) * width;
            left_row::<S, O>(s, &self.q[from..from + width], to);
        }
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
    pub(super) fn attend<S: Simd<E = T>, O: Operand<S>>(&self, s: S, tile: usize, st: &mut State<T>) {
        let a = self.attention;
        let tokens = self.tokens.len();
        let whole = |token: &Token| token.lo <= tile && tile + TILE <= token.hi;
        let mut bits = [!0u64; TOKENS];
        if self.mask.is_some() || !self.tokens.iter().all(whole) {
            for (bits, token) in bits.iter_mut().zip(self.tokens) {
                *bits = token.bits(tile, self.mask);
            }
        }
        let (any, all) = bits[..tokens].iter().fold((0, !0), |(any, all), b| (any | b, all & b));
        if any == 0 {
            return;
        }
        if all == !0 && O::DEPTH == 1 && self.is_direct(tile) {
            return self.attend_directly(s, tile, st);
        }
        let present = tile + any.trailing_zeros() as usize..tile + TILE - any.leading_zeros() as usize;
        self.keys.keys::<S, O>(s, tile, present.clone(), a.key_width, cast_slice_mut(st.keys));
        let padded = padded(a.value_width);
        self.keys.values::<S, O>(s, tile, present, a.value_width, padded, cast_slice_mut(st.values));
        for row in (0..self.rows()).step_by(STRIP) {
            self.strip::<S, O>(s, tile, row..(row + STRIP).min(self.rows()), &bits, st);
        }
    }

    /// Whether a tile that all rows see whole is attended to without copying it.
    #[inline(always)]
    pub(super) fn is_direct(&self, tile: usize) -> bool {
        let a = self.attention;
        self.keys.direct(tile, self.rows(), a.key_width, a.value_width)
    }

    /// Few rows against a tile that all of them see whole, without copying it.
    #[inline(always)]
    fn attend_directly<S: Simd<E = T>>(&self, s: S, tile: usize, st: &mut State<T>) {
        let (rows, width, value_width) = (self.rows(), self.attention.key_width, self.attention.value_width);
        let (q, output) = (self.at(0) * width, self.at(0) * value_width);
        // SAFETY: `attend` asked whether this is possible; q, scores and outputs hold these rows, whose widths are whole
        // vectors.
        unsafe {
            self.keys.direct_scores(tile, rows, width, st.q[q..].as_ptr(), st.scores.as_mut_ptr());
            for row in 0..rows {
                self.soften(s, tile, row, !0, row, st);
            }
            let output = st.output[output..].as_mut_ptr();
            self.keys.direct_values(tile, rows, value_width, st.scores.as_ptr(), output);
        }
    }

    /// A few rows against the tile in scratch memory.
    #[inline(always)]
    fn strip<S: Simd<E = T>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        rows: Range<usize>,
        bits: &[u64; TOKENS],
        st: &mut State<T>,
    ) {
        let a = self.attention;
        let (group, value_width) = (a.group(), padded(a.value_width));
        let steps = a.key_width.div_ceil(O::DEPTH);
        let bits_of = |row: usize| bits[row / group];
        let (all, any) = rows.clone().fold((!0, 0), |(all, any), row| (all & bits_of(row), any | bits_of(row)));
        if any == 0 {
            return;
        }
        // SAFETY: q holds all rows of `steps`, keys `steps` rows of 64, scores a strip of 64.
        unsafe {
            let q =
                Left { at: st.q.as_ptr().cast::<O::Packed>().add(self.at(rows.start) * steps), row: steps, step: 1 };
            let k = Right { at: st.keys.as_ptr().cast(), step: TILE };
            let scores = Out { at: st.scores.as_mut_ptr(), row: TILE };
            product::<S, O>(s, (rows.len(), TILE), steps, q, k, scores, false);
        }
        for (i, row) in rows.clone().enumerate() {
            let bits = bits_of(row);
            if bits != 0 {
                self.soften(s, tile, row, bits, i, st);
            }
            if O::DEPTH > 1 {
                let weights = &mut cast_slice_mut::<T, O::Packed>(st.weights)[i * TILE / O::DEPTH..];
                left_row::<S, O>(s, &st.scores[i * TILE..][..TILE], &mut weights[..TILE / O::DEPTH]);
            }
        }
        let weights: *const O::Packed =
            if O::DEPTH > 1 { st.weights.as_ptr().cast() } else { st.scores.as_ptr().cast() };
        // Keys that only some rows see are added to those rows alone, so that nothing of a key (it may be NaN) reaches
        // a row that does not see it. `edges`: the steps at which what some row sees changes.
        let step_bits = below(O::DEPTH);
        let mut edges = match all {
            u64::MAX => 0,
            _ => rows.clone().fold(0, |edges, row| edges | changes::<S, O>(bits_of(row))),
        };
        let mut from = 0;
        while from < TILE {
            let to = if edges == 0 { TILE } else { edges.trailing_zeros() as usize };
            edges &= edges.wrapping_sub(1);
            let seen = |row: usize| bits_of(row) >> from & step_bits;
            let mut next = rows.start;
            while let Some(first) = (next..rows.end).find(|&row| seen(row) != 0) {
                next = (first..rows.end).find(|&row| seen(row) != seen(first)).unwrap_or(rows.end);
                let whole = seen(first) == step_bits;
                // Steps of which only a part is seen come one by one.
                let stride = if whole { (to - from) / O::DEPTH } else { 1 };
                for step in (from / O::DEPTH..to / O::DEPTH).step_by(stride) {
                    let mut values = cast_slice::<T, O::Packed>(st.values)[step * value_width..].as_ptr();
                    if !whole {
                        let half = &mut cast_slice_mut::<T, u32>(st.half)[..value_width];
                        half_of_pairs(seen(first), &cast_slice::<T, u32>(st.values)[step * value_width..], half);
                        values = half.as_ptr().cast();
                    }
                    // SAFETY: weights are a strip of rows, outputs of the rows are whole vectors wide, and only values of the
                    // tile that these rows see are read.
                    unsafe {
                        let row = TILE / O::DEPTH;
                        let p = Left { at: weights.add((first - rows.start) * row + step), row, step: 1 };
                        let v = Right { at: values, step: value_width };
                        let o = st.output.as_mut_ptr().add(self.at(first) * value_width);
                        let o = Out { at: o, row: value_width };
                        product::<S, O>(s, (next - first, value_width), stride, p, v, o, true);
                    }
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

/// The keys, first of a step, at which the bits of a step differ from those of the step before.
#[inline(always)]
fn changes<S: Simd, O: Operand<S>>(bits: u64) -> u64 {
    let differ = bits ^ (bits << O::DEPTH);
    let firsts = if O::DEPTH == 1 { !0 } else { 0x5555_5555_5555_5555 };
    (differ | if O::DEPTH == 1 { 0 } else { differ >> 1 }) & firsts & !1
}

/// Pairs of which one is replaced by 0: `seen` has one bit for each of both.
#[inline(always)]
fn half_of_pairs(seen: u64, pairs: &[u32], half: &mut [u32]) {
    let mask = if seen == 1 { 0x0000_ffff } else { 0xffff_0000 };
    half.iter_mut().zip(pairs).for_each(|(half, pair)| *half = pair & mask);
}
