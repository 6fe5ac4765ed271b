//! Sums over rows and over the last axis, in a fixed order.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Columns that one task sums: a power of two that fills whole cache lines.
const COLUMNS: usize = 64;
/// Rows that one task sums along their last axis.
const ROWS: usize = 64;

/// `y[c] = Σ_r x[r, c]`, rows in ascending order; `x` has a whole number of rows of `y.len()`.
///
/// # Panics
/// If it has not.
pub fn sum_rows<T: Real>(pool: &Pool, x: &[T], y: &mut [T]) {
    let n = y.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "{} elements in rows of {n}", x.len());
    let parts = Disjoint::new(y);
    pool.run(n.div_ceil(COLUMNS), |task, _| {
        let columns = task * COLUMNS..((task + 1) * COLUMNS).min(n);
        let mut sum = [T::ZERO; COLUMNS];
        for row in x.chunks_exact(n) {
            sum.iter_mut().zip(&row[columns.clone()]).for_each(|(s, x)| *s += *x);
        }
        let len = columns.len();
        // SAFETY: each task has columns of its own.
        unsafe { parts.part(columns) }.copy_from_slice(&sum[..len]);
    });
}

/// `y[r] = Σ_c x[r, c]`, columns in ascending order; `x` has `y.len()` rows.
///
/// # Panics
/// If it has not.
pub fn sum_last<T: Real>(pool: &Pool, x: &[T], y: &mut [T]) {
    let rows = y.len();
    if rows == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(rows), "{} elements in {rows} rows", x.len());
    let width = x.len() / rows;
    let parts = Disjoint::new(y);
    pool.run(rows.div_ceil(ROWS), |task, _| {
        let range = task * ROWS..((task + 1) * ROWS).min(rows);
        // SAFETY: each task has rows of its own.
        let y = unsafe { parts.part(range.clone()) };
        for (y, r) in y.iter_mut().zip(range) {
            *y = x[r * width..(r + 1) * width].iter().fold(T::ZERO, |s, x| s + *x);
        }
    });
}

/// `y = scale · x`, or with `add` `y += scale · x`, rounded once.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled<T: Real>(pool: &Pool, scale: T, x: &[T], add: bool, y: &mut [T]) {
    let len = x.len();
    expect_len("y", y.len(), len);
    let y = Disjoint::new(y);
    for_rows(pool, len, 1, |range| {
        // SAFETY: ranges of tasks do not overlap.
        let y = unsafe { y.part(range.clone()) };
        T::dispatch(AddScaled { scale, x: &x[range], add, y });
    });
}

struct AddScaled<'a, T> {
    scale: T,
    x: &'a [T],
    add: bool,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for AddScaled<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let scale = s.splat(self.scale);
        for (x, y) in self.x.chunks(S::LANES).zip(self.y.chunks_mut(S::LANES)) {
            let x = s.load_any(x);
            let sum = if self.add { s.fma(scale, x, s.load_any(y)) } else { scale * x };
            s.store_any(sum, y);
        }
    }
}

/// Elements of a partial sum of [`sum_of_squares`].
const BLOCK: usize = 1 << 14;

/// Partial sums that [`sum_of_squares`] needs for `n` elements.
pub fn sum_of_squares_scratch(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// Σ x² in f64: sixteen sums over each block, their sum, then blocks in ascending order.
///
/// # Panics
/// If `partial` is shorter than [`sum_of_squares_scratch`] says.
pub fn sum_of_squares<T: Real>(pool: &Pool, x: &[T], partial: &mut [f64]) -> f64 {
    let blocks = sum_of_squares_scratch(x.len());
    let partial = &mut partial[..blocks];
    {
        let parts = Disjoint::new(partial);
        pool.run(blocks, |task, _| {
            let x = &x[task * BLOCK..((task + 1) * BLOCK).min(x.len())];
            // SAFETY: each task has a sum of its own.
            let sum = unsafe { parts.part(task..task + 1) };
            sum[0] = T::dispatch(Squares(x));
        });
    }
    partial.iter().sum()
}

struct Squares<'a, T>(&'a [T]);

impl<T: Real> Kernel<T> for Squares<'_, T> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, _s: S) -> f64 {
        let mut sums = [0.0; 16];
        for x in self.0.chunks(16) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += x.f64() * x.f64();
            }
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_a_plain_loop_for_any_number_of_threads() {
        let (rows, n) = (130, 150);
        let x: Vec<f32> = (0..rows * n).map(|i| ((i * 7919) % 1000) as f32 / 7.0).collect();
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            let (mut down, mut along) = (vec![0.0; n], vec![0.0; rows]);
            sum_rows(&pool, &x, &mut down);
            sum_last(&pool, &x, &mut along);
            for c in 0..n {
                assert_eq!(down[c], (0..rows).fold(0.0, |s, r| s + x[r * n + c]));
            }
            for r in 0..rows {
                assert_eq!(along[r], x[r * n..(r + 1) * n].iter().fold(0.0, |s, x| s + x));
            }
        }
    }

    #[test]
    fn scaled_rows_are_added_with_one_rounding() {
        for n in [0, 1, 17, 40_000] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 / 7.0).collect();
            for threads in [1, 3] {
                let mut y = vec![f32::NAN; n];
                let pool = Pool::new(threads);
                add_scaled(&pool, 0.3, &x, false, &mut y);
                add_scaled(&pool, 0.1, &x, true, &mut y);
                assert!(y.iter().zip(&x).all(|(&y, &x)| y == 0.1f32.mul_add(x, 0.3 * x)), "{n}");
            }
        }
    }

    #[test]
    fn squares_are_summed_in_f64_for_any_number_of_threads() {
        for n in [0, 1, 15, 16_384, 100_001] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 * 1e17).collect();
            let expected: f64 = x.iter().map(|&x| x as f64 * x as f64).sum();
            let mut partial = vec![0.0; sum_of_squares_scratch(n)];
            let sum = sum_of_squares(&Pool::new(1), &x, &mut partial);
            assert!((sum - expected).abs() <= 1e-12 * expected);
            assert_eq!(sum_of_squares(&Pool::new(3), &x, &mut partial), sum);
        }
    }
}
