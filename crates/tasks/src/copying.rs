//! Copying: tokens to be given back in order at the end, one behind the other or scattered among blanks.
//!
//! The plain form asks for a memory of positions alone; in the selective form ("Mamba: Linear-Time Sequence Modeling with
//! Selective State Spaces", Gu and Dao, 2023) what to keep depends on the input, so that no convolution over positions
//! solves it.

use crate::check::Check;
use crate::draw::distinct;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::{ConfigError, IGNORE};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The id between tokens.
const BLANK: i32 = 0;
/// The id that asks for the next token.
const ASK: i32 = 1;

/// A setting of copying.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyingConfig {
    /// V, ids: blank 0, the asking 1, tokens 2..V.
    pub vocab_size: usize,
    /// T, positions, at least twice the tokens.
    pub input_seq_len: usize,
    /// Examples of the segment.
    pub num_examples: u64,
    /// n, tokens to be copied, drawn with replacement.
    pub num_tokens: usize,
    /// Tokens are scattered among blanks instead of standing at the front.
    #[serde(default)]
    pub selective: bool,
}

impl Generator for CopyingConfig {
    fn name(&self) -> &'static str {
        if self.selective { "selective_copying" } else { "copying" }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        let (v, t, n) = (self.vocab_size, self.input_seq_len, self.num_tokens);
        check.that(self.num_examples > 0, "num_examples", self.num_examples, || "it must be at least 1".into())?;
        check.that(n > 0, "num_tokens", n, || "it must be at least 1".into())?;
        check.that(v > 3, "vocab_size", v, || "it must be at least 4: blank, the asking, and two tokens".into())?;
        check.that(i32::try_from(v).is_ok(), "vocab_size", v, || format!("ids must stay below {}", i32::MAX))?;
        check.that(n.checked_mul(2).is_some_and(|both| both <= t), "input_seq_len", t, || {
            format!("{n} tokens need twice as many positions")
        })
    }

    fn num_examples(&self) -> u64 {
        self.num_examples
    }

    fn input_seq_len(&self) -> usize {
        self.input_seq_len
    }

    fn asked(&self) -> usize {
        self.num_tokens
    }

    fn values(&self) -> Range<i32> {
        ASK + 1..self.vocab_size as i32
    }

    fn generate(&self, rng: &mut Philox) -> Generated {
        let (time, count) = (self.input_seq_len, self.num_tokens);
        let values = self.values();
        let mut inputs = vec![BLANK; time];
        let mut places: Vec<usize> =
            if self.selective { distinct(rng, time - count, count) } else { (0..count).collect() };
        places.sort_unstable();
        for place in places {
            inputs[place] = values.start + rng.below(values.len() as u64) as i32;
        }
        inputs[time - count..].fill(ASK);
        let mut targets = self.answer(&inputs);
        targets[..time - count].fill(IGNORE);
        (inputs, targets)
    }

    fn answer(&self, inputs: &[i32]) -> Vec<i32> {
        let mut tokens = inputs.iter().copied().filter(|&id| id > ASK);
        inputs.iter().map(|&id| if id == ASK { tokens.next().unwrap_or(BLANK) } else { BLANK }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(selective: bool) -> CopyingConfig {
        CopyingConfig { vocab_size: 12, input_seq_len: 40, num_examples: 100, num_tokens: 10, selective }
    }

    #[test]
    fn tokens_come_back_in_order_and_nothing_else_is_asked() {
        for selective in [false, true] {
            for seed in 0..50 {
                let (inputs, targets) = config(selective).generate(&mut Philox::new(seed, 0));
                let tokens: Vec<i32> = inputs[..30].iter().copied().filter(|&id| id != BLANK).collect();
                assert_eq!(tokens.len(), 10);
                assert!(tokens.iter().all(|id| (2..12).contains(id)));
                assert_eq!(inputs[30..], [ASK; 10]);
                assert_eq!(targets[30..], tokens[..]);
                assert_eq!(targets[..30], [IGNORE; 30]);
            }
        }
    }

    #[test]
    fn only_the_selective_form_scatters_its_tokens() {
        let places = |selective| -> Vec<Vec<usize>> {
            let of = |seed| {
                let (inputs, _) = config(selective).generate(&mut Philox::new(seed, 0));
                (0..30).filter(|&t| inputs[t] != BLANK).collect()
            };
            (0..50).map(of).collect()
        };
        assert!(places(false).iter().all(|p| *p == (0..10).collect::<Vec<_>>()));
        let scattered = places(true);
        assert!(scattered.iter().filter(|p| **p == scattered[0]).count() < 5);
        assert!(scattered.iter().flatten().any(|&t| t == 29), "the last position before the asking is one of them");
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let error = |c: CopyingConfig| c.check().unwrap_err().to_string();
        assert!(
            error(CopyingConfig { num_tokens: 21, ..config(true) }).contains("selective_copying: input_seq_len = 40")
        );
        assert!(error(CopyingConfig { num_tokens: usize::MAX, ..config(false) }).contains("copying: input_seq_len"));
        assert!(error(CopyingConfig { vocab_size: 3, ..config(false) }).contains("vocab_size = 3"));
        assert!(error(CopyingConfig { num_tokens: 0, ..config(false) }).contains("num_tokens = 0"));
        assert!(error(CopyingConfig { num_examples: 0, ..config(false) }).contains("num_examples = 0"));
    }
}
