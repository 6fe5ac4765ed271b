//! Stacked MQAR: key and value are given at the same position, so that one layer of any mixer can solve it.
//!
//! A position has two ids, key and value, whose embeddings a model adds. Context: n positions (key, value); queries: (key, 0)
//! at slots of one position; the target sits at the query.

use super::layout::{no_targets, query_slots};
use super::mqar::{keys_and_values, one, pairs, power, yes};
use crate::check::Check;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;

/// A setting of stacked MQAR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackedMqarConfig {
    /// V, ids; more than T.
    pub vocab_size: usize,
    /// T, positions; even, at least n·passes + n.
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
    /// Positions that hold neither pair nor query get a random key id and a random value id, each of the whole vocabulary.
    #[serde(default = "yes")]
    pub random_non_queries: bool,
}

impl Generator for StackedMqarConfig {
    fn name(&self) -> &'static str {
        "stacked_mqar"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        let (v, t, n) = (self.vocab_size, self.input_seq_len, self.num_kv_pairs);
        check.basics(v, t, n, self.num_examples)?;
        check.that(self.num_passes > 0, "num_passes", self.num_passes, || "it must be at least 1".into())?;
        check.vocabulary_exceeds_time(v, t)?;
        let tokens = self.num_passes.checked_add(1).and_then(|times| times.checked_mul(n));
        check.fits(tokens, t, "1 for each pair in each pass and 1 for each query")?;
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

    fn channels(&self) -> usize {
        2
    }

    fn values(&self) -> Range<i32> {
        (self.vocab_size / 2) as i32..self.vocab_size as i32
    }

    fn generate(&self, rng: &mut Philox) -> Generated {
        let (time, context) = (self.input_seq_len, self.num_kv_pairs * self.num_passes);
        let (keys, values) = keys_and_values(rng, self.vocab_size, self.num_kv_pairs);
        let one_pass: Vec<i32> = keys.iter().zip(&values).flat_map(|(&key, &value)| [key, value]).collect();
        let mut inputs = one_pass.repeat(self.num_passes);
        inputs.resize(2 * time, 0);
        let mut targets = no_targets(time);
        let slots = query_slots(rng, time - context, keys.len(), self.power_a);
        for ((slot, key), value) in slots.into_iter().zip(keys).zip(values) {
            inputs[2 * (context + slot)] = key;
            targets[context + slot] = value;
        }
        if self.random_non_queries {
            // A query keeps its empty value: what stands there would be read as a pair.
            for position in inputs.chunks_exact_mut(2).filter(|position| **position == [0, 0]) {
                position.fill_with(|| rng.below(self.vocab_size as u64) as i32);
            }
        }
        (inputs, targets)
    }

    fn answer(&self, inputs: &[i32]) -> Vec<i32> {
        let context = 2 * self.num_kv_pairs * self.num_passes;
        let pairs: HashMap<i32, i32> = inputs[..context].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        inputs.chunks_exact(2).map(|position| pairs.get(&position[0]).copied().unwrap_or(0)).collect()
    }
}
