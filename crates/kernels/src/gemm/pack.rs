//! Panels: a matrix [k, w] cut into strips of a fixed width, each strip laid out k by k, as the
//! tile kernel reads it. f32 and f64 keep their elements; bf16 holds pairs of neighbours in k.

use crate::Real;
use crate::simd::{Kernel, Simd, prefetch};
use std::ops::Range;

/// How operands lie in a panel, and the step of the product that reads them.
pub(crate) trait Operand<S: Simd>: Copy + Send + Sync + 'static {
    /// One broadcast operand: an element, or a pair of bf16 in 32 bits.
    type Packed: bytemuck::Pod + Send + Sync;
    /// A vector of them.
    type Vector: Copy;
    /// Elements of k in one packed operand.
    const DEPTH: usize;
    fn splat(s: S, x: Self::Packed) -> Self::Vector;
    /// # Safety
    /// A vector's length of operands can be read at `x`.
    unsafe fn load(s: S, x: *const Self::Packed) -> Self::Vector;
    fn multiply_add(s: S, a: Self::Vector, b: Self::Vector, c: S::V) -> S::V;
    fn zero(s: S) -> Self::Vector;
    /// Operands of one step from rows k and k + 1 (which is empty beyond the end) of a matrix [k, w].
    fn from_rows(s: S, row: &[S::E], next: &[S::E]) -> Self::Vector;
    /// A vector's length of steps from the elements along k of one column.
    fn from_column(s: S, column: &[S::E]) -> Self::Vector;
    fn store(s: S, v: Self::Vector, x: &mut [Self::Packed]);
    fn transpose(s: S, v: &mut [Self::Vector; 16]);
}

/// Elements as they are.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl<S: Simd> Operand<S> for Plain {
    type Packed = S::E;
    type Vector = S::V;
    const DEPTH: usize = 1;
    #[inline(always)]
    fn splat(s: S, x: S::E) -> S::V {
        s.splat(x)
    }
    #[inline(always)]
    unsafe fn load(s: S, x: *const S::E) -> S::V {
        // SAFETY: the caller's.
        unsafe { s.load_ptr(x) }
    }
    #[inline(always)]
    fn multiply_add(s: S, a: S::V, b: S::V, c: S::V) -> S::V {
        s.fma(a, b, c)
    }
    #[inline(always)]
    fn zero(s: S) -> S::V {
        s.zero()
    }
    #[inline(always)]
    fn from_rows(s: S, row: &[S::E], _next: &[S::E]) -> S::V {
        s.load_any(row)
    }
    #[inline(always)]
    fn from_column(s: S, column: &[S::E]) -> S::V {
        s.load_any(column)
    }
    #[inline(always)]
    fn store(s: S, v: S::V, x: &mut [S::E]) {
        s.store_any(v, x);
    }
    #[inline(always)]
    fn transpose(s: S, v: &mut [S::V; 16]) {
        s.transpose(v);
    }
}

/// Elements rounded to bf16, two neighbours in k together.
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

impl<S: Simd> Operand<S> for Pairs {
    type Packed = u32;
    type Vector = S::P;
    const DEPTH: usize = 2;
    #[inline(always)]
    fn splat(s: S, x: u32) -> S::P {
        s.splat_pair(x)
    }
    #[inline(always)]
    unsafe fn load(s: S, x: *const u32) -> S::P {
        // SAFETY: the caller's.
        unsafe { s.load_pairs(x) }
    }
    #[inline(always)]
    fn multiply_add(s: S, a: S::P, b: S::P, c: S::V) -> S::V {
        s.dot_pairs(a, b, c)
    }
    #[inline(always)]
    fn zero(s: S) -> S::P {
        s.zero_pairs()
    }
    #[inline(always)]
    fn from_rows(s: S, row: &[S::E], next: &[S::E]) -> S::P {
        s.round_pairs(s.load_any(row), s.load_any(next))
    }
    #[inline(always)]
    fn from_column(s: S, column: &[S::E]) -> S::P {
        let (first, second) = column.split_at(column.len().min(S::LANES));
        s.round_neighbours(s.load_any(first), s.load_any(second))
    }
    #[inline(always)]
    fn store(s: S, v: S::P, x: &mut [u32]) {
        let n = x.len().min(S::LANES);
        s.store_pairs(v, &mut x[..n]);
    }
    #[inline(always)]
    fn transpose(s: S, v: &mut [S::P; 16]) {
        s.transpose_pairs(v);
    }
}

/// A matrix [k, w] in memory: element (k, w) at `k * ld + w`, or at `w * ld + k` if `k_neighbours`.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a, T> {
    pub data: &'a [T],
    pub ld: usize,
    pub k_neighbours: bool,
}

