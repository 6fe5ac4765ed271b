//! Forgetting MQAR: after all pairs, some keys are written again with another value; the latest counts.
//!
//! What a gate is for: a state that cannot forget the old value answers with a mixture of both.

use super::layout::{no_targets, query_slots, randomize_filler};
use super::mqar::{answer_from_pairs, keys_and_values, pairs, power, yes};
use crate::check::Check;
use crate::draw::distinct;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A setting of MQAR with rewritten keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgettingMqarConfig {
    /// V, ids; more than T.
    pub vocab_size: usize,
    /// T, positions; even, at least 2·(n + u) + 2·n.
    pub input_seq_len: usize,
    /// Examples of the segment.
    pub num_examples: u64,
    /// n, pairs; at most V/2 - 1.
    #[serde(default = "pairs")]
    pub num_kv_pairs: usize,
    /// u, keys that are written again, each once; at most n.
    #[serde(default = "updates")]
    pub num_updates: usize,
    /// a, above 0: slot j of a query has weight a·j^(a-1).
    #[serde(default = "power")]
    pub power_a: f64,
    /// Filler is random ids, keys and values among them, instead of 0.
    #[serde(default = "yes")]
    pub random_non_queries: bool,
}

fn updates() -> usize {
    4
}

impl ForgettingMqarConfig {
    fn context(&self) -> usize {
        2 * (self.num_kv_pairs + self.num_updates)
    }
}

impl Generator for ForgettingMqarConfig {
    fn name(&self) -> &'static str {
        "forgetting_mqar"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        let (v, t, n, u) = (self.vocab_size, self.input_seq_len, self.num_kv_pairs, self.num_updates);
        check.basics(v, t, n, self.num_examples)?;
        check.that(u <= n, "num_updates", u, || format!("it must not exceed num_kv_pairs ({n})"))?;
        check.vocabulary_exceeds_time(v, t)?;
        let tokens = n.checked_mul(2).and_then(|w| w.checked_add(u)?.checked_mul(2));
        check.fits(tokens, t, "2 for each pair, update and query")?;
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
        let (keys, mut values) = keys_and_values(rng, self.vocab_size, self.num_kv_pairs);
        let mut inputs: Vec<i32> = keys.iter().zip(&values).flat_map(|(&key, &value)| [key, value]).collect();
        for i in distinct(rng, keys.len(), self.num_updates) {
            // A value that no key holds now, so that the new one differs and the mapping stays one to one.
            let free: Vec<i32> = self.values().filter(|value| !values.contains(value)).collect();
            values[i] = free[rng.below(free.len() as u64) as usize];
            inputs.extend([keys[i], values[i]]);
        }
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
