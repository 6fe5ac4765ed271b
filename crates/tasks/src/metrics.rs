//! Metrics: recall accuracy and its slices, and what a language model's logits say about text.

use crate::task::IGNORE;
use std::collections::BTreeMap;
use thiserror::Error;

/// Logits that cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetricError {
    /// The target is no id of the vocabulary.
    #[error("target {target} of a vocabulary of {vocab} ids")]
    Target {
        /// The target.
        target: i32,
        /// Logits of a row.
        vocab: usize,
    },
    /// Two rows of different vocabularies.
    #[error("rows of {reference} and {other} logits cannot be compared")]
    Lengths {
        /// Logits of the reference.
        reference: usize,
        /// Logits of the other.
        other: usize,
    },
    /// NaN, or a row in which no logit is finite.
    #[error("logits are not finite (at id {id})")]
    NotFinite {
        /// The first id that is NaN or infinite.
        id: usize,
    },
}

/// The share of labelled positions of one example at which the prediction is the target; `None` without labels.
///
/// Positions beyond the shorter of both slices are not predicted and count as wrong if they are labelled.
pub fn accuracy(targets: &[i32], predictions: &[i32]) -> Option<f64> {
    let labels = targets.iter().filter(|&&target| target != IGNORE).count();
    let right = targets.iter().zip(predictions).filter(|&(&t, p)| t != IGNORE && t == *p).count();
    (labels > 0).then(|| right as f64 / labels as f64)
}

/// The id of the largest logit, the lowest of equal ones.
///
/// # Errors
/// An empty row or a NaN.
pub fn argmax(logits: &[f32]) -> Result<usize, MetricError> {
    if let Some(id) = logits.iter().position(|x| x.is_nan()) {
        return Err(MetricError::NotFinite { id });
    }
    let better = |best: Option<usize>, id: usize| match best {
        Some(best) if logits[id] <= logits[best] => Some(best),
        _ => Some(id),
    };
    (0..logits.len()).fold(None, better).ok_or(MetricError::NotFinite { id: 0 })
}

/// Mean scores of examples, over all and by the settings of their segment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlicedMean {
    all: (f64, u64),
    slices: BTreeMap<(&'static str, usize), (f64, u64)>,
}

impl SlicedMean {
    /// Adds the score of one example of a segment with these settings.
    pub fn add(&mut self, score: f64, settings: &[(&'static str, usize)]) {
        self.all = (self.all.0 + score, self.all.1 + 1);
        for &setting in settings {
            let mean = self.slices.entry(setting).or_default();
            *mean = (mean.0 + score, mean.1 + 1);
        }
    }

    /// The mean over all examples, or `None` without any.
    pub fn mean(&self) -> Option<f64> {
        (self.all.1 > 0).then(|| self.all.0 / self.all.1 as f64)
    }

    /// The mean over the examples with one setting.
    pub fn slice(&self, key: &'static str, value: usize) -> Option<f64> {
        self.slices.get(&(key, value)).map(|(sum, count)| sum / *count as f64)
    }

    /// All figures under the names that trackers know: `accuracy`, `num_kv_pairs/accuracy-64`.
    pub fn named(&self, metric: &str) -> Vec<(String, f64)> {
        let all = self.mean().map(|mean| (metric.to_string(), mean));
        let slices =
            self.slices.iter().map(|((key, value), (sum, n))| (format!("{key}/{metric}-{value}"), sum / *n as f64));
        all.into_iter().chain(slices).collect()
    }
}

/// ln Σ exp(x) of a row, in f64; rows with NaN, +∞ or nothing finite are refused.
fn log_sum_exp(logits: &[f32]) -> Result<f64, MetricError> {
    if let Some(id) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
        return Err(MetricError::NotFinite { id });
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return Err(MetricError::NotFinite { id: 0 });
    }
    let max = f64::from(max);
    Ok(max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln())
}

/// The negative natural logarithm of the probability that a row of logits gives to `target`.
///
/// # Errors
/// A target outside the row, or logits that are not finite.
pub fn nll(logits: &[f32], target: i32) -> Result<f64, MetricError> {
    let error = MetricError::Target { target, vocab: logits.len() };
    let logit = usize::try_from(target).ok().and_then(|id| logits.get(id)).ok_or(error)?;
    Ok(log_sum_exp(logits)? - f64::from(*logit))
}

/// Sums of a language model's surprise over text.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Surprise {
    nats: f64,
    tokens: u64,
    bytes: u64,
}

impl Surprise {
    /// Adds `nats` of surprise over `tokens` that stand for `bytes` of text.
    pub fn add(&mut self, nats: f64, tokens: u64, bytes: u64) {
        self.nats += nats;
        self.tokens += tokens;
        self.bytes += bytes;
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Bytes of text so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Mean surprise of a token in nats, or `None` without tokens.
    pub fn nll_per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nats / self.tokens as f64)
    }

    /// e to the mean surprise.
    pub fn perplexity(&self) -> Option<f64> {
        self.nll_per_token().map(f64::exp)
    }

    /// Surprise of all tokens in bits over the bytes that they stand for, or `None` without bytes.
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| bits(self.nats) / self.bytes as f64)
    }
}

/// Nats as bits.
pub fn bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}

/// How far the logits of one model are from those of a reference on the same text.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LogitsComparison {
    kl: f64,
    agree: u64,
    rows: u64,
}

impl LogitsComparison {
    /// Adds the logits of both at one position.
    ///
    /// # Errors
    /// Different lengths, or logits that are not finite; nothing is added then.
    pub fn add(&mut self, reference: &[f32], other: &[f32]) -> Result<(), MetricError> {
        if reference.len() != other.len() {
            return Err(MetricError::Lengths { reference: reference.len(), other: other.len() });
        }
        let agree = argmax(reference)? == argmax(other)?;
        self.kl += kl_divergence(reference, other)?;
        self.agree += u64::from(agree);
        self.rows += 1;
        Ok(())
    }

