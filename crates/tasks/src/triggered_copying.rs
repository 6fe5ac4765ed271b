//! Copying with sparse triggers: a sequence has one token to keep, and few positions that ask for it.
//!
//! Elsewhere the answer follows from the token itself, so attention has nothing to add and must rest somewhere: on the first
//! token, unless a gate can close it. The setting in which attention sinks are looked for; after the Bigram-Backcopy task of
//! "Active-Dormant Attention Heads" (Guo et al., 2024, arXiv 2410.13835), without positions in what is asked.

use crate::check::Check;
use crate::draw::distinct;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::{ConfigError, IGNORE};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The id at the start of each sequence.
const BOS: i32 = 0;
/// The id that asks for the kept token.
const TRIGGER: i32 = 1;
/// The first id of tokens to keep.
const FIRST: i32 = 2;

/// A setting of copying with triggers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggeredCopyingConfig {
    /// V, ids: start 0, trigger 1; half of the others are tokens to keep, the rest background.
    pub vocab_size: usize,
    /// T, positions: the start, background, one token to keep in the first quarter, triggers behind it.
    pub input_seq_len: usize,
    /// Examples of the segment.
    pub num_examples: u64,
    /// Triggers of a sequence.
    pub num_triggers: usize,
    /// Only triggers are asked; else at each background token its successor too.
    #[serde(default)]
    pub only_triggers: bool,
}

impl TriggeredCopyingConfig {
    /// The first id of background tokens.
    fn background(&self) -> i32 {
        FIRST + (self.vocab_size as i32 - FIRST) / 2
    }

    /// The last position that the token to keep can have.
    fn quarter(&self) -> usize {
        self.input_seq_len / 4
    }
}

impl Generator for TriggeredCopyingConfig {
    fn name(&self) -> &'static str {
        "triggered_copying"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        let (v, t, n) = (self.vocab_size, self.input_seq_len, self.num_triggers);
        check.that(self.num_examples > 0, "num_examples", self.num_examples, || "it must be at least 1".into())?;
        check.that(v >= 6, "vocab_size", v, || "it must be at least 6: start, trigger, two and two tokens".into())?;
        check.that(i32::try_from(v).is_ok(), "vocab_size", v, || format!("ids must stay below {}", i32::MAX))?;
        check.that(t >= 8, "input_seq_len", t, || "it must be at least 8".into())?;
        check.that(n > 0, "num_triggers", n, || "it must be at least 1".into())?;
        check.that(n < t - self.quarter(), "num_triggers", n, || {
            format!("they stand behind the first quarter of {t} positions: at most {}", t - self.quarter() - 1)
        })
    }

    fn num_examples(&self) -> u64 {
        self.num_examples
    }

    fn input_seq_len(&self) -> usize {
        self.input_seq_len
    }

    fn asked(&self) -> usize {
        if self.only_triggers { self.num_triggers } else { self.input_seq_len - 2 }
    }

    fn values(&self) -> Range<i32> {
        FIRST..self.vocab_size as i32
    }

    fn generate(&self, rng: &mut Philox) -> Generated {
        let (time, quarter, background) = (self.input_seq_len, self.quarter(), self.background());
        let among = |rng: &mut Philox, ids: Range<i32>| ids.start + rng.below(ids.len() as u64) as i32;
        let mut inputs: Vec<i32> = (0..time).map(|_| among(rng, background..self.vocab_size as i32)).collect();
        inputs[0] = BOS;
        let place = 1 + rng.below(quarter as u64) as usize;
        inputs[place] = among(rng, FIRST..background);
        for after in distinct(rng, time - quarter - 1, self.num_triggers) {
            inputs[quarter + 1 + after] = TRIGGER;
        }
        let mut targets = self.answer(&inputs);
        for (&input, target) in inputs.iter().zip(&mut targets) {
            let asked = if self.only_triggers { input == TRIGGER } else { input == TRIGGER || input >= background };
            if !asked {
                *target = IGNORE;
            }
        }
        (inputs, targets)
    }

    fn answer(&self, inputs: &[i32]) -> Vec<i32> {
        let (background, end) = (self.background(), self.vocab_size as i32);
        let kept = inputs.iter().copied().find(|id| (FIRST..background).contains(id)).unwrap_or(FIRST);
        let successor = |id: i32| if id + 1 < end { id + 1 } else { background };
        inputs.iter().map(|&id| if id >= background { successor(id) } else { kept }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(only_triggers: bool) -> TriggeredCopyingConfig {
        TriggeredCopyingConfig { vocab_size: 22, input_seq_len: 32, num_examples: 10, num_triggers: 3, only_triggers }
    }

    #[test]
    fn triggers_ask_for_the_kept_token_and_background_for_its_successor() {
        for only_triggers in [false, true] {
            let config = config(only_triggers);
            for seed in 0..50 {
                let (inputs, targets) = config.generate(&mut Philox::new(seed, 0));
                let kept: Vec<usize> = (0..32).filter(|&t| (2..12).contains(&inputs[t])).collect();
                assert!(inputs[0] == 0 && kept.len() == 1 && (1..=8).contains(&kept[0]), "{inputs:?}");
                let triggers: Vec<usize> = (0..32).filter(|&t| inputs[t] == 1).collect();
                assert!(triggers.len() == 3 && triggers[0] > 8, "{inputs:?}");
                assert_eq!(targets.iter().filter(|&&id| id != IGNORE).count(), config.asked());
                for t in 0..32 {
                    let want = match inputs[t] {
                        1 => inputs[kept[0]],
                        21 if !only_triggers => 12,
                        id if id >= 12 && !only_triggers => id + 1,
                        _ => IGNORE,
                    };
                    assert_eq!(targets[t], want, "position {t} of {inputs:?}");
                }
            }
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let error = |c: TriggeredCopyingConfig| c.check().unwrap_err().to_string();
        assert!(error(TriggeredCopyingConfig { vocab_size: 5, ..config(false) }).contains("vocab_size = 5"));
        assert!(error(TriggeredCopyingConfig { input_seq_len: 7, ..config(false) }).contains("input_seq_len = 7"));
        assert!(error(TriggeredCopyingConfig { num_triggers: 24, ..config(false) }).contains("at most 23"));
        assert!(error(TriggeredCopyingConfig { num_triggers: 0, ..config(false) }).contains("num_triggers = 0"));
        assert!(error(TriggeredCopyingConfig { num_examples: 0, ..config(false) }).contains("num_examples = 0"));
    }
}
