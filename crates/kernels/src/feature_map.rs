//! The second-order Taylor feature map of Based: φ(q) · φ(k) = 1 + s + s²/2 with s = q · k / √w.
//!
//! φ(x) = [1, x / w^{1/4}, vec(x xᵀ) / (√2 √w)], of 1 + w + w² features for a row of w.
//!
//! Source: "Simple linear attention language models balance the recall-throughput tradeoff" (Arora et
//! al. 2024), arXiv 2402.18668, section 3.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows, rows_of};
use crate::{Pool, Real};

/// Features of a row of `width`: 1 + w + w².
pub fn taylor_width(width: usize) -> usize {
    1 + width + width * width
}

fn factors<T: Real>(width: usize) -> (T, T) {
    let w = width as f64;
    (T::of(w.powf(-0.25)), T::of((2.0 * w).sqrt().recip()))
}

/// φ of each row of x [R, w], y [R, 1 + w + w²].
///
/// # Panics
/// If the lengths are not rows of these widths, as many of each.
pub fn taylor<T: Real>(pool: &Pool, width: usize, x: &[T], y: &mut [T]) {
    let (rows, wide) = (rows_of("x", x.len(), width), taylor_width(width));
    expect_len("y", y.len(), rows * wide);
    let (first, second) = factors::<T>(width);
    let y = Disjoint::new(y);
    for_rows(pool, rows, wide, |rows| {
        // SAFETY: rows of tasks do not overlap.
        let y = unsafe { y.part(rows.start * wide..rows.end * wide) };
        let x = x[rows.start * width..rows.end * width].chunks_exact(width);
        for (x, y) in x.zip(y.chunks_exact_mut(wide)) {
            y[0] = T::ONE;
            y[1..=width].iter_mut().zip(x).for_each(|(y, x)| *y = first * *x);
            for (y, a) in y[1 + width..].chunks_exact_mut(width).zip(x) {
                let a = second * *a;
                y.iter_mut().zip(x).for_each(|(y, b)| *y = a * *b);
            }
        }
    });
}

/// dx [R, w] from dy [R, 1 + w + w²].
///
/// # Panics
/// As [`taylor`].
pub fn taylor_backward<T: Real>(pool: &Pool, width: usize, x: &[T], dy: &[T], dx: &mut [T]) {
    let (rows, wide) = (rows_of("x", x.len(), width), taylor_width(width));
    expect_len("dy", dy.len(), rows * wide);
    expect_len("dx", dx.len(), x.len());
    let (first, second) = factors::<T>(width);
    let dx = Disjoint::new(dx);
    for_rows(pool, rows, wide, |rows| {
        // SAFETY: rows of tasks do not overlap.
        let dx = unsafe { dx.part(rows.start * width..rows.end * width) };
        let x = x[rows.start * width..rows.end * width].chunks_exact(width);
        let dy = dy[rows.start * wide..rows.end * wide].chunks_exact(wide);
        for ((x, dy), dx) in x.zip(dy).zip(dx.chunks_exact_mut(width)) {
            dx.iter_mut().zip(&dy[1..]).for_each(|(dx, dy)| *dx = first * *dy);
            for (a, dy) in dy[1 + width..].chunks_exact(width).enumerate() {
                let x_a = second * x[a];
                let mut sum = T::ZERO;
                for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
                    *dx = x_a.mul_add(*dy, *dx);
                    sum = dy.mul_add(*x, sum);
                }
                dx[a] = second.mul_add(sum, dx[a]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{gradient, values};

    const WIDTH: usize = 5;

    fn phi(x: &[f64]) -> Vec<f64> {
        let mut y = vec![f64::NAN; x.len() / WIDTH * taylor_width(WIDTH)];
        taylor(&Pool::new(2), WIDTH, x, &mut y);
        y
    }

    #[test]
    fn features_meet_as_the_exponential_to_second_order() {
        let (q, k) = (values::<f64>(WIDTH, 1), values::<f64>(WIDTH, 2));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let s = dot(&q, &k) / (WIDTH as f64).sqrt();
        let met = dot(&phi(&q), &phi(&k));
        assert!((met - (1.0 + s + s * s / 2.0)).abs() < 1e-14, "{met}");
        assert!((met - s.exp()).abs() < s.abs().powi(3), "{met} is not about {}", s.exp());
    }

    #[test]
    fn gradients_equal_differences() {
        let x = values::<f64>(7 * WIDTH, 3);
        let dy = values::<f64>(7 * taylor_width(WIDTH), 4);
        let mut dx = vec![f64::NAN; x.len()];
        taylor_backward(&Pool::new(2), WIDTH, &x, &dy, &mut dx);
        gradient("x", &x, &dy, &dx, phi);
    }
}
