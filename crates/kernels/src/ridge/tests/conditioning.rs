//! Why the ridge follows the norm of H, and why the iteration has no inner products: in emulated bf16.

use crate::gla::tests::Random;
use crate::ridge::naive::{chebyshev, cholesky, conjugate_gradients};

/// The nearest bf16, ties to even.
fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
}

fn unit(r: &mut Random, width: usize) -> Vec<f32> {
    let x: Vec<f64> = r.tensor(width);
    let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    x.iter().map(|x| (x / length) as f32).collect()
}

/// ‖(H + λ I) x − b‖ / ‖b‖ in f64.
fn residual(h: &[f32], lambda: f32, x: &[f32], b: &[f32]) -> f64 {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(h, x)| f64::from(*h) * f64::from(*x)).sum::<f64>();
    let of = |i: usize| dot(&h[i * b.len()..(i + 1) * b.len()]) + f64::from(lambda) * f64::from(x[i]);
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut (0..b.len()).map(|i| of(i) - f64::from(b[i]))) / norm(&mut b.iter().map(|x| f64::from(*x)))
}

fn frobenius(h: &[f32]) -> f32 {
    h.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn with_one_key_repeated_the_adaptive_ridge_converges_in_bf16_and_a_fixed_one_does_not() {
    let width = 32;
    let mut r = Random(3);
    let (k, q) = (unit(&mut r, width), unit(&mut r, width));
    let mut h = vec![0.0f32; width * width];
    let mut worst = [0.0f64; 2];
    for t in 1..=4096 {
        h.iter_mut().enumerate().for_each(|(i, h)| *h += k[i / width] * k[i % width]);
        let f = frobenius(&h);
        for (worst, lambda) in worst.iter_mut().zip([0.02 * f, 1e-4]) {
            let x = chebyshev(&h, f, lambda, &q, 30, bf16);
            assert!(x.iter().all(|x| x.is_finite()), "token {t}, ridge {lambda}");
            *worst = worst.max(residual(&h, lambda, &x, &q));
        }
    }
    eprintln!("worst residual over 4096 tokens: adaptive ridge {:.1e}, fixed {:.1e}", worst[0], worst[1]);
    // A solution 1/a times as large as its right side, each element rounded to 8 bits.
    assert!(worst[0] < 50.0 / 256.0 && worst[1] >= 10.0 * worst[0]);
}

#[test]
fn in_bf16_conjugate_gradients_are_measured_beside_chebyshev_on_clustered_spectra() {
    let (width, draws) = (64, 20);
    for (name, keys, spread) in [("8 clusters", 8, 0.05), ("64 keys", 64, 0.0), ("one cluster", 1, 0.05)] {
        let mut lines = vec![];
        for num_iter in [5, 10, 20, 30] {
            let (mut sums, mut better) = ([0.0f64; 2], 0);
            for draw in 0..draws {
                let mut r = Random(100 + draw);
                let centers: Vec<Vec<f32>> = (0..keys).map(|_| unit(&mut r, width)).collect();
                let q = unit(&mut r, width);
                let mut h = vec![0.0f32; width * width];
                for i in 0..256 {
                    let noise = unit(&mut r, width);
                    let k: Vec<f32> = centers[i % keys].iter().zip(&noise).map(|(c, n)| c + spread * n).collect();
                    h.iter_mut().enumerate().for_each(|(i, h)| *h += k[i / width] * k[i % width]);
                }
                let f = frobenius(&h);
                let lambda = 0.02 * f;
                let found =
                    [chebyshev(&h, f, lambda, &q, num_iter, bf16), conjugate_gradients(&h, lambda, &q, num_iter, bf16)]
                        .map(|x| residual(&h, lambda, &x, &q));
                assert!(found.iter().all(|r| r.is_finite()), "{name}, draw {draw}");
                better += usize::from(found[1] < found[0]);
                sums.iter_mut().zip(found).for_each(|(sum, r)| *sum += r.ln() / draws as f64);
            }
            let [ours, theirs] = sums.map(f64::exp);
            lines.push((num_iter, ours, theirs, better));
            eprintln!(
                "{name}, {num_iter} steps: Chebyshev {ours:.1e}, CG {theirs:.1e}; CG better in {better} of {draws}"
            );
        }
        // What Chebyshev's bound promises in exact arithmetic is reached down to what bf16 holds.
        let (_, ours, ..) = lines[3];
        assert!(ours < 0.05, "{name}: {ours:.1e} after 30 steps");
    }
}

#[test]
fn the_direct_solver_solves() {
    let mut r = Random(5);
    let width = 20;
    let mut h = vec![0.0f64; width * width];
    for _ in 0..30 {
        let k: Vec<f64> = r.tensor(width);
        h.iter_mut().enumerate().for_each(|(i, h)| *h += k[i / width] * k[i % width]);
    }
    let b: Vec<f64> = r.tensor(width);
    let x = cholesky(&h, 0.3, &b);
    for (i, b) in b.iter().enumerate() {
        let row: f64 = (0..width).map(|j| h[i * width + j] * x[j]).sum();
        assert!((row + 0.3 * x[i] - b).abs() < 1e-11, "row {i}");
    }
}
