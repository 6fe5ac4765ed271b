//! Multi-query associative recall: `k1 v1 k2 v2 …`, then each key once more, at which its value is to be predicted.
//!
//! Keys are distinct ids of 1..V/2, values of V/2..V, 0 is filler. After the context, slots of two positions follow; the
//! slot of a query is drawn from a power law, so that most queries come soon (a = 0.01) or anywhere (a = 1). The target of a
//! query sits at the query's own position, and the value is never written after it.

use super::layout::{no_targets, query_slots, randomize_filler};
use crate::check::Check;
use crate::draw::distinct;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;

/// A setting of multi-query associative recall; names and defaults as published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqarConfig {
    /// V, ids; more than T.
    pub vocab_size: usize,
    /// T, positions; even, at least 2·n·passes + 2·n.
    pub input_seq_len: usize,
    /// Examples of the segment.
    pub num_examples: u64,
    /// n, pairs; at most V/2 - 1.
    #[serde(default = "pairs")]
    pub num_kv_pairs: usize,
    /// a, above 0: slot j of a query has weight a·j^(a-1).
    #[serde(default = "power")]
    pub power_a: f64,
    /// How often the pairs are written before the queries.
    #[serde(default = "one")]
    pub num_passes: usize,
    /// Filler is random ids, keys and values among them, instead of 0.
    #[serde(default = "yes")]
    pub random_non_queries: bool,
}

pub(super) fn pairs() -> usize {
    8
}

pub(super) fn power() -> f64 {
    0.01
}

pub(super) fn one() -> usize {
    1
}

pub(super) fn yes() -> bool {
    true
}

impl MqarConfig {
    /// n pairs in T positions of V ids, the rest as published (a = 0.01, one pass, random filler).
    pub fn new(vocab_size: usize, input_seq_len: usize, num_kv_pairs: usize, num_examples: u64) -> MqarConfig {
        MqarConfig {
            vocab_size,
            input_seq_len,
            num_examples,
            num_kv_pairs,
            power_a: power(),
            num_passes: 1,
            random_non_queries: true,
        }
    }

    fn context(&self) -> usize {
        2 * self.num_kv_pairs * self.num_passes
    }
}

/// Distinct keys of 1..V/2 and values of V/2..V.
pub(super) fn keys_and_values(rng: &mut Philox, vocab: usize, count: usize) -> (Vec<i32>, Vec<i32>) {
    let half = vocab / 2;
    let keys = distinct(rng, half - 1, count).into_iter().map(|i| (i + 1) as i32).collect();
    let values = distinct(rng, vocab - half, count).into_iter().map(|i| (i + half) as i32).collect();
    (keys, values)
}

/// Answers every position from the pairs of the first `context` positions, later pairs first.
pub(super) fn answer_from_pairs(inputs: &[i32], context: usize) -> Vec<i32> {
    let pairs: HashMap<i32, i32> = inputs[..context].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    inputs.iter().map(|id| pairs.get(id).copied().unwrap_or(0)).collect()
}

impl Generator for MqarConfig {
    fn name(&self) -> &'static str {
        "mqar"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        let (v, t, n) = (self.vocab_size, self.input_seq_len, self.num_kv_pairs);
        check.basics(v, t, n, self.num_examples)?;
        check.that(self.num_passes > 0, "num_passes", self.num_passes, || "it must be at least 1".into())?;
        check.vocabulary_exceeds_time(v, t)?;
        let tokens = n.checked_mul(2).and_then(|w| w.checked_mul(self.num_passes.checked_add(1)?));
        check.fits(tokens, t, "2 for each pair in each pass and 2 for each query")?;
        check.halves(v, n)?;
        check.power(self.power_a)
    }

    fn num_examples(&self) -> u64 {
        self.num_examples
    }

    fn input_seq_len(&self) -> usize {
        self.input_seq_len
    }

    fn asked(&self) -> usize {
        self.num_kv_pairs
    }

    fn values(&self) -> Range<i32> {
        (self.vocab_size / 2) as i32..self.vocab_size as i32
    }

    fn generate(&self, rng: &mut Philox) -> Generated {
        let (time, context) = (self.input_seq_len, self.context());
        let (keys, values) = keys_and_values(rng, self.vocab_size, self.num_kv_pairs);
        let one_pass: Vec<i32> = keys.iter().zip(&values).flat_map(|(&key, &value)| [key, value]).collect();
        let mut inputs = one_pass.repeat(self.num_passes);
        inputs.resize(time, 0);
        let mut targets = no_targets(time);
        let slots = query_slots(rng, (time - context) / 2, keys.len(), self.power_a);
        for ((slot, key), value) in slots.into_iter().zip(keys).zip(values) {
            inputs[context + 2 * slot] = key;
            targets[context + 2 * slot] = value;
        }
        if self.random_non_queries {
            randomize_filler(rng, &mut inputs, self.vocab_size);
        }
        (inputs, targets)
    }

    fn answer(&self, inputs: &[i32]) -> Vec<i32> {
        answer_from_pairs(inputs, self.context())
    }
}
