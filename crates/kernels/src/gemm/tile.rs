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
                            12.. if S::TILE_ROWS >= 12 => self.part::<S, O, 12>(s, a, b.as_ptr(), c, columns),
                            6.. if S::TILE_ROWS >= 6 => self.part::<S, O, 6>(s, a, b.as_ptr(), c, columns),
                            4.. => self.part::<S, O, 4>(s, a, b.as_ptr(), c, columns),
                            2.. => self.part::<S, O, 2>(s, a, b.as_ptr(), c, columns),
                            _ => self.part::<S, O, 1>(s, a, b.as_ptr(), c, columns),
                        };
                        rows -= done;
                        within += done;
                    }
                }
            }
        }
    }

    /// `ROWS` rows of C and `columns` columns, at most two vectors; the number of rows.
    ///
    /// # Safety
    /// As [`tile`], but only `columns` elements of each row of `c` can be read and written.
    #[inline(always)]
    unsafe fn part<S: Simd<E = T>, O: Operand<S>, const ROWS: usize>(
        &self,
        s: S,
        a: *const O::Packed,
        b: *const O::Packed,
        c: *mut T,
        columns: usize,
    ) -> usize {
        let width = 2 * S::LANES;
        // SAFETY: the caller's; a narrow tile is computed aside and its valid columns copied.
        unsafe {
            if columns == width {
                tile::<S, O, ROWS>(s, self.steps, a, b, c, self.ldc, self.start);
                return ROWS;
            }
            let mut aside = [T::ZERO; MAX_TILE];
            for row in 0..ROWS {
                std::ptr::copy_nonoverlapping(c.add(row * self.ldc), aside.as_mut_ptr().add(row * width), columns);
            }
            tile::<S, O, ROWS>(s, self.steps, a, b, aside.as_mut_ptr(), width, self.start);
            for row in 0..ROWS {
                std::ptr::copy_nonoverlapping(aside.as_ptr().add(row * width), c.add(row * self.ldc), columns);
            }
        }
        ROWS
    }
}

/// Elements of the largest tile of any instruction set.
const MAX_TILE: usize = 12 * 32;

/// `ROWS` rows of C and two vectors of columns.
///
/// # Safety
/// `a` has `steps` groups of `TILE_ROWS` operands of which `ROWS` are read, `b` as many of two
/// vectors, and two vectors of each row of `c` can be read and written.
#[inline(always)]
unsafe fn tile<S: Simd, O: Operand<S>, const ROWS: usize>(
    s: S,
    steps: usize,
    a: *const O::Packed,
    b: *const O::Packed,
    c: *mut S::E,
    ldc: usize,
    start: Start,
) {
    let lanes = S::LANES;
    // SAFETY: the caller's.
    unsafe {
        // Loops short enough to unroll: the array then lives in registers, and nowhere else.
        let load = |row: usize| (s.load_ptr(c.add(row * ldc)), s.load_ptr(c.add(row * ldc + lanes)));
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
        if start == Start::Add {
            for (row, acc) in acc.iter_mut().enumerate() {
                let before = load(row);
                *acc = (before.0 + acc.0, before.1 + acc.1);
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            s.store_ptr(acc.0, c.add(row * ldc));
            s.store_ptr(acc.1, c.add(row * ldc + lanes));
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
