//! MQAR in long random filler: pairs and queries lie far apart among random ids that are neither keys nor values.
//!
//! A state that writes everything it sees drowns in the filler; a gate that keeps pairs and drops filler does not. Ids:
//! filler 0..F, then keys, then values, half of the rest each. The sequence is cut into slots of two positions; a pair fills
//! its slot, a query is followed by one filler.

use super::layout::no_targets;
use super::mqar::pairs;
use crate::check::Check;
use crate::draw::distinct;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;

/// Where the queries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryPlaces {
    /// In the last slots, one after another in random order; the pairs anywhere before.
    #[default]
    End,
    /// Anywhere after their pair, all ways to choose the slots equally likely.
    Anywhere,
    /// In the last slots, in random order; the pairs follow each other before them, apart by so much filler.
    Apart {
        /// Positions between the last pair and the first query; even.
        filler: usize,
    },
}

/// A setting of MQAR in long filler; it does not ask for V > T.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongFillerMqarConfig {
    /// V, ids; more than F.
    pub vocab_size: usize,
    /// T, positions; even, at least 4·n.
    pub input_seq_len: usize,
    /// Examples of the segment.
    pub num_examples: u64,
    /// n, pairs; at most half of V - F, rounded down.
    #[serde(default = "pairs")]
    pub num_kv_pairs: usize,
    /// F, ids that are filler; at least 1.
    pub num_filler_ids: usize,
    /// Where the queries are.
    #[serde(default)]
    pub query_places: QueryPlaces,
}

impl LongFillerMqarConfig {
    fn keys(&self) -> Range<i32> {
        self.num_filler_ids as i32..self.values().start
    }

    /// The slots of the pairs and, in the same order, of their queries.
    fn places(&self, rng: &mut Philox) -> Vec<(usize, usize)> {
        let (slots, n) = (self.input_seq_len / 2, self.num_kv_pairs);
        match self.query_places {
            QueryPlaces::End => {
                let pairs = distinct(rng, slots - n, n);
                pairs.into_iter().zip(distinct(rng, n, n)).map(|(pair, query)| (pair, slots - n + query)).collect()
            }
            QueryPlaces::Apart { filler } => {
                let first = slots - 2 * n - filler / 2;
                let queries = distinct(rng, n, n).into_iter().map(|query| slots - n + query);
                (first..first + n).zip(queries).collect()
            }
            QueryPlaces::Anywhere => {
                // 2n slots in random order, taken two by two: the earlier of two is the pair.
                let drawn = distinct(rng, slots, 2 * n);
                drawn.chunks_exact(2).map(|two| (two[0].min(two[1]), two[0].max(two[1]))).collect()
            }
        }
    }
}

impl Generator for LongFillerMqarConfig {
    fn name(&self) -> &'static str {
        "long_filler_mqar"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        let (v, t, n, f) = (self.vocab_size, self.input_seq_len, self.num_kv_pairs, self.num_filler_ids);
        check.basics(v, t, n, self.num_examples)?;
        check.that((1..v).contains(&f), "num_filler_ids", f, || format!("it must be in 1..{v} (vocab_size)"))?;
        check.fits(n.checked_mul(4), t, "2 for each pair and 2 for each query")?;
        if let QueryPlaces::Apart { filler } = self.query_places {
            check.that(filler.is_multiple_of(2), "query_places.apart.filler", filler, || "it must be even".into())?;
            let all = n.checked_mul(4).and_then(|tokens| tokens.checked_add(filler));
            check.fits(all, t, "2 for each pair and 2 for each query, and the filler between")?;
        }
        let most = (v - f) / 2;
        check.that(n <= most, "num_kv_pairs", n, || {
            format!("vocab_size {v} less {f} filler ids has {most} keys; lower one or raise the other")
        })
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
        let (v, f) = (self.vocab_size, self.num_filler_ids);
        (f + (v - f) / 2) as i32..v as i32
    }

    fn generate(&self, rng: &mut Philox) -> Generated {
        let (time, n) = (self.input_seq_len, self.num_kv_pairs);
        let mut draw_ids = |ids: Range<i32>| -> Vec<i32> {
            distinct(rng, ids.len(), n).into_iter().map(|i| ids.start + i as i32).collect()
        };
        let (keys, values) = (draw_ids(self.keys()), draw_ids(self.values()));
        let places = self.places(rng);
        let mut inputs: Vec<i32> = (0..time).map(|_| rng.below(self.num_filler_ids as u64) as i32).collect();
        let mut targets = no_targets(time);
        for ((key, value), (pair, query)) in keys.into_iter().zip(values).zip(places) {
            inputs[2 * pair] = key;
            inputs[2 * pair + 1] = value;
            inputs[2 * query] = key;
            targets[2 * query] = value;
        }
        (inputs, targets)
    }

    fn answer(&self, inputs: &[i32]) -> Vec<i32> {
        let mut pairs = HashMap::new();
        let (keys, values) = (self.keys(), self.values());
        let mut answers = Vec::with_capacity(inputs.len());
        for (t, id) in inputs.iter().enumerate() {
            answers.push(pairs.get(id).copied().unwrap_or(0));
            if keys.contains(id) && inputs.get(t + 1).is_some_and(|next| values.contains(next)) {
                pairs.insert(*id, inputs[t + 1]);
            }
        }
        answers
    }
}
