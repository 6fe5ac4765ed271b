//! The decoupled loss at temperature 1 is the divergence of distributions whose tails are one answer each.

use memwall_kernels::Pool;
use memwall_kernels::distillation::{TopK, distillation};
use memwall_tasks::Philox;

use crate::Run;
use crate::largest::largest;

const ROWS: usize = 64;
const VOCABULARY: usize = 97;
const KEPT: usize = 8;

/// Logarithms of the probabilities of random logits.
fn logarithms(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| (z - top).exp()).sum();
    logits.iter().map(|z| z - top - sum.ln()).collect()
}

/// Σ p ln(p/q) over the ids that were kept, and over everything else as one answer.
fn merged(teacher: &[f64], student: &[f64], kept: &[usize]) -> f64 {
    let mass = |logs: &[f64]| kept.iter().map(|&i| logs[i].exp()).sum::<f64>();
    let (p, q) = (1.0 - mass(teacher), 1.0 - mass(student));
    kept.iter().map(|&i| teacher[i].exp() * (teacher[i] - student[i])).sum::<f64>() + p * (p / q).ln()
}

/// The largest distance, in nats, over rows of random logits from flat to peaked.
pub(super) fn distance(run: &Run, seed: u64) -> f64 {
    let mut rng = Philox::new(seed, 11);
    let pool = Pool::new(run.threads());
    let distances = (0..ROWS).map(|row| {
        let spread = 0.5 + row as f64 / 4.0;
        let mut logits = || -> Vec<f64> { (0..VOCABULARY).map(|_| spread * (2.0 * rng.unit() - 1.0)).collect() };
        let (theirs, ours) = (logits(), logits());
        let (teacher, student) = (logarithms(&theirs), logarithms(&ours));
        let mut kept: Vec<usize> = (0..VOCABULARY).collect();
        kept.sort_by(|&a, &b| teacher[b].total_cmp(&teacher[a]));
        kept.truncate(KEPT);
        let ids: Vec<i32> = kept.iter().map(|&i| i as i32).collect();
        let log_probabilities: Vec<f64> = kept.iter().map(|&i| teacher[i]).collect();
        let top = TopK { ids: &ids, log_probabilities: &log_probabilities, k: KEPT };
        let (mut loss, mut inside, mut outside) = ([0.0], [0.0], [0.0]);
        let got = distillation(&pool, &ours, top, 1.0, &mut loss, &mut inside, &mut outside);
        (got - merged(&teacher, &student, &kept)).abs()
    });
    largest(distances)
}
