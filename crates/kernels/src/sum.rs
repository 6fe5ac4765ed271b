//! Sums over rows and over the last axis, in a fixed order.

use crate::disjoint::Disjoint;
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
}
