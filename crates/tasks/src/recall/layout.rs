//! What the recall generators share: checks of their settings, and where queries go.

use crate::check::Check;
use crate::draw::weighted_order;
use crate::philox::Philox;
use crate::task::{ConfigError, IGNORE};

impl Check {
    /// What holds for every recall generator: T even, ids that fit, some examples and some pairs.
    pub(super) fn basics(&self, vocab: usize, time: usize, pairs: usize, examples: u64) -> Result<(), ConfigError> {
        self.that(examples > 0, "num_examples", examples, || "it must be at least 1".into())?;
        self.that(pairs > 0, "num_kv_pairs", pairs, || "it must be at least 1".into())?;
        self.that(time > 0 && time.is_multiple_of(2), "input_seq_len", time, || "it must be even and not 0".into())?;
        let countable = i32::try_from(time).is_ok();
        self.that(countable, "input_seq_len", time, || format!("it must not exceed {}", i32::MAX))?;
        let fits = i32::try_from(vocab).is_ok();
        self.that(fits, "vocab_size", vocab, || format!("ids must stay below {}", i32::MAX))
    }

    /// V > T: what the published generators ask for.
    pub(super) fn vocabulary_exceeds_time(&self, vocab: usize, time: usize) -> Result<(), ConfigError> {
        self.that(vocab > time, "vocab_size", vocab, || format!("it must exceed input_seq_len ({time})"))
    }

    /// The tokens of context and queries fit into T.
    pub(super) fn fits(&self, tokens: Option<usize>, time: usize, parts: &str) -> Result<(), ConfigError> {
        let needed = tokens.map_or("more than an address can count".to_string(), |tokens| tokens.to_string());
        self.that(tokens.is_some_and(|tokens| tokens <= time), "input_seq_len", time, || {
            format!("{parts} need {needed} positions")
        })
    }

    /// Keys and values of the halves of a vocabulary: n distinct ids of 1..V/2 and n of V/2..V.
    pub(super) fn halves(&self, vocab: usize, pairs: usize) -> Result<(), ConfigError> {
        let keys = (vocab / 2).saturating_sub(1);
        self.that(pairs <= keys, "num_kv_pairs", pairs, || {
            format!("vocab_size {vocab} has {keys} keys (V/2 - 1); lower one or raise the other")
        })
    }

    /// The exponent of the distribution of gaps.
    pub(super) fn power(&self, power_a: f64) -> Result<(), ConfigError> {
        let usable = power_a > 0.0 && power_a <= 16.0;
        self.that(usable, "power_a", power_a, || {
            "it must be above 0 (0.01: most queries come soon, 1: anywhere) and at most 16".into()
        })
    }
}

/// Draws a slot for each of `count` queries out of `slots`: slot j (from 1) has weight a·j^(a-1), drawn in sequence without
/// replacement, and the order of the draw is the order of the queries.
pub(super) fn query_slots(rng: &mut Philox, slots: usize, count: usize, power_a: f64) -> Vec<usize> {
    let weights: Vec<f64> = (1..=slots).map(|j| power_a * libm::pow(j as f64, power_a - 1.0)).collect();
    weighted_order(rng, &weights, count)
}

/// Replaces every 0 by a random id of the whole vocabulary.
pub(super) fn randomize_filler(rng: &mut Philox, inputs: &mut [i32], vocab: usize) {
    for id in inputs.iter_mut().filter(|id| **id == 0) {
        *id = rng.below(vocab as u64) as i32;
    }
}

/// T targets with nothing asked yet.
pub(super) fn no_targets(time: usize) -> Vec<i32> {
    vec![IGNORE; time]
}
