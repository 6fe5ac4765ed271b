//! Softmax over rows, forward and backward: y = e^(x - max) / Σ e^(x - max), dx = y (dy - Σ dy y).

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows, rows_of};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Softmax of each row of `width` elements, in place; a row of -∞ only becomes 0.
///
/// # Panics
/// If `x` is not rows of `width`.
pub fn softmax_in_place<T: Real>(pool: &Pool, width: usize, x: &mut [T]) {
    let rows = rows_of("x", x.len(), width);
    let x = Disjoint::new(x);
    for_rows(pool, rows, width, |rows| {
        // SAFETY: rows of tasks do not overlap.
        let x = unsafe { x.part(rows.start * width..rows.end * width) };
        T::dispatch(Forward { width, x });
    });
}

/// dx from y, what [`softmax_in_place`] left, and dy.
///
/// # Panics
/// If the lengths differ or are not rows of `width`.
pub fn softmax_backward<T: Real>(pool: &Pool, width: usize, y: &[T], dy: &[T], dx: &mut [T]) {
    let rows = rows_of("y", y.len(), width);
    expect_len("dy", dy.len(), y.len());
    expect_len("dx", dx.len(), y.len());
    let dx = Disjoint::new(dx);
    for_rows(pool, rows, width, |rows| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: rows of tasks do not overlap.
        let dx = unsafe { dx.part(range.clone()) };
        T::dispatch(Backward { width, y: &y[range.clone()], dy: &dy[range], dx });
    });
}

/// The greatest element of a row and Σ e^(x - max); (-∞, 0) for a row of -∞ only or none.
#[inline(always)]
pub(crate) fn max_and_sum<S: Simd>(s: S, x: &[S::E]) -> (S::E, S::E) {
    let least = s.splat(S::E::NEG_INFINITY);
    let mut max = least;
    for x in x.chunks(S::LANES) {
        max = s.max(max, s.select(s.first(x.len()), s.load_any(x), least));
    }
    let max = s.reduce_max(max);
    if max == S::E::NEG_INFINITY {
        return (max, S::E::ZERO);
    }
    let (mut sum, m) = (s.zero(), s.splat(max));
    for x in x.chunks(S::LANES) {
        sum = sum + s.select(s.first(x.len()), s.exp(s.load_any(x) - m), s.zero());
    }
    (max, s.sum(sum))
}

struct Forward<'a, T> {
    width: usize,
    x: &'a mut [T],
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.width) {
            let (max, sum) = max_and_sum(s, row);
            if max == T::NEG_INFINITY {
                row.fill(T::ZERO);
                continue;
            }
            let (max, scale) = (s.splat(max), s.splat(T::ONE / sum));
            for x in row.chunks_mut(S::LANES) {
                s.store_any(s.exp(s.load_any(x) - max) * scale, x);
            }
        }
    }
}

struct Backward<'a, T> {
    width: usize,
    y: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let rows = self.y.chunks_exact(self.width).zip(self.dy.chunks_exact(self.width));
        for ((y, dy), dx) in rows.zip(self.dx.chunks_exact_mut(self.width)) {
            let mut dot = s.zero();
            for (y, dy) in y.chunks(S::LANES).zip(dy.chunks(S::LANES)) {
                dot = s.fma(s.load_any(y), s.load_any(dy), dot);
            }
            let dot = s.splat(s.sum(dot));
            for ((y, dy), dx) in y.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(dx.chunks_mut(S::LANES)) {
                s.store_any(s.load_any(y) * (s.load_any(dy) - dot), dx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{cast, close, gradient, values};
    use proptest::prelude::*;

    fn forward<T: Real>(threads: usize, width: usize, x: &[T]) -> Vec<T> {
        let mut y = x.to_vec();
        softmax_in_place(&Pool::new(threads), width, &mut y);
        y
    }

    fn backward<T: Real>(threads: usize, width: usize, y: &[T], dy: &[T]) -> Vec<T> {
        let mut dx = vec![T::ZERO; y.len()];
        softmax_backward(&Pool::new(threads), width, y, dy, &mut dx);
        dx
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for width in [1, 5, 19] {
            let (x, dy) = (values::<f64>(3 * width, 1), values::<f64>(3 * width, 2));
            let dx = backward(2, width, &forward(2, width, &x), &dy);
            gradient("dx", &x, &dy, &dx, |x| forward(1, width, x));
        }
    }

    #[test]
    fn extreme_rows_have_finite_results() {
        let inf = f32::NEG_INFINITY;
        let y = forward(1, 3, &[1e30, -1e30, 0.0, inf, inf, inf, inf, 2.0, inf]);
        assert_eq!(y, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn f32_agrees_with_f64_and_rows_alone_are_rows_of_the_whole(rows in 0usize..9, width in 1usize..300) {
            let x: Vec<f32> = values::<f32>(rows * width, 3).iter().map(|x| 20.0 * x).collect();
            let dy = values::<f32>(rows * width, 4);
            let y = forward(3, width, &x);
            let dx = backward(3, width, &y, &dy);
            let y64 = forward::<f64>(1, width, &cast(&x));
            close("y", &y, &y64, 1e-6);
            close("dx", &dx, &backward::<f64>(1, width, &y64, &cast(&dy)), 1e-5);
            for row in 0..rows {
                let range = row * width..(row + 1) * width;
                prop_assert_eq!(&forward(1, width, &x[range.clone()]), &y[range.clone()]);
                prop_assert_eq!(&backward(1, width, &y[range.clone()], &dy[range.clone()]), &dx[range]);
            }
        }
    }
}
