//! What the tests of all kernels check with: values, agreement, and gradients by finite differences.

use crate::Real;

/// Deterministic values in -1 .. 1.
pub(crate) fn values<T: Real>(n: usize, seed: u64) -> Vec<T> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            T::of((x >> 40) as f64 / (1u64 << 23) as f64 - 1.0)
        })
        .collect()
}

/// The same values in another type.
pub(crate) fn cast<T: Real, U: Real>(x: &[T]) -> Vec<U> {
    x.iter().map(|x| U::of(x.f64())).collect()
}

/// Fails unless `x` and `y` agree within `tolerance`, relative above 1 and absolute below.
pub(crate) fn close<T: Real, U: Real>(name: &str, x: &[T], y: &[U], tolerance: f64) {
    assert_eq!(x.len(), y.len(), "{name}");
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let (x, y) = (x.f64(), y.f64());
        assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "{name}, element {i}: {x}, not {y}");
    }
}

/// Fails unless `dx` is the gradient of Σ dy f(x) in x, by central differences in f64.
pub(crate) fn gradient(name: &str, x: &[f64], dy: &[f64], dx: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) {
    let loss = |x: &[f64]| -> f64 { f(x).iter().zip(dy).map(|(y, dy)| y * dy).sum() };
    assert_eq!(dx.len(), x.len(), "{name}");
    let mut x = x.to_vec();
    for i in 0..x.len() {
        let at = x[i];
        let h = 1e-5 * at.abs().max(1.0);
        x[i] = at + h;
        let above = loss(&x);
        x[i] = at - h;
        let below = loss(&x);
        x[i] = at;
        let expected = (above - below) / (2.0 * h);
        assert!(
            (dx[i] - expected).abs() <= 1e-7 * expected.abs().max(1.0),
            "{name}, element {i}: {}, by differences {expected}",
            dx[i]
        );
    }
}
