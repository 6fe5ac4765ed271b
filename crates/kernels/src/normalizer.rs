//! Division by a normalizer that stands beside what it divides: the last column of a row.
//!
//! A linear memory of values [v, 1] also keeps the sum of its keys, so that one recurrence reads
//! x = [Sᵀ q, z · q]: linear attention divides by z · q + ε, mLSTM by max(|n · q|, b) + ε.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows, rows_of};
use crate::{Pool, Real};

/// What to divide by, given the last column z of a row and a bound b ≥ 0, one a row, if there is one.
#[inline(always)]
fn divisor<T: Real>(z: T, bound: Option<T>, eps: T) -> T {
    match bound {
        None => z + eps,
        Some(b) => (if z.abs() >= b { z.abs() } else { b }) + eps,
    }
}

/// y [R, W] from x [R, W + 1]: all columns but the last, divided by the normalizer.
///
/// # Panics
/// If the lengths are not rows of these widths, as many of each; if there is not one bound a row.
pub fn normalize<T: Real>(pool: &Pool, width: usize, eps: f64, x: &[T], bound: Option<&[T]>, y: &mut [T]) {
    let (rows, eps) = (rows_of("y", y.len(), width), T::of(eps));
    expect_len("x", x.len(), rows * (width + 1));
    bound.inspect(|b| expect_len("bound", b.len(), rows));
    let y = Disjoint::new(y);
    for_rows(pool, rows, width, |rows| {
        // SAFETY: rows of tasks do not overlap.
        let y = unsafe { y.part(rows.start * width..rows.end * width) };
        for (row, y) in rows.zip(y.chunks_exact_mut(width)) {
            let (x, z) = x[row * (width + 1)..(row + 1) * (width + 1)].split_at(width);
            let d = divisor(z[0], bound.map(|b| b[row]), eps);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = *x / d);
        }
    });
}

/// dx [R, W + 1], and the bounds' gradients if there are bounds, from dy [R, W].
///
/// # Panics
/// As [`normalize`].
pub fn normalize_backward<T: Real>(
    pool: &Pool,
    width: usize,
    eps: f64,
    x: &[T],
    bound: Option<&[T]>,
    dy: &[T],
    dx: &mut [T],
    d_bound: &mut [T],
) {
    let (rows, eps) = (rows_of("dy", dy.len(), width), T::of(eps));
    expect_len("x", x.len(), rows * (width + 1));
    expect_len("dx", dx.len(), x.len());
    expect_len("d_bound", d_bound.len(), bound.map_or(0, <[T]>::len));
    bound.inspect(|b| expect_len("bound", b.len(), rows));
    let (dx, d_bound) = (Disjoint::new(dx), Disjoint::new(d_bound));
    for_rows(pool, rows, width, |rows| {
        for row in rows {
            let all = row * (width + 1)..(row + 1) * (width + 1);
            let (x, z) = x[all.clone()].split_at(width);
            let dy = &dy[row * width..(row + 1) * width];
            let b = bound.map(|b| b[row]);
            let d = divisor(z[0], b, eps);
            // SAFETY: rows of tasks do not overlap.
            let dx = unsafe { dx.part(all) };
            let mut sum = T::ZERO;
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = *dy / d;
                sum = (*dx / d).mul_add(*x, sum);
            }
            let by_z = b.is_none_or(|b| z[0].abs() >= b);
            let toward = if b.is_some() && z[0] < T::ZERO { sum } else { -sum };
            dx[width] = if by_z { toward } else { T::ZERO };
            if b.is_some() {
                // SAFETY: as above.
                let d_bound = unsafe { d_bound.part(row..row + 1) };
                d_bound[0] = if by_z { T::ZERO } else { -sum };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{gradient, values};

    const WIDTH: usize = 3;

    fn y(x: &[f64], bound: Option<&[f64]>) -> Vec<f64> {
        let mut y = vec![f64::NAN; x.len() / (WIDTH + 1) * WIDTH];
        normalize(&Pool::new(2), WIDTH, 1e-3, x, bound, &mut y);
        y
    }

    #[test]
    fn rows_are_divided_by_their_last_column_or_by_its_bound() {
        assert_eq!(y(&[1.0, 2.0, 3.0, 3.999], None), [0.25, 0.5, 0.75]);
        assert_eq!(y(&[1.0, 2.0, 3.0, -3.999], Some(&[1.0])), [0.25, 0.5, 0.75]);
        assert_eq!(y(&[1.0, 2.0, 3.0, 0.1], Some(&[3.999])), [0.25, 0.5, 0.75]);
    }

    #[test]
    fn gradients_equal_differences() {
        let mut x = values::<f64>(9 * (WIDTH + 1), 1);
        // Without a bound no row may be near a normalizer of 0.
        x.chunks_exact_mut(WIDTH + 1).for_each(|row| row[WIDTH] += 0.8 * row[WIDTH].signum());
        let (dy, bound) = (values::<f64>(9 * WIDTH, 2), [1.2; 9]);
        for bound in [None, Some(&bound[..])] {
            let (mut dx, mut d_bound) = (vec![f64::NAN; x.len()], vec![f64::NAN; bound.map_or(0, <[f64]>::len)]);
            normalize_backward(&Pool::new(2), WIDTH, 1e-3, &x, bound, &dy, &mut dx, &mut d_bound);
            gradient("x", &x, &dy, &dx, |x| y(x, bound));
            if let Some(b) = bound {
                assert!(d_bound.contains(&0.0) && d_bound.iter().any(|d| *d != 0.0), "both sides are tried");
                gradient("bound", b, &dy, &d_bound, |b| y(&x, Some(b)));
            }
        }
    }
}
