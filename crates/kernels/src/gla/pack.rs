//! Strided rows of tokens to and from the packed operands of a sweep.

use crate::Real;
use crate::simd::Simd;

/// Where the tokens of one head lie: `tokens` rows of `width` elements, `stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<P> {
    pub at: P,
    pub stride: usize,
    pub tokens: usize,
    pub width: usize,
}

/// Copies rows into [pieces of `n` columns, tokens, n], zeros beyond the width.
///
/// # Safety
/// `from` describes readable rows and `to` has room for all pieces.
#[inline(always)]
pub(super) unsafe fn split<E: Real>(from: Rows<*const E>, n: usize, to: *mut E) {
    for piece in 0..from.width.div_ceil(n) {
        let width = n.min(from.width - piece * n);
        for t in 0..from.tokens {
            // SAFETY: the caller's sizes.
            unsafe {
                let source = from.at.add(t * from.stride + piece * n);
                let target = to.add((piece * from.tokens + t) * n);
                std::ptr::copy_nonoverlapping(source, target, width);
                if width < n {
                    std::slice::from_raw_parts_mut(target.add(width), n - width).fill(E::ZERO);
                }
            }
        }
    }
}

/// The way back from [`split`]; adds to what is there if `add`.
///
/// # Safety
/// `to` describes writable rows and `from` holds all their pieces.
#[inline(always)]
pub(super) unsafe fn join<E: Real>(from: *const E, n: usize, to: Rows<*mut E>, add: bool) {
    for piece in 0..to.width.div_ceil(n) {
        let width = n.min(to.width - piece * n);
        for t in 0..to.tokens {
            // SAFETY: the caller's sizes.
            unsafe {
                let source = from.add((piece * to.tokens + t) * n);
                let target = to.at.add(t * to.stride + piece * n);
                if add {
                    for i in 0..width {
                        *target.add(i) += *source.add(i);
                    }
                } else {
                    std::ptr::copy_nonoverlapping(source, target, width);
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
pub(super) unsafe fn exp<S: Simd>(s: S, x: *mut S::E, n: usize) {
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
    let tiles = from.columns.div_ceil(n);
    for tile in 0..tiles {
        for row in 0..padded {
            for i in 0..n {
                let column = tile * n + i;
                let inside = !from.at.is_null() && row < from.rows && column < from.columns;
                // SAFETY: the caller's sizes.
                unsafe {
                    *to.add((tile * padded + row) * n + i) = if inside {
                        *from.at.add(row * from.row_stride + column * from.column_stride)
                    } else {
                        E::ZERO
                    };
                }
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
    for row in 0..to.rows {
        for column in 0..to.columns {
            // SAFETY: the caller's sizes.
            unsafe {
                *to.at.add(row * to.row_stride + column * to.column_stride) =
                    *from.add((column / n * padded + row) * n + column % n);
            }
        }
    }
}

impl<E> Rows<*const E> {
    /// Some columns of each row.
    #[inline(always)]
    pub(super) fn columns(self, first: usize, width: usize) -> Self {
        Rows { at: self.at.wrapping_add(first), width, ..self }
    }
}

impl<E> Rows<*mut E> {
    /// Some columns of each row.
    #[inline(always)]
    pub(super) fn columns_mut(self, first: usize, width: usize) -> Self {
        Rows { at: self.at.wrapping_add(first), width, ..self }
    }
}