/// Writes the strips of `width` columns that cover `columns`, for the elements `k` along the reduction.
///
/// Strip i starts at `i * stride` operands of `out`; columns and elements beyond the ranges are 0.
pub(super) struct Pack<'a, T: Real, U> {
    pub source: Source<'a, T>,
    pub columns: Range<usize>,
    pub k: Range<usize>,
    pub width: usize,
    pub stride: usize,
    pub bf16: bool,
    pub out: &'a mut [U],
}

impl<T: Real> Kernel<T> for Pack<'_, T, u8> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        if self.bf16 {
            self.strips::<S, Pairs>(s);
        } else {
            self.strips::<S, Plain>(s);
        }
    }
}

impl<T: Real> Pack<'_, T, u8> {
    #[inline(always)]
    fn strips<S: Simd<E = T>, O: Operand<S>>(self, s: S) {
        let out: &mut [O::Packed] = bytemuck::cast_slice_mut(self.out);
        if self.source.k_neighbours {
            let steps = self.k.len().div_ceil(O::DEPTH);
            for (i, start) in self.columns.clone().step_by(self.width).enumerate() {
                let columns = start..(start + self.width).min(self.columns.end);
                let strip = &mut out[i * self.stride..][..steps * self.width];
                from_columns::<S, O>(s, self.source, columns, self.k.clone(), self.width, strip);
            }
        } else {
            from_rows::<S, O>(s, self.source, self.columns, self.k, self.width, self.stride, out);
        }
    }
}

/// Rows fetched ahead: the pieces are too short for the processor to see a pattern.
const AHEAD: usize = 24;

/// Strips from a matrix whose rows are steps of k.
///
/// Row by row, all strips at once: what a row brings into the cache is used before the next row,
/// which may lie in another page. Vectors are stored whole where what they spill over is written later.
#[inline(always)]
pub(crate) fn from_rows<S: Simd, O: Operand<S>>(
    s: S,
    source: Source<S::E>,
    columns: Range<usize>,
    k: Range<usize>,
    width: usize,
    stride: usize,
    out: &mut [O::Packed],
) {
    let row = |k: usize| &source.data[k * source.ld + columns.start..][..columns.len()];
    let steps = k.len().div_ceil(O::DEPTH);
    for (step, k_now) in k.clone().step_by(O::DEPTH).enumerate() {
        for part in 0..O::DEPTH {
            for at in (0..columns.len()).step_by(64 / size_of::<S::E>()) {
                prefetch(source.data, (k_now + AHEAD + part) * source.ld + columns.start + at);
            }
        }
        let this = row(k_now);
        let next = if O::DEPTH == 2 && k_now + 1 < k.end { row(k_now + 1) } else { &[] };
        let spill = if step + 1 < steps { width } else { 0 };
        for (strip, start) in (0..columns.len()).step_by(width).enumerate() {
            let (whole, rest) = (columns.len() - start, &mut out[strip * stride + step * width..]);
            let mut at = 0;
            while at < width {
                // A strip narrower than a vector takes in its neighbour's columns, and spills them.
                let end = if whole >= at + S::LANES { start + at + S::LANES } else { columns.len().min(start + width) };
                let from = (start + at).min(end);
                let room = S::LANES.min(width + spill - at);
                let v = O::from_rows(s, &this[from..end], if next.is_empty() { next } else { &next[from..end] });
                O::store(s, v, &mut rest[at..at + room]);
                at += S::LANES;
            }
        }
    }
}

/// One strip from a matrix whose neighbours are steps of k, in blocks of a vector's length of columns and of steps,
/// transposed in registers.
#[inline(always)]
pub(crate) fn from_columns<S: Simd, O: Operand<S>>(
    s: S,
    source: Source<S::E>,
    columns: Range<usize>,
    k: Range<usize>,
    width: usize,
    strip: &mut [O::Packed],
) {
    let block = S::LANES * O::DEPTH;
    let mut at = 0;
    while at < width {
        let lanes = (width - at).min(S::LANES);
        let mut start = k.start;
        let mut out_at = at;
        while start < k.end {
            let elements = (k.end - start).min(block);
            let mut v = [O::zero(s); 16];
            // Without early exit, so that the block stays in registers.
            for (i, v) in v.iter_mut().enumerate().take(S::LANES) {
                let column = columns.start + at + i;
                if column < columns.end && i < lanes {
                    for part in 0..O::DEPTH {
                        prefetch(source.data, (column + S::LANES) * source.ld + start + part * S::LANES);
                    }
                    *v = O::from_column(s, &source.data[column * source.ld + start..][..elements]);
                }
            }
            O::transpose(s, &mut v);
            for v in v.iter().take(S::LANES.min(elements.div_ceil(O::DEPTH))) {
                // Beyond a narrow strip's columns lie zeros, in the place of the next step, which comes later.
                let room = if lanes == width { S::LANES.min(strip.len() - out_at) } else { lanes };
                O::store(s, *v, &mut strip[out_at..out_at + room]);
                out_at += width;
            }
            start += block;
        }
        at += S::LANES;
    }
}
