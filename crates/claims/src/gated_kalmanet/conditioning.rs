//! What bf16 does to the solve: under a fixed ridge, and with another iteration.

use memwall_kernels::ridge::naive::{chebyshev, conjugate_gradients};
use memwall_tasks::Philox;

use super::solving::rows;
use crate::evidence::{Curve, Line, Point};
use crate::largest::largest;

/// The ridge that does not follow H.
const FIXED: f32 = 1e-4;
/// The share of ‖H‖_F that does.
const SHARE: f32 = 0.02;
const NUM_ITER: usize = 30;

/// The nearest bf16, ties to even.
fn bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

fn unit(width: usize, rng: &mut Philox) -> Vec<f32> {
    rows(1, width, false, rng).iter().map(|&x| x as f32).collect()
}

fn frobenius(h: &[f32]) -> f32 {
    h.iter().map(|x| x * x).sum::<f32>().sqrt()
}

fn write(h: &mut [f32], k: &[f32]) {
    for (row, x) in h.chunks_exact_mut(k.len()).zip(k) {
        row.iter_mut().zip(k).for_each(|(h, k)| *h += x * k);
    }
}

/// ‖(H + λ I) x − b‖ / ‖b‖.
fn residual(h: &[f32], lambda: f32, x: &[f32], b: &[f32]) -> f64 {
    let (mut missing, mut whole) = (0.0, 0.0);
    for ((row, x_i), b) in h.chunks_exact(b.len()).zip(x).zip(b) {
        let of_h: f64 = row.iter().zip(x).map(|(h, x)| f64::from(*h) * f64::from(*x)).sum();
        missing += (of_h + f64::from(lambda) * f64::from(*x_i) - f64::from(*b)).powi(2);
        whole += f64::from(*b).powi(2);
    }
    (missing / whole).sqrt()
}

/// The worst residual over the tokens while one key is written again and again: under the fixed ridge, under the following.
pub(super) fn one_key(tokens: usize, seed: u64) -> [f64; 2] {
    let width = 32;
    let mut rng = Philox::new(seed, 2);
    let (k, q) = (unit(width, &mut rng), unit(width, &mut rng));
    let mut h = vec![0.0; width * width];
    let mut residuals = [Vec::new(), Vec::new()];
    for _ in 0..tokens {
        write(&mut h, &k);
        let norm = frobenius(&h);
        for (residuals, lambda) in residuals.iter_mut().zip([FIXED, SHARE * norm]) {
            let x = chebyshev(&h, norm, lambda, &q, NUM_ITER, bf16);
            residuals.push(residual(&h, lambda, &x, &q));
        }
    }
    residuals.map(largest)
}

/// Steps at which the iterations are compared.
pub(super) const STEPS: [usize; 4] = [5, 10, 20, NUM_ITER];

/// The geometric mean of residuals over draws of keys in 8 clusters, at each of [`STEPS`]: of conjugate gradients, of
/// Chebyshev's iteration.
pub(super) fn against_conjugate_gradients(draws: usize, seed: u64) -> [[f64; 2]; 4] {
    let (width, clusters) = (64, 8);
    let mut rng = Philox::new(seed, 3);
    let mut logs = [[0.0; 2]; 4];
    for _ in 0..draws {
        let centers: Vec<Vec<f32>> = (0..clusters).map(|_| unit(width, &mut rng)).collect();
        let mut h = vec![0.0; width * width];
        for i in 0..256 {
            let noise = unit(width, &mut rng);
            let k: Vec<f32> = centers[i % clusters].iter().zip(&noise).map(|(c, n)| c + 0.05 * n).collect();
            write(&mut h, &k);
        }
        let (norm, q) = (frobenius(&h), unit(width, &mut rng));
        let lambda = SHARE * norm;
        for (logs, num_iter) in logs.iter_mut().zip(STEPS) {
            let found =
                [conjugate_gradients(&h, lambda, &q, num_iter, bf16), chebyshev(&h, norm, lambda, &q, num_iter, bf16)];
            logs.iter_mut().zip(found).for_each(|(log, x)| *log += residual(&h, lambda, &x, &q).ln() / draws as f64);
        }
    }
    logs.map(|logs| logs.map(f64::exp))
}

/// Residuals over the steps; a seed each in `measured`.
pub(super) fn curve(measured: &[[[f64; 2]; 4]]) -> Curve {
    let line = |name: &str, which: usize| Line {
        name: name.to_owned(),
        points: (STEPS.iter().enumerate())
            .map(|(i, &steps)| Point {
                x: steps as f64,
                per_seed: measured.iter().map(|of_seed| of_seed[i][which]).collect(),
            })
            .collect(),
    };
    Curve {
        what: "residual of the solve in bf16, keys in 8 clusters".to_owned(),
        x_label: "steps".to_owned(),
        y_label: "relative residual".to_owned(),
        log_x: true,
        log_y: true,
        lines: vec![line("conjugate gradients", 0), line("Chebyshev", 1)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_following_ridge_converges_and_the_fixed_one_does_not() {
        let [fixed, following] = one_key(300, 9);
        assert!(following.is_finite() && following <= 0.1 * fixed, "{following:.1e}, fixed {fixed:.1e}");
    }
}
