//! The inner kernel: a tile of C that stays in registers while k runs.
//!
//! Each element is one chain `acc = fma(a[k], b[k], acc)` over ascending k (bf16: two products a
//! step), so its bits do not depend on where in a tile it lies.

use super::pack::{Operand, Pairs, Plain};
use crate::Real;
use crate::simd::{Kernel, Simd};

/// Where a chain starts and what becomes of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// C = chain from 0.
    Zero,
    /// C = chain from C: the next slice along k.
    Continue,
    /// C = C + chain from 0.
    Add,
}

/// C [m, n] from packed strips of rows of A and of columns of B.
pub(super) struct Tiles<'a, T> {
    pub m: usize,
    pub n: usize,
    /// Packed steps along k.
    pub steps: usize,
    /// Strips of `TILE_ROWS` rows, `a_stride` operands from one to the next.
    pub a: &'a [u8],
    pub a_stride: usize,
    /// Strips of two vectors of columns, `b_stride` operands from one to the next.
    pub b: &'a [u8],
    pub b_stride: usize,
    pub bf16: bool,
    pub start: Start,
    /// Row i starts at `c + i * ldc`.
    pub c: *mut T,
    pub ldc: usize,
}

impl<T: Real> Kernel<T> for Tiles<'_, T> {
    type Out = ();
    /// The rows of C are valid for reading and writing `n` elements: whoever makes a `Tiles` sees to it.
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        if self.bf16 {
            self.tiles::<S, Pairs>(s);
        } else {
            self.tiles::<S, Plain>(s);
        }
    }
}

impl<T: Real> Tiles<'_, T> {
    #[inline(always)]
    fn tiles<S: Simd<E = T>, O: Operand<S>>(self, s: S) {
        let a: &[O::Packed] = bytemuck::cast_slice(self.a);
        let b: &[O::Packed] = bytemuck::cast_slice(self.b);
        let width = 2 * S::LANES;
        for (j, column) in (0..self.n).step_by(width).enumerate() {
            let b = &b[j * self.b_stride..][..self.steps * width];
            let columns = width.min(self.n - column);
            for (i, row) in (0..self.m).step_by(S::TILE_ROWS).enumerate() {
                let a = &a[i * self.a_stride..][..self.steps * S::TILE_ROWS];
                let mut rows = S::TILE_ROWS.min(self.m - row);
                let mut within = 0;
                while rows > 0 {
                    // SAFETY: the tile lies in C, whose rows are valid; the strips were sliced above.
                    unsafe {
                        let c = self.c.add((row + within) * self.ldc + column);
                        let a = a.as_ptr().add(within);
                        let done = match rows {
                            12.. if S::TILE_ROWS >= 12 => {
                                tile::<S, O, 12>(s, self.steps, a, b.as_ptr(), c, self.ldc, columns, self.start);
                                12
                            }
                            6.. if S::TILE_ROWS >= 6 => {
                                tile::<S, O, 6>(s, self.steps, a, b.as_ptr(), c, self.ldc, columns, self.start);
                                6
                            }
                            4.. => {
                                tile::<S, O, 4>(s, self.steps, a, b.as_ptr(), c, self.ldc, columns, self.start);
                                4
                            }
                            2.. => {
                                tile::<S, O, 2>(s, self.steps, a, b.as_ptr(), c, self.ldc, columns, self.start);
                                2
                            }
                            _ => {
                                tile::<S, O, 1>(s, self.steps, a, b.as_ptr(), c, self.ldc, columns, self.start);
                                1
                            }
                        };
                        rows -= done;
                        within += done;
                    }
                }
            }
        }
    }
}

/// `ROWS` rows of C and up to two vectors of columns.
///
/// # Safety
/// `a` has `steps` groups of `TILE_ROWS` operands of which `ROWS` are read, `b` as many of two
/// vectors, and `columns` elements of each row of `c` can be read and written.
#[inline(always)]
unsafe fn tile<S: Simd, O: Operand<S>, const ROWS: usize>(
    s: S,
    steps: usize,
    a: *const O::Packed,
    b: *const O::Packed,
    c: *mut S::E,
    ldc: usize,
    columns: usize,
    start: Start,
) {
    let lanes = S::LANES;
    let whole = columns == 2 * lanes;
    // SAFETY: the caller's; partial rows are reached through slices of the valid columns.
    unsafe {
        let load = |row: usize| -> (S::V, S::V) {
            let c = c.add(row * ldc);
            if whole {
                (s.load_ptr(c), s.load_ptr(c.add(lanes)))
            } else {
                let (low, high) = std::slice::from_raw_parts(c, columns).split_at(columns.min(lanes));
                (s.load_part(low), s.load_part(high))
            }
        };
        let mut acc = [(s.zero(), s.zero()); ROWS];
        if start == Start::Continue {
            for (row, acc) in acc.iter_mut().enumerate() {
                *acc = load(row);
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..steps {
            let (b0, b1) = (O::load(s, b), O::load(s, b.add(lanes)));
            let mut row = 0;
            while row < ROWS {
                let x = O::splat(s, *a.add(row));
                acc[row].0 = O::multiply_add(s, x, b0, acc[row].0);
                acc[row].1 = O::multiply_add(s, x, b1, acc[row].1);
                row += 1;
            }
            a = a.add(S::TILE_ROWS);
            b = b.add(2 * lanes);
        }
        for (row, &acc) in acc.iter().enumerate() {
            let mut acc = acc;
            if start == Start::Add {
                let before = load(row);
                acc = (before.0 + acc.0, before.1 + acc.1);
            }
            let c = c.add(row * ldc);
            if whole {
                s.store_ptr(acc.0, c);
                s.store_ptr(acc.1, c.add(lanes));
            } else {
                let (low, high) = std::slice::from_raw_parts_mut(c, columns).split_at_mut(columns.min(lanes));
                s.store_part(acc.0, low);
                s.store_part(acc.1, high);
            }
        }
    }
}

/// Rows and columns of a register tile of the instruction set in use.
pub(super) struct TileShape;

impl<T: Real> Kernel<T> for TileShape {
    type Out = (usize, usize);
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, _s: S) -> (usize, usize) {
        (S::TILE_ROWS, 2 * S::LANES)
    }
}
