//! The triangular factor that error compensation needs, from a symmetric positive definite matrix.
//!
//! GPTQ reads the rows of the upper U with H⁻¹ = UᵀU. With columns in reverse order, H = L Lᵀ; then L⁻¹, reversed back, is
//! U: one factorization, one triangular inverse, and H⁻¹ itself is never formed. Both go by panels, so that nearly all the
//! work is matrix products.

use memwall_kernels::Pool;
use memwall_kernels::gemm::{Compute, Gemm, gemm_scratch, gemm_strided};

use crate::QuantizeError;

/// Columns of a panel.
const PANEL: usize = 64;

/// U [n, n] with (H + λ I)⁻¹ = UᵀU for H [n, n] as `at(i, j)` gives it; zero below the diagonal.
///
/// # Errors
/// If the damped H is not positive definite.
pub fn inverse_factor(
    n: usize,
    damping: f64,
    at: impl Fn(usize, usize) -> f64,
    pool: &Pool,
) -> Result<Vec<f32>, QuantizeError> {
    let mut a = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            a[i * n + j] = at(n - 1 - i, n - 1 - j);
        }
        a[i * n + i] += damping;
    }
    factor(&mut a, n, pool)?;
    invert(&mut a, n, pool);
    let mut u = vec![0.0; n * n];
    for i in 0..n {
        for j in i..n {
            u[i * n + j] = a[(n - 1 - i) * n + n - 1 - j] as f32;
        }
    }
    Ok(u)
}

/// A, in its lower triangle, becomes L with A = L Lᵀ; zero above.
fn factor(a: &mut [f64], n: usize, pool: &Pool) -> Result<(), QuantizeError> {
    for from in (0..n).step_by(PANEL) {
        let to = (from + PANEL).min(n);
        for i in from..n {
            for j in from..to.min(i + 1) {
                let dot: f64 =
                    a[i * n + from..i * n + j].iter().zip(&a[j * n + from..j * n + j]).map(|(x, y)| x * y).sum();
                let rest = a[i * n + j] - dot;
                a[i * n + j] = if i > j {
                    rest / a[j * n + j]
                } else if rest > 0.0 && rest.is_finite() {
                    rest.sqrt()
                } else {
                    return Err(QuantizeError::NotPositive { width: n, column: n - 1 - i });
                };
            }
        }
        // What lies beyond the panel, below and to the right, loses the panel's part.
        let right: Vec<f64> = (to..n).flat_map(|i| a[i * n + from..i * n + to].to_vec()).collect();
        let left: Vec<f64> = right.iter().map(|x| -x).collect();
        let shape = (n - to, n - to, to - from);
        multiply(
            pool,
            shape,
            true,
            (&left, to - from),
            (&right, to - from),
            a.get_mut(to * n + to..).unwrap_or_default(),
            n,
        );
    }
    for i in 0..n {
        a[i * n + i + 1..(i + 1) * n].fill(0.0);
    }
    Ok(())
}

/// L becomes its inverse X: `X_ij = -(Σ_{j ≤ k < i} L_ik X_kj) / L_ii`, row by row.
fn invert(a: &mut [f64], n: usize, pool: &Pool) {
    for from in (0..n).step_by(PANEL) {
        let to = (from + PANEL).min(n);
        // The terms of the rows above the panel, which are inverted already.
        let mut sums = vec![0.0; (to - from) * from];
        multiply(pool, (to - from, from, from), false, (&a[from * n..], n), (a, n), &mut sums, from);
        for i in from..to {
            let (above, rest) = a.split_at_mut(i * n);
            let row = &mut rest[..=i];
            let mut sum = vec![0.0; i];
            sum[..from].copy_from_slice(&sums[(i - from) * from..][..from]);
            for k in from..i {
                let (l, x) = (row[k], &above[k * n..=k * n + k]);
                sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += l * x);
            }
            let scale = 1.0 / row[i];
            row.iter_mut().zip(&sum).for_each(|(x, sum)| *x = -sum * scale);
            row[i] = scale;
        }
    }
}

/// C [m, n] (+)= A [m, k] B, with B as [n, k] and added to C if `adds`, else [k, n]; each with the distance of its rows.
fn multiply(
    pool: &Pool,
    (m, n, k): (usize, usize, usize),
    adds: bool,
    (a, lda): (&[f64], usize),
    (b, ldb): (&[f64], usize),
    c: &mut [f64],
    ldc: usize,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let g = Gemm { m, n, k, a_trans: false, b_trans: adds, accumulate: adds, compute: Compute::F32 };
    let mut scratch = vec![0; gemm_scratch(&g, 8, pool.threads())];
    gemm_strided(pool, g, a, lda, b, ldb, c, ldc, &mut scratch);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positive(n: usize) -> Vec<f64> {
        let x: Vec<f64> = (0..2 * n * n).map(|i| ((i * 7919 + i * i % 31) % 1009) as f64 / 500.0 - 1.0).collect();
        let mut h = vec![0.0; n * n];
        for row in x.chunks(n) {
            for i in 0..n {
                for j in 0..n {
                    h[i * n + j] += row[i] * row[j];
                }
            }
        }
        h
    }

    #[test]
    fn the_factor_times_the_matrix_is_the_identity() {
        // One panel, its edge, and several.
        for n in [1, 5, 64, 65, 150] {
            let h = positive(n);
            let u = inverse_factor(n, 0.5, |i, j| h[i * n + j], &Pool::new(2)).unwrap();
            assert!((0..n).all(|i| (0..i).all(|j| u[i * n + j] == 0.0)), "{n}: not upper");
            // U (H + λI) Uᵀ = I, because H⁻¹ = UᵀU.
            let damped = |i: usize, j: usize| h[i * n + j] + if i == j { 0.5 } else { 0.0 };
            let uh: Vec<f64> =
                (0..n * n).map(|ij| (0..n).map(|k| f64::from(u[ij / n * n + k]) * damped(k, ij % n)).sum()).collect();
            for i in 0..n {
                for j in 0..n {
                    let got: f64 = (0..n).map(|k| uh[i * n + k] * f64::from(u[j * n + k])).sum();
                    let want = if i == j { 1.0 } else { 0.0 };
                    assert!((got - want).abs() < 2e-3, "{n}: [{i}, {j}] is {got}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_is_refused_by_column() {
        let h = [1.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0, 1.0];
        let refused = inverse_factor(3, 0.1, |i, j| h[3 * i + j], &Pool::new(1));
        assert!(matches!(refused, Err(QuantizeError::NotPositive { width: 3, column: 1 })));
    }
}
