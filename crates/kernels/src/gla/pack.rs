//! Strided rows of tokens to and from the packed operands of a sweep.

use crate::Real;
use crate::simd::Simd;

/// Where the tokens of one head lie: `tokens` rows of `width` elements, `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<P> {
    pub at: P,
    pub stride: usize,
    pub tokens: usize,
    pub width: usize,
}

/// Copies rows into [tiles of `lanes` columns, tokens, lanes], zeros beyond the width.
///
/// # Safety
/// `from` describes readable rows and `to` has room for all tiles; `lanes` is whole vectors.
#[inline(always)]
pub(super) unsafe fn split<S: Simd>(s: S, from: Rows<*const S::E>, lanes: usize, to: *mut S::E) {
    for t in 0..from.tokens {
        for tile in 0..from.width.div_ceil(lanes) {
            for lane in (0..lanes).step_by(S::LANES) {
                let column = tile * lanes + lane;
                let width = from.width.saturating_sub(column).min(S::LANES);
                // SAFETY: the caller's sizes.
                unsafe {
                    let row = std::slice::from_raw_parts(from.at.add(t * from.stride + column.min(from.width)), width);
                    s.store_ptr(s.load_any(row), to.add((tile * from.tokens + t) * lanes + lane));
                }
            }
        }
    }
}

/// The way back from [`split`]; adds to what is there if `add`.
///
/// # Safety
/// `to` describes writable rows and `from` holds all their tiles.
#[inline(always)]
pub(super) unsafe fn join<S: Simd>(s: S, from: *const S::E, lanes: usize, to: Rows<*mut S::E>, add: bool) {
    for t in 0..to.tokens {
        for tile in 0..to.width.div_ceil(lanes) {
            for lane in (0..lanes.min(to.width - tile * lanes)).step_by(S::LANES) {
                let column = tile * lanes + lane;
                let width = (to.width - column).min(S::LANES);
                // SAFETY: the caller's sizes.
                unsafe {
                    let target = std::slice::from_raw_parts_mut(to.at.add(t * to.stride + column), width);
                    let mut x = s.load_ptr(from.add((tile * to.tokens + t) * lanes + lane));
                    if add {
                        x = s.load_any(target) + x;
                    }
                    s.store_any(x, target);
                }
            }
        }
    }
}

/// Replaces each of `n` elements (rounded up to whole vectors) by its exponential.
///
/// # Safety
/// `x` has `n` rounded up to vectors.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(s: S, x: *mut S::E, n: usize) {
    for i in (0..n).step_by(S::LANES) {
        // SAFETY: the caller's.
        unsafe { s.store_ptr(s.exp(s.load_ptr(x.add(i))), x.add(i)) }
    }
}

/// Multiplies each of `n` elements (rounded up to whole vectors) by a factor.
///
/// # Safety
/// As [`exp`].
#[inline(always)]
pub(super) unsafe fn scale<S: Simd>(s: S, x: *mut S::E, n: usize, by: f64) {
    let by = s.splat(S::E::of(by));
    for i in (0..n).step_by(S::LANES) {
        // SAFETY: the caller's.
        unsafe { s.store_ptr(s.load_ptr(x.add(i)) * by, x.add(i)) }
    }
}

/// Fills [pieces of `n` columns, tokens, n] with one value a token, found `stride` elements apart.
///
/// # Safety
/// `from` has a value for each of the tokens, `to` room for the pieces.
#[inline(always)]
pub(super) unsafe fn spread<E: Real>(
    from: *const E,
    stride: usize,
    tokens: usize,
    pieces: usize,
    n: usize,
    to: *mut E,
) {
    for piece in 0..pieces {
        for t in 0..tokens {
            // SAFETY: the caller's sizes.
            unsafe {
                std::slice::from_raw_parts_mut(to.add((piece * tokens + t) * n), n).fill(*from.add(t * stride));
            }
        }
    }
}

/// A matrix in memory: element (row, column) is `row_stride * row + column_stride * column` from `at`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<P> {
    pub at: P,
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

/// Reads a state (zeros where there is none) into [tiles of `n` columns, padded rows, n].
///
/// # Safety
/// `from` is readable or null, `to` has room for the tiles.
#[inline(always)]
pub(super) unsafe fn read_state<E: Real>(from: Matrix<*const E>, padded: usize, n: usize, to: *mut E) {
    for tile in 0..from.columns.div_ceil(n) {
        for row in 0..padded {
            // SAFETY: the caller's sizes.
            unsafe {
                let to = std::slice::from_raw_parts_mut(to.add((tile * padded + row) * n), n);
                if from.at.is_null() || row >= from.rows {
                    to.fill(E::ZERO);
                    continue;
                }
                let (inside, beyond) = to.split_at_mut(n.min(from.columns - tile * n));
                let source = from.at.add(row * from.row_stride + tile * n * from.column_stride);
                if from.column_stride == 1 {
                    inside.copy_from_slice(std::slice::from_raw_parts(source, inside.len()));
                } else {
                    inside.iter_mut().enumerate().for_each(|(i, x)| *x = *source.add(i * from.column_stride));
                }
                beyond.fill(E::ZERO);
            }
        }
    }
}

/// The way back from [`read_state`].
///
/// # Safety
/// `to` is writable, `from` holds the tiles.
#[inline(always)]
pub(super) unsafe fn write_state<E: Real>(from: *const E, padded: usize, n: usize, to: Matrix<*mut E>) {
    for tile in 0..to.columns.div_ceil(n) {
        let width = n.min(to.columns - tile * n);
        for row in 0..to.rows {
            // SAFETY: the caller's sizes.
            unsafe {
                let source = std::slice::from_raw_parts(from.add((tile * padded + row) * n), width);
                let target = to.at.add(row * to.row_stride + tile * n * to.column_stride);
                if to.column_stride == 1 {
                    std::slice::from_raw_parts_mut(target, width).copy_from_slice(source);
                } else {
                    source.iter().enumerate().for_each(|(i, x)| *target.add(i * to.column_stride) = *x);
                }
            }
        }
    }
}

impl<E> Rows<*const E> {
    /// Some columns of each row.
    #[inline(always)]
    pub(crate) fn columns(self, first: usize, width: usize) -> Self {
        Rows { at: self.at.wrapping_add(first), width, ..self }
    }
}

impl<E> Rows<*mut E> {
    /// Some columns of each row.
    #[inline(always)]
    pub(crate) fn columns_mut(self, first: usize, width: usize) -> Self {
        Rows { at: self.at.wrapping_add(first), width, ..self }
    }

    /// As rows that are only read.
    #[inline(always)]
    pub(super) fn read(self) -> Rows<*const E> {
        Rows { at: self.at.cast_const(), stride: self.stride, tokens: self.tokens, width: self.width }
    }
}
