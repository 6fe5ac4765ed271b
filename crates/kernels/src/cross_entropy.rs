//! Cross-entropy of rows of logits against target ids, and its gradient.
//!
//! nll_t = ln Σ_v e^{x_tv} − x_t,target; the loss is the mean over rows with a target. Sums over the
//! vocabulary run over vector lanes and then in one tree; the mean adds rows in order, in f64.

use crate::disjoint::Disjoint;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// The target of rows that do not count.
pub const IGNORE: i32 = -100;

/// Negative log-likelihood and log-sum-exp of each row of logits [N, V]; the mean over rows that count.
///
/// A row whose target is [`IGNORE`] has nll 0. Without any row that counts, the mean is 0.
///
/// # Panics
/// If a target is neither [`IGNORE`] nor in `0..V`, or the lengths do not fit.
pub fn cross_entropy<T: Real>(pool: &Pool, logits: &[T], targets: &[i32], nll: &mut [T], lse: &mut [T]) -> T {
    let n = targets.len();
    assert!(nll.len() == n && lse.len() == n, "cross_entropy: {n} rows");
    if n == 0 {
        return T::ZERO;
    }
    let v = logits.len() / n;
    assert!(
        logits.len() == n * v && targets.iter().all(|&t| t == IGNORE || (t >= 0 && (t as usize) < v)),
        "targets below {v}"
    );
    let (to_nll, to_lse) = (Disjoint::new(&mut *nll), Disjoint::new(&mut *lse));
    pool.run(n, |t, _| {
        let row = &logits[t * v..(t + 1) * v];
        let sum = T::dispatch(LogSumExp(row));
        // SAFETY: each task has a row of its own.
        let (nll, lse) = unsafe { (to_nll.part(t..t + 1), to_lse.part(t..t + 1)) };
        lse[0] = sum;
        nll[0] = if targets[t] == IGNORE { T::ZERO } else { sum - row[targets[t] as usize] };
    });
    let total: f64 = nll.iter().map(|x| x.f64()).sum();
    T::of(total / counted(targets).max(1.0))
}

/// Rows that count.
fn counted(targets: &[i32]) -> f64 {
    targets.iter().filter(|t| **t != IGNORE).count() as f64
}

/// Turns logits [N, V] into the gradient of the mean with respect to them, times `d_loss`.
///
/// # Panics
/// As [`cross_entropy`].
pub fn cross_entropy_backward<T: Real>(pool: &Pool, targets: &[i32], lse: &[T], d_loss: T, logits: &mut [T]) {
    let n = targets.len();
    assert!(lse.len() == n, "cross_entropy: {n} rows");
    if n == 0 {
        return;
    }
    let v = logits.len() / n;
    let scale = T::of(d_loss.f64() / counted(targets).max(1.0));
    let parts = Disjoint::new(logits);
    pool.run(n, |t, _| {
        // SAFETY: each task has a row of its own.
        let row = unsafe { parts.part(t * v..(t + 1) * v) };
        if targets[t] == IGNORE {
            row.fill(T::ZERO);
        } else {
            T::dispatch(Softmax { row: &mut *row, lse: lse[t], scale });
            row[targets[t] as usize] -= scale;
        }
    });
}

/// ln Σ e^x.
pub(crate) struct LogSumExp<'a, T>(pub(crate) &'a [T]);

impl<T: Real> Kernel<T> for LogSumExp<'_, T> {
    type Out = T;
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) -> T {
        let full = self.0.chunks_exact(S::LANES);
        let tail = full.remainder();
        let mut most = s.splat(T::NEG_INFINITY);
        for part in full.clone() {
            most = s.max(most, s.load(part));
        }
        let mut max = s.reduce_max(most);
        for &x in tail {
            max = if x > max { x } else { max };
        }
        // A row of −∞ has no finite maximum to subtract.
        let shift = if max.is_finite() { max } else { T::ZERO };
        let m = s.splat(shift);
        let mut sum = s.zero();
        for part in full {
            sum = sum + s.exp(s.load(part) - m);
        }
        let mut total = s.sum(sum);
        for &x in tail {
            total += (x - shift).exp();
        }
        shift + total.ln()
    }
}

/// x ← scale · e^(x − lse).
pub(crate) struct Softmax<'a, T> {
    pub(crate) row: &'a mut [T],
    pub(crate) lse: T,
    pub(crate) scale: T,
}

impl<T: Real> Kernel<T> for Softmax<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (lse, scale) = (s.splat(self.lse), s.splat(self.scale));
        for x in self.row.chunks_mut(S::LANES) {
            s.store_any(s.exp(s.load_any(x) - lse) * scale, x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_equals_differences_and_ignored_rows_do_not_count() {
        let (n, v) = (5, 37);
        let x: Vec<f64> = (0..n * v).map(|i| (i as f64 * 0.77).sin() * 4.0).collect();
        let targets = [3, IGNORE, 36, 0, 11];
        let pool = Pool::new(2);
        let loss = |x: &[f64]| cross_entropy(&pool, x, &targets, &mut vec![0.0; n], &mut vec![0.0; n]);
        let (mut nll, mut lse, mut d) = (vec![0.0; n], vec![0.0; n], x.clone());
        let mean = cross_entropy(&pool, &x, &targets, &mut nll, &mut lse);
        assert_eq!(nll[1], 0.0);
        assert!((mean - nll.iter().sum::<f64>() / 4.0).abs() < 1e-12);
        cross_entropy_backward(&pool, &targets, &lse, 0.7, &mut d);
        for i in 0..n * v {
            let at = |h: f64| {
                let mut x = x.clone();
                x[i] += h;
                loss(&x)
            };
            let want = 0.7 * (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((d[i] - want).abs() < 1e-8, "{i}: {} is not {want}", d[i]);
        }
    }

    #[test]
    fn large_logits_stay_finite_and_nan_is_not_swallowed() {
        let x = [1e4f32, -1e4, 1e4 - 1.0, 0.0];
        let (mut nll, mut lse) = ([0.0], [0.0]);
        let loss = cross_entropy(&Pool::new(1), &x, &[2], &mut nll, &mut lse);
        assert!((loss - 1.313_261_7).abs() < 1e-3, "{loss}");
        let x = [0.0f32, f32::NAN, 1.0, 2.0];
        assert!(cross_entropy(&Pool::new(1), &x, &[0], &mut nll, &mut lse).is_nan());
    }
}
