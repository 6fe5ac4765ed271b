//! The one matrix product of attention: `C[r][·] (+)= Σ A[r][i] · B[i][·]`, lanes over columns.
//!
//! Each element of C is one chain over i, ascending, whatever the number of rows and columns: the
//! row law. A step of it is a fused multiply-add, or with operands in bf16 the sum of two products.

use crate::gemm::Operand;
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
unsafe fn registers<S: Simd, O: Operand<S>, const R: usize, const C: usize>(
    s: S,
    steps: usize,
    a: Left<O::Packed>,
    b: Right<O::Packed>,
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
        for i in 0..steps {
            let row = b.at.add(i * b.step);
            let mut right = [O::zero(s); C];
            for (j, right) in right.iter_mut().enumerate() {
                *right = O::load(s, row.add(j * S::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = O::splat(s, *a.at.add(r * a.row + i * a.step));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = O::multiply_add(s, left, right, *sum);
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
unsafe fn columns<S: Simd, O: Operand<S>, const C: usize>(
    s: S,
    rows: usize,
    steps: usize,
    a: Left<O::Packed>,
    b: Right<O::Packed>,
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
                12.. if C == 2 && S::TILE_ROWS >= 12 => {
                    registers::<S, O, 12, C>(s, steps, a, b, c, accumulate);
                    12
                }
                6.. => {
                    registers::<S, O, 6, C>(s, steps, a, b, c, accumulate);
                    6
                }
                4.. => {
                    registers::<S, O, 4, C>(s, steps, a, b, c, accumulate);
                    4
                }
                2.. => {
                    registers::<S, O, 2, C>(s, steps, a, b, c, accumulate);
                    2
                }
                _ => {
                    registers::<S, O, 1, C>(s, steps, a, b, c, accumulate);
                    1
                }
            };
        }
    }
}

/// `rows` × `cols` of C, which starts from 0 or, with `accumulate`, from what it holds.
///
/// # Safety
/// `cols` is a multiple of the lanes; all operands named by `rows`, `cols` and `steps` are in bounds.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, O: Operand<S>>(
    s: S,
    (rows, cols): (usize, usize),
    steps: usize,
    a: Left<O::Packed>,
    b: Right<O::Packed>,
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
                // With many rows, columns by two: less of the right factor is read again for every few rows.
                4.. if S::TILE_ROWS >= 12 && rows < 12 => {
                    columns::<S, O, 4>(s, rows, steps, a, b, c, accumulate);
                    4
                }
                2.. => {
                    columns::<S, O, 2>(s, rows, steps, a, b, c, accumulate);
                    2
                }
                _ => {
                    columns::<S, O, 1>(s, rows, steps, a, b, c, accumulate);
                    1
                }
            } * S::LANES;
        }
    }
}
