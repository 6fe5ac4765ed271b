//! Bringing a tile of 64 keys close, as the right factors of products: keys transposed, values in rows.

use super::visible::TILE;
use crate::Real;
use crate::gemm::{self, Operand, from_columns, from_rows};
use crate::simd::Simd;
use std::ops::Range;

/// Where the keys and values of one sequence and KV head lie.
pub(super) trait Source<T: Real>: Copy + Send + Sync {
    /// Keys `keys` of the tile that begins at `tile` to columns of `out`, [steps of `width`, 64].
    ///
    /// Other columns are unspecified.
    fn keys<S: Simd<E = T>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        keys: Range<usize>,
        width: usize,
        out: &mut [O::Packed],
    );

    /// Values `keys` to rows of `out`, [steps of 64 keys, `padded`], zeros behind `width`; other rows are unspecified.
    fn values<S: Simd<E = T>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        keys: Range<usize>,
        width: usize,
        padded: usize,
        out: &mut [O::Packed],
    );

    /// Whether [`Source::direct_scores`] and [`Source::direct_values`] can serve a tile with this many rows of queries.
    fn direct(&self, _tile: usize, _rows: usize, _key_width: usize, _value_width: usize) -> bool {
        false
    }

    /// Products of `rows` queries (`width` apart) and all keys of a tile to rows of 64.
    ///
    /// # Safety
    /// [`Source::direct`] said yes; all keys of the tile exist.
    unsafe fn direct_scores(&self, _tile: usize, _rows: usize, _width: usize, _q: *const T, _scores: *mut T) {
        unreachable!("no direct way to these keys");
    }

    /// Adds the values of a tile, by rows of 64 weights, to rows of outputs of `width`.
    ///
    /// # Safety
    /// As for [`Source::direct_scores`].
    unsafe fn direct_values(&self, _tile: usize, _rows: usize, _width: usize, _weights: *const T, _output: *mut T) {
        unreachable!("no direct way to these values");
    }
}

/// Packed tokens: row j of the sequence's keys is at `k[j·k_row..]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    pub k: &'a [T],
    pub k_row: usize,
    pub v: &'a [T],
    pub v_row: usize,
}

impl<T: Real> Source<T> for Rows<'_, T> {
    #[inline(always)]
    fn keys<S: Simd<E = T>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        keys: Range<usize>,
        width: usize,
        out: &mut [O::Packed],
    ) {
        transposed::<S, O>(s, &self.k[tile * self.k_row..], self.k_row, keys.end - tile, width, out);
    }

    #[inline(always)]
    fn values<S: Simd<E = T>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        keys: Range<usize>,
        width: usize,
        padded: usize,
        out: &mut [O::Packed],
    ) {
        straight::<S, O>(s, &self.v[tile * self.v_row..], self.v_row, keys.end - tile, width, padded, out);
    }
}

/// `rows` ≤ 64 rows of `width` to columns of `out`, [steps of `width`, 64]; other columns are 0.
#[inline(always)]
pub(super) fn transposed<S: Simd, O: Operand<S>>(
    s: S,
    from: &[S::E],
    row: usize,
    rows: usize,
    width: usize,
    out: &mut [O::Packed],
) {
    let source = gemm::Source { data: from, ld: row, k_neighbours: true };
    from_columns::<S, O>(s, source, 0..rows, 0..width, TILE, out);
}

/// `rows` rows of `width` to rows of `out`, [steps of `rows`, `padded`], zeros behind `width`.
#[inline(always)]
pub(super) fn straight<S: Simd, O: Operand<S>>(
    s: S,
    from: &[S::E],
    row: usize,
    rows: usize,
    width: usize,
    padded: usize,
    out: &mut [O::Packed],
) {
    let source = gemm::Source { data: from, ld: row, k_neighbours: false };
    from_rows::<S, O>(s, source, 0..width, 0..rows, padded, 0, out);
}

/// One row of a left factor: neighbours are steps of the product; zeros behind `from`.
#[inline(always)]
pub(super) fn left_row<S: Simd, O: Operand<S>>(s: S, from: &[S::E], to: &mut [O::Packed]) {
    let piece = S::LANES * O::DEPTH;
    for (i, to) in to.chunks_mut(S::LANES).enumerate() {
        let from = &from[(i * piece).min(from.len())..];
        O::store(s, O::from_column(s, &from[..piece.min(from.len())]), to);
    }
}
