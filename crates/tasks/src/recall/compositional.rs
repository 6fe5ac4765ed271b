//! Compositional MQAR: a key is two tokens on a grid, and neither half alone determines the value.
//!
//! n = r² pairs: r first halves × r second halves, each of the n combinations with a value of its own. Ids are split in
//! thirds: first halves 1..V/3, second halves V/3..2V/3, values 2V/3..V. Context `k1 k2 v`, query `k1 k2`; the target sits at
//! the second half of the query.

use super::layout::{no_targets, query_slots, randomize_filler};
use super::mqar::{power, yes};
use crate::check::Check;
use crate::draw::distinct;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;

/// A setting of compositional MQAR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompositionalMqarConfig {
    /// V, ids; more than T.
    pub vocab_size: usize,
    /// T, positions; even, at least 6·n.
    pub input_seq_len: usize,
    /// Examples of the segment.
    pub num_examples: u64,
    /// n, pairs; a perfect square r² with r at most V/3 - 1.
    pub num_kv_pairs: usize,
    /// a, above 0: slot j (three positions wide) of a query has weight a·j^(a-1).
    #[serde(default = "power")]
    pub power_a: f64,
    /// Filler is random ids, keys and values among them, instead of 0.
    #[serde(default = "yes")]
    pub random_non_queries: bool,
}

impl CompositionalMqarConfig {
    fn side(&self) -> usize {
        self.num_kv_pairs.isqrt()
    }

    fn thirds(&self) -> [usize; 2] {
        [self.vocab_size / 3, 2 * self.vocab_size / 3]
    }
}

impl Generator for CompositionalMqarConfig {
    fn name(&self) -> &'static str {
        "compositional_mqar"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        let (v, t, n) = (self.vocab_size, self.input_seq_len, self.num_kv_pairs);
        check.basics(v, t, n, self.num_examples)?;
        let side = self.side();
        check.that(side * side == n, "num_kv_pairs", n, || {
            format!("it must be a perfect square, such as {} or {}", (side * side).max(1), (side + 1).saturating_pow(2))
        })?;
        check.vocabulary_exceeds_time(v, t)?;
        check.fits(n.checked_mul(6), t, "3 for each pair and 3 for each query")?;
        let [first, second] = self.thirds();
        let enough = side < first && side <= second - first && n <= v - second;
        check.that(enough, "num_kv_pairs", n, || {
            format!("vocab_size {v} has {} first halves and {} values", first.saturating_sub(1), v - second)
        })?;
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
        self.thirds()[1] as i32..self.vocab_size as i32
    }

    fn generate(&self, rng: &mut Philox) -> Generated {
        let (time, side, n) = (self.input_seq_len, self.side(), self.num_kv_pairs);
        let [first, second] = self.thirds();
        let firsts = distinct(rng, first - 1, side);
        let seconds = distinct(rng, second - first, side);
        let values = distinct(rng, self.vocab_size - second, n);
        let order = distinct(rng, n, n);
        let pairs: Vec<[i32; 3]> = order
            .into_iter()
            .zip(values)
            .map(|(at, value)| {
                [(firsts[at / side] + 1) as i32, (seconds[at % side] + first) as i32, (value + second) as i32]
            })
            .collect();
        let context = 3 * n;
        let mut inputs = pairs.concat();
        inputs.resize(time, 0);
        let mut targets = no_targets(time);
        let slots = query_slots(rng, (time - context) / 3, n, self.power_a);
        for (slot, [k1, k2, value]) in slots.into_iter().zip(pairs) {
            let at = context + 3 * slot;
            (inputs[at], inputs[at + 1]) = (k1, k2);
            targets[at + 1] = value;
        }
        if self.random_non_queries {
            randomize_filler(rng, &mut inputs, self.vocab_size);
        }
        (inputs, targets)
    }

    fn answer(&self, inputs: &[i32]) -> Vec<i32> {
        let context = &inputs[..3 * self.num_kv_pairs];
        let pairs: HashMap<[i32; 2], i32> = context.chunks_exact(3).map(|p| ([p[0], p[1]], p[2])).collect();
        let before = std::iter::once(0).chain(inputs.iter().copied());
        before.zip(inputs).map(|(k1, &k2)| pairs.get(&[k1, k2]).copied().unwrap_or(0)).collect()
    }
}
