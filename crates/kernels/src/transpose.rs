//! Copies that exchange axes.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Rows and columns of a block that is transposed inside the first-level cache.
const BLOCK: usize = 64;

/// y [batch, columns, rows] from x [batch, rows, columns].
///
/// # Panics
/// If a length does not fit.
pub fn transpose<T: Real>(pool: &Pool, batch: usize, rows: usize, columns: usize, x: &[T], y: &mut [T]) {
    expect_len("x", x.len(), batch * rows * columns);
    expect_len("y", y.len(), x.len());
    let y = Disjoint::new(y);
    let strips = columns.div_ceil(BLOCK);
    // A strip of columns of x is a run of rows of y.
    for_rows(pool, batch * strips, BLOCK * rows, |range| {
        for strip in range {
            let (matrix, first) = (strip / strips, strip % strips * BLOCK);
            let last = (first + BLOCK).min(columns);
            let x = &x[matrix * rows * columns..][..rows * columns];
            let start = matrix * rows * columns;
            // SAFETY: strips do not overlap.
            let y = unsafe { y.part(start + first * rows..start + last * rows) };
            T::dispatch(Strip { rows, columns, first, x, y });
        }
    });
}

struct Strip<'a, T> {
    rows: usize,
    columns: usize,
    first: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Strip<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        if self.rows == 0 {
            return;
        }
        let width = self.y.len() / self.rows;
        for row in (0..self.rows).step_by(S::LANES) {
            let rows = S::LANES.min(self.rows - row);
            for column in (0..width).step_by(S::LANES) {
                let columns = S::LANES.min(width - column);
                let mut v = [s.zero(); 16];
                for (i, v) in v.iter_mut().enumerate().take(rows) {
                    *v = s.load_any(&self.x[(row + i) * self.columns + self.first + column..][..columns]);
                }
                s.transpose(&mut v);
                for (j, &v) in v.iter().enumerate().take(columns) {
                    s.store_any(v, &mut self.y[(column + j) * self.rows + row..][..rows]);
                }
            }
        }
    }
}

/// y [batch, b, a, width] from x [batch, a, b, width]: heads before time, or back.
///
/// # Panics
/// If a length does not fit.
pub fn swap_axes<T: Real>(pool: &Pool, batch: usize, a: usize, b: usize, width: usize, x: &[T], y: &mut [T]) {
    expect_len("x", x.len(), batch * a * b * width);
    expect_len("y", y.len(), x.len());
    let y = Disjoint::new(y);
    for_rows(pool, batch * b, a * width, |range| {
        for i in range {
            let (matrix, column) = (i / b, i % b);
            // SAFETY: rows of tasks do not overlap.
            let y = unsafe { y.part(i * a * width..(i + 1) * a * width) };
            for (row, y) in y.chunks_exact_mut(width.max(1)).enumerate() {
                y.copy_from_slice(&x[((matrix * a + row) * b + column) * width..][..width]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::values;
    use proptest::prelude::*;

    fn check<T: Real>(batch: usize, rows: usize, columns: usize, width: usize, threads: usize) {
        let pool = Pool::new(threads);
        let x = values::<T>(batch * rows * columns, 1);
        let mut y = vec![T::ZERO; x.len()];
        transpose(&pool, batch, rows, columns, &x, &mut y);
        for (i, &x) in x.iter().enumerate() {
            let (matrix, row, column) = (i / (rows * columns), i / columns % rows, i % columns);
            assert_eq!(y[(matrix * columns + column) * rows + row], x);
        }
        let x = values::<T>(batch * rows * columns * width, 2);
        let (mut y, mut back) = (vec![T::ZERO; x.len()], vec![T::ZERO; x.len()]);
        swap_axes(&pool, batch, rows, columns, width, &x, &mut y);
        swap_axes(&pool, batch, columns, rows, width, &y, &mut back);
        assert_eq!(back, x);
        if batch > 0 && rows > 1 && columns > 1 {
            assert_eq!(y[width..2 * width], x[columns * width..][..width]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_element_moves_to_its_place(
            batch in 0usize..3, rows in 0usize..100, columns in 0usize..150, width in 1usize..4, threads in 1usize..4,
        ) {
            check::<f32>(batch, rows, columns, width, threads);
            check::<f64>(batch, rows, columns, width, threads);
        }
    }
}
