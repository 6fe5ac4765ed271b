//! The one matrix product of attention: `C[r][·] (+)= Σ A[r][i] · B[i][·]`, lanes over columns.
//!
//! Each element of C is one chain of fused multiply-adds over i, ascending, whatever the number of
//! rows and columns: the row law.

use crate::simd::Simd;

/// The left factor: element (r, i) is at `at + r·row + i·step`.
#[derive(Clone, Copy)]
pub(super) struct Left<T> {
    pub at: *const T,
    pub row: usize,
    pub step: usize,
}

/// The right factor: row i is at `at + i·step`.
#[derive(Clone, Copy)]
pub(super) struct Right<T> {
    pub at: *const T,
    pub step: usize,
}

/// The product: row r is at `at + r·row`.
#[derive(Clone, Copy)]
pub(super) struct Out<T> {
    pub at: *mut T,
    pub row: usize,
}

/// `R` rows times `C` vectors of columns, in registers.
#[inline(always)]
unsafe fn registers<S: Simd, const R: usize, const C: usize>(
    s: S,
    length: usize,
    a: Left<S::E>,
    b: Right<S::E>,
    c: Out<S::E>,
    accumulate: bool,
) {
    let mut sums = [[s.zero(); C]; R];
    // SAFETY: the caller of `product` promises that all three are in bounds.
    unsafe {
        if accumulate {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = s.load_ptr(c.at.add(r * c.row + j * S::LANES));
                }
            }
        }
        for i in 0..length {
            let row = b.at.add(i * b.step);
            let mut right = [s.zero(); C];
            for (j, right) in right.iter_mut().enumerate() {
                *right = s.load_ptr(row.add(j * S::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = s.splat(*a.at.add(r * a.row + i * a.step));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = s.fma(left, right, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                s.store_ptr(sum, c.at.add(r * c.row + j * S::LANES));
            }
        }
    }
}

#[inline(always)]
unsafe fn columns<S: Simd, const C: usize>(
    s: S,
    rows: usize,
    length: usize,
    a: Left<S::E>,
    b: Right<S::E>,
    c: Out<S::E>,
    accumulate: bool,
) {
    let mut r = 0;
    while r < rows {
        // SAFETY: rows from r on are in bounds, and no more than are left are taken.
        unsafe {
            let a = Left { at: a.at.add(r * a.row), ..a };
            let c = Out { at: c.at.add(r * c.row), ..c };
            r += match rows - r {
                6.. => {
                    registers::<S, 6, C>(s, length, a, b, c, accumulate);
                    6
                }
                4.. => {
                    registers::<S, 4, C>(s, length, a, b, c, accumulate);
                    4
                }
                2.. => {
                    registers::<S, 2, C>(s, length, a, b, c, accumulate);
                    2
                }
                _ => {
                    registers::<S, 1, C>(s, length, a, b, c, accumulate);
                    1
                }
            };
        }
    }
}

/// `rows` × `cols` of C, which starts from 0 or, with `accumulate`, from what it holds.
///
/// # Safety
/// `cols` is a multiple of the lanes; all elements named by `rows`, `cols` and `length` are in bounds.
#[inline(always)]
pub(super) unsafe fn product<S: Simd>(
    s: S,
    (rows, cols): (usize, usize),
    length: usize,
    a: Left<S::E>,
    b: Right<S::E>,
    c: Out<S::E>,
    accumulate: bool,
) {
    let mut col = 0;
    while col < cols {
        // SAFETY: the caller's; no more columns than are left are taken.
        unsafe {
            let b = Right { at: b.at.add(col), ..b };
            let c = Out { at: c.at.add(col), ..c };
            col += match (cols - col) / S::LANES {
                4.. if S::LANES >= 16 => {
                    columns::<S, 4>(s, rows, length, a, b, c, accumulate);
                    4
                }
                2.. => {
                    columns::<S, 2>(s, rows, length, a, b, c, accumulate);
                    2
                }
                _ => {
                    columns::<S, 1>(s, rows, length, a, b, c, accumulate);
                    1
                }
            } * S::LANES;
        }
    }
}