    /// Positions so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Mean divergence KL(reference ‖ other) in nats, or `None` without positions.
    pub fn mean_kl(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.kl / self.rows as f64)
    }

    /// The share of positions at which both have the same largest logit.
    pub fn top1_agreement(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.agree as f64 / self.rows as f64)
    }
}

/// Σ p (ln p - ln q) in nats with p of the reference and q of the other; 0 where p is 0, infinite where only q is.
fn kl_divergence(reference: &[f32], other: &[f32]) -> Result<f64, MetricError> {
    let (reference_sum, other_sum) = (log_sum_exp(reference)?, log_sum_exp(other)?);
    let term = |(&r, &o): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(r) - reference_sum, f64::from(o) - other_sum);
        let p = log_p.exp();
        if p > 0.0 { p * (log_p - log_q) } else { 0.0 }
    };
    // Rounding can leave equal rows a hair below 0.
    Ok(reference.iter().zip(other).map(term).sum::<f64>().max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accuracy_counts_labelled_positions_only() {
        assert_eq!(accuracy(&[IGNORE, 4, 5, IGNORE], &[4, 4, 4, 4]), Some(0.5));
        assert_eq!(accuracy(&[IGNORE], &[IGNORE]), None);
        assert_eq!(accuracy(&[1, 2, 3], &[1]), Some(1.0 / 3.0), "a missing prediction is wrong");
    }

    #[test]
    fn slices_are_means_over_examples_not_over_labels() {
        let mut mean = SlicedMean::default();
        mean.add(1.0, &[("num_kv_pairs", 4), ("input_seq_len", 64)]);
        mean.add(0.0, &[("num_kv_pairs", 8), ("input_seq_len", 64)]);
        mean.add(0.5, &[("num_kv_pairs", 8), ("input_seq_len", 64)]);
        assert_eq!(mean.mean(), Some(0.5));
        assert_eq!((mean.slice("num_kv_pairs", 8), mean.slice("num_kv_pairs", 16)), (Some(0.25), None));
        let names: Vec<String> = mean.named("accuracy").into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["accuracy", "input_seq_len/accuracy-64", "num_kv_pairs/accuracy-4", "num_kv_pairs/accuracy-8"]
        );
        assert_eq!(SlicedMean::default().mean(), None);
    }

    #[test]
    fn the_largest_logit_wins_and_the_lowest_of_equal_ones() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Ok(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY, -1.0]), Ok(1));
        assert_eq!(argmax(&[0.0, f32::NAN]), Err(MetricError::NotFinite { id: 1 }));
        assert!(argmax(&[]).is_err());
    }

    #[test]
    fn uniform_logits_over_bytes_are_eight_bits_per_byte() {
        let mut surprise = Surprise::default();
        for target in [0, 7, 255] {
            surprise.add(nll(&[2.5; 256], target).unwrap(), 1, 1);
        }
        assert!((surprise.bits_per_byte().unwrap() - 8.0).abs() < 1e-12);
        assert!((surprise.perplexity().unwrap() - 256.0).abs() < 1e-9);
        assert_eq!((surprise.tokens(), surprise.bytes()), (3, 3));
        assert_eq!(Surprise::default().perplexity(), None);
    }

    #[test]
    fn divergence_of_two_known_distributions() {
        let (p, q) = ([0.5f32.ln(), 0.5f32.ln()], [0.25f32.ln(), 0.75f32.ln()]);
        let mut comparison = LogitsComparison::default();
        comparison.add(&p, &q).unwrap();
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((comparison.mean_kl().unwrap() - expected).abs() < 1e-7);
        assert_eq!(comparison.top1_agreement(), Some(0.0));
        assert!(comparison.add(&p, &q[..1]).is_err() && comparison.add(&p, &[f32::NAN, 0.0]).is_err());
        assert_eq!(comparison.rows(), 1, "an error adds nothing");
        comparison.add(&[0.0, f32::NEG_INFINITY], &[0.0, 0.0]).unwrap();
        assert!((comparison.mean_kl().unwrap() - (expected + 2f64.ln()) / 2.0).abs() < 1e-7);
    }

    #[test]
    fn bad_targets_and_logits_are_errors() {
        assert!(nll(&[0.0; 4], 4).is_err() && nll(&[0.0; 4], -100).is_err() && nll(&[], 0).is_err());
        assert!(nll(&[0.0, f32::INFINITY], 0).is_err() && nll(&[f32::NEG_INFINITY; 2], 0).is_err());
        assert_eq!(nll(&[0.0, f32::NEG_INFINITY], 1), Ok(f64::INFINITY));
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one_and_shifts_change_nothing(
            logits in proptest::collection::vec(-80f32..80.0, 1..30), shift in -8f32..8.0
        ) {
            let total: f64 = (0..logits.len()).map(|id| (-nll(&logits, id as i32).unwrap()).exp()).sum();
            prop_assert!((total - 1.0).abs() < 1e-9);
            let shifted: Vec<f32> = logits.iter().map(|x| x + shift).collect();
            prop_assert!((nll(&logits, 0).unwrap() - nll(&shifted, 0).unwrap()).abs() < 1e-3);
        }

        #[test]
        fn divergence_is_zero_for_equal_rows_and_never_negative(
            rows in proptest::collection::vec((-9f32..9.0, -9f32..9.0), 1..20)
        ) {
            let (p, q): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            prop_assert!(kl_divergence(&p, &q).unwrap() >= 0.0);
            prop_assert!(kl_divergence(&p, &p).unwrap() < 1e-12);
        }
    }
}
