//! The router: which experts a token goes through, and how much each counts.
//!
//! s = softmax or sigmoid of the logits; the k experts with the largest s + bias are chosen; an expert's weight is its s,
//! without the bias, divided by ε + the sum over the chosen if weights are normalized, times a factor. Choosing has no
//! gradient; that of the weights is taken with the choice held fixed. Sources: Switch Transformer (arXiv 2101.03961) for
//! gradients through chosen weights, DeepSeek-V3 (arXiv 2412.19437) for the bias.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows, rows_of};
use crate::{Pool, Real};

/// What makes scores of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Of all experts together.
    Softmax,
    /// Of each alone.
    Sigmoid,
}

/// How experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// Experts E.
    pub experts: usize,
    /// Experts of a token k, at most E.
    pub active: usize,
    /// What makes scores of logits.
    pub scores: Scores,
    /// Weights are divided by this ε + their sum; not at all if absent.
    pub normalize: Option<f64>,
    /// What weights are multiplied by.
    pub factor: f64,
}

/// Scores of a token, one at a time.
struct Scorer<'a, T> {
    scores: Scores,
    logits: &'a [T],
    max: T,
    sum: T,
}

impl<'a, T: Real> Scorer<'a, T> {
    fn new(scores: Scores, logits: &'a [T]) -> Scorer<'a, T> {
        let max = logits.iter().fold(T::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        let sum = match scores {
            Scores::Softmax => logits.iter().fold(T::ZERO, |sum, &x| sum + (x - max).exp()),
            Scores::Sigmoid => T::ONE,
        };
        Scorer { scores, logits, max, sum }
    }

    fn of(&self, expert: usize) -> T {
        let x = self.logits[expert];
        match self.scores {
            Scores::Softmax => (x - self.max).exp() / self.sum,
            Scores::Sigmoid => T::ONE / (T::ONE + (-x).exp()),
        }
    }
}

/// Chooses experts by logits [N, E] and `bias` `[E]`, if there is one: `chosen` and `weights` [N, k], the largest s + bias
/// first, of equal ones the lower number. A score that is no number comes last.
///
/// # Panics
/// If a slice has the wrong length.
pub fn route<T: Real>(pool: &Pool, r: &Route, logits: &[T], bias: Option<&[T]>, chosen: &mut [i32], weights: &mut [T]) {
    let (experts, k) = (r.experts, r.active);
    let tokens = rows_of("logits", logits.len(), experts);
    expect_len("chosen", chosen.len(), tokens * k);
    expect_len("weights", weights.len(), tokens * k);
    assert!((1..=experts).contains(&k), "{k} of {experts} experts");
    let (chosen, weights) = (Disjoint::new(chosen), Disjoint::new(weights));
    for_rows(pool, tokens, experts, |rows| {
        for token in rows {
            // SAFETY: rows of tasks do not overlap.
            let (chosen, weights) =
                unsafe { (chosen.part(token * k..(token + 1) * k), weights.part(token * k..(token + 1) * k)) };
            let scorer = Scorer::new(r.scores, &logits[token * experts..(token + 1) * experts]);
            let mut found = 0;
            for expert in 0..experts {
                let score = scorer.of(expert) + bias.map_or(T::ZERO, |b| b[expert]);
                let at = weights[..found].iter().position(|&other| comes_before(score, other)).unwrap_or(found);
                if at == k {
                    continue;
                }
                found = k.min(found + 1);
                chosen.copy_within(at..found - 1, at + 1);
                weights.copy_within(at..found - 1, at + 1);
                (chosen[at], weights[at]) = (expert as i32, score);
            }
            // What they were chosen by had the bias.
            for (weight, &expert) in weights.iter_mut().zip(&*chosen) {
                *weight = scorer.of(expert as usize);
            }
            let scale = scale_of(r, weights);
            weights.iter_mut().for_each(|w| *w *= scale);
        }
    });
}

/// Whether score `a` is chosen rather than `b`, which was there before.
fn comes_before<T: Real>(a: T, b: T) -> bool {
    let is_number = |x: T| x.partial_cmp(&x).is_some();
    a > b || (is_number(a) && !is_number(b))
}

/// What scores of the chosen are multiplied by.
fn scale_of<T: Real>(r: &Route, scores: &[T]) -> T {
    let factor = T::of(r.factor);
    match r.normalize {
        Some(eps) => factor / (scores.iter().fold(T::ZERO, |sum, &s| sum + s) + T::of(eps)),
        None => factor,
    }
}

/// Gradient of the logits [N, E] from that of the weights [N, k], the choice held fixed.
///
/// # Panics
/// If a slice has the wrong length.
pub fn route_backward<T: Real>(
    pool: &Pool,
    r: &Route,
    logits: &[T],
    chosen: &[i32],
    d_weights: &[T],
    d_logits: &mut [T],
) {
    let (experts, k) = (r.experts, r.active);
    let tokens = rows_of("logits", logits.len(), experts);
    expect_len("chosen", chosen.len(), tokens * k);
    expect_len("d_weights", d_weights.len(), tokens * k);
    expect_len("d_logits", d_logits.len(), logits.len());
    let d_logits = Disjoint::new(d_logits);
    for_rows(pool, tokens, experts, |rows| {
        for token in rows {
            let row = token * experts..(token + 1) * experts;
            let (chosen, dw) = (&chosen[token * k..(token + 1) * k], &d_weights[token * k..(token + 1) * k]);
            // SAFETY: rows of tasks do not overlap.
            let d = unsafe { d_logits.part(row.clone()) };
            let scorer = Scorer::new(r.scores, &logits[row]);
            let score = |j: usize| scorer.of(chosen[j] as usize);
            let factor = T::of(r.factor);
            // w_j = c s_j / (ε + Σ s) or c s_j, so ds_j = scale (dw_j − Σ_i dw_i s_i / (ε + Σ s)) or c dw_j.
            let (scale, mean) = match r.normalize {
                Some(eps) => {
                    let sum = (0..k).fold(T::ZERO, |sum, j| sum + score(j)) + T::of(eps);
                    (factor / sum, (0..k).fold(T::ZERO, |all, j| all + dw[j] * score(j)) / sum)
                }
                None => (factor, T::ZERO),
            };
            let ds = |j: usize| scale * (dw[j] - mean);
            match r.scores {
                Scores::Sigmoid => {
                    d.fill(T::ZERO);
                    for j in 0..k {
                        let s = score(j);
                        d[chosen[j] as usize] = ds(j) * s * (T::ONE - s);
                    }
                }
                Scores::Softmax => {
                    let inner = (0..k).fold(T::ZERO, |all, j| all + ds(j) * score(j));
                    for (expert, d) in d.iter_mut().enumerate() {
                        *d = -(scorer.of(expert) * inner);
                    }
                    for j in 0..k {
                        d[chosen[j] as usize] += score(j) * ds(j);
                    }
                }
            }
        }
    });
}
