//! Attention at few tokens, chosen from the input: what lets a convolution recall for little more than its own cost.
//!
//! y = s ⊙ attention(x) + x, with s_t = σ(w · x_t + b) in training, and |s| kept near L of T tokens by a penalty,
//! 0.001 relu(mean of s − L / T). For inference s is kept where it is above a threshold, which is a causal rule: queries of
//! other rows are not computed. The published rule, the ⌈√T⌉ best of a sequence, sees the whole sequence and is for evaluation
//! only. Or nothing is learned, and tokens that stood earlier in the sequence look up their past. "Zoology" (Arora et al., 2023,
//! arXiv 2312.04927), section 5 and the authors' code.

use memwall_formats::Dtype;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::selection::{Keep, SeenBefore, SeenBeforeStep, Selection, TooManyLookups};
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::gemm::Compute;
use serde::{Deserialize, Serialize};

use super::attention::AttentionConfig;
use super::{Form, Mixer};
use crate::config::ConfigError;
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// Attention at tokens that are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectiveAttentionConfig {
    /// The attention: all of its keys but `window`, `differential` and `kv_source`.
    pub attention: AttentionConfig,
    /// Which tokens are chosen.
    #[serde(default)]
    pub select: Select,
    /// For `threshold`: the score above which a token is chosen, 0 to 1.
    #[serde(default = "threshold")]
    pub threshold: f64,
    /// L, tokens of a sequence that may be chosen: the penalty's bound, and the number of the best; √T if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookups: Option<usize>,
    /// What the penalty is multiplied by; 0 for none.
    #[serde(default = "penalty")]
    pub penalty: f64,
}

/// Which tokens are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// All, each to the degree of its score: what is trained.
    #[default]
    Soft,
    /// Those whose score is above the threshold.
    Threshold,
    /// The best of a whole sequence: not causal, so for evaluation only.
    BestOfSequence,
    /// Those that stood earlier in the sequence; nothing is learned.
    SeenBefore,
}

fn threshold() -> f64 {
    0.5
}

fn penalty() -> f64 {
    0.001
}

impl SelectiveAttentionConfig {
    /// That attention at tokens that `select` chooses, other settings as published.
    pub fn new(attention: AttentionConfig, select: Select) -> SelectiveAttentionConfig {
        SelectiveAttentionConfig { attention, select, threshold: threshold(), lookups: None, penalty: penalty() }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        self.attention.check(&format!("{key}.attention"))?;
        let given = [
            ("window", self.attention.window.is_some()),
            ("differential", self.attention.differential.is_some()),
            ("kv_source", self.attention.kv_source.is_some()),
        ];
        if let Some((name, _)) = given.into_iter().find(|(_, given)| *given) {
            let key = format!("{key}.attention.{name}");
            return Err(ConfigError::at(key, "cannot be had with a selection; leave it out"));
        }
        if !(0.0..1.0).contains(&self.threshold) {
            let problem = format!("is {}, a number from 0 on and below 1 is needed", self.threshold);
            return Err(ConfigError::at(format!("{key}.threshold"), problem));
        }
        if self.lookups == Some(0) {
            return Err(ConfigError::at(format!("{key}.lookups"), "is 0, at least 1 is needed"));
        }
        if !(self.penalty >= 0.0 && self.penalty.is_finite()) {
            let problem = format!("is {}, a number from 0 on is needed", self.penalty);
            return Err(ConfigError::at(format!("{key}.penalty"), problem));
        }
        Ok(())
    }

    /// The scores [N, 1] of rows; 0 where a row is not chosen.
    fn scores(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        if self.select == Select::SeenBefore {
            return match &seqs.kept {
                Kept::Whole { cu_seqlens } => g.push1(SeenBefore { elem: g.elem() }, &[seqs.ids, *cu_seqlens]),
                Kept::Slots { rows, .. } => {
                    let kept = g.state(&format!("{name}.ids"), [rows.slots, rows.context], Dtype::I32)?;
                    Ok(g.push(SeenBeforeStep, &[kept, seqs.ids, rows.rows])?[1])
                }
            };
        }
        let s = linear(g, types, &format!("{name}.select_proj"), x, 1, true)?;
        let s = ops::unary(g, Unary::Sigmoid, s)?;
        if let (Kept::Whole { cu_seqlens }, true) = (&seqs.kept, self.penalty > 0.0) {
            let beyond = g.push1(TooManyLookups { lookups: self.lookups }, &[s, *cu_seqlens])?;
            let loss = ops::scale(g, beyond, self.penalty)?;
            seqs.add_loss(loss);
        }
        match (self.select, &seqs.kept) {
            (Select::Threshold, _) => g.push1(Selection { keep: Keep::Above(self.threshold) }, &[s]),
            (Select::BestOfSequence, Kept::Whole { cu_seqlens }) => {
                g.push1(Selection { keep: Keep::Best(self.lookups) }, &[s, *cu_seqlens])
            }
            (Select::BestOfSequence, Kept::Slots { .. }) => Err(g.refused(
                "selection",
                "select is best_of_sequence, which sees the whole sequence; use threshold where tokens come one by one",
            )),
            _ => Ok(s),
        }
    }
}

impl Mixer for SelectiveAttentionConfig {
    fn causal(&self) -> bool {
        self.select != Select::BestOfSequence
    }

    fn forms(&self) -> &'static [Form] {
        if self.causal() { &[Form::Parallel, Form::Recurrent] } else { &[Form::Parallel] }
    }

    fn forward(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let s = self.scores(g, types, name, x, seqs)?;
        let chosen = (self.select != Select::Soft).then_some(s);
        let y = seqs.looking_up(chosen, || self.attention.forward(g, types, name, x, seqs))?;
        let y = ops::mul(g, y, s)?;
        ops::add(g, y, x)
    }

    fn state_bytes(&self, _: usize, name: &str, tokens: usize, seqs: &Sequences) -> usize {
        let ids = if self.select == Select::SeenBefore { 4 * tokens } else { 0 };
        ids + seqs.kv_bytes(name, &self.attention.kernel(Compute::F32), tokens)
    }
}
