//! RWKV's channel mix: an MLP of a token-shifted input, which makes it a mixer of a token and the one before it.
//!
//! y = W_v relu(W_k x_k)², in RWKV-4, 5 and 6 times σ(W_r x_r).

use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value, ops};
use serde::{Deserialize, Serialize};

use super::token_shift::{self, TokenMix, TokenShift};
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// RWKV's channel mix of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RwkvChannelMixConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// The gate σ(W_r x_r), which RWKV-7 has no more.
    #[serde(default)]
    pub receptance: bool,
    /// What the weights of the token shift are the share of.
    #[serde(default)]
    pub mix: TokenMix,
}

impl RwkvChannelMixConfig {
    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let key = format!("{key}.hidden");
        if self.hidden == 0 {
            return Err(ConfigError::at(key, "is 0, at least 1 is needed"));
        }
        at_most(&key, self.hidden, MOST_WIDTH)
    }
}

impl Mixer for RwkvChannelMixConfig {
    fn causal(&self) -> bool {
        true
    }

    fn forms(&self) -> &'static [Form] {
        &[Form::Parallel, Form::Recurrent]
    }

    fn forward(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("channel mix", "a model has a fixed width"))?;
        let shift = TokenShift::new(g, name, x, self.mix, seqs)?;
        let x_k = shift.mixed(g, name, "k")?;
        let k = linear(g, types, &format!("{name}.key"), x_k, self.hidden, false)?;
        let k = ops::unary(g, Unary::Relu, k)?;
        let k = ops::unary(g, Unary::Square, k)?;
        let y = linear(g, types, &format!("{name}.value"), k, d_model, false)?;
        if !self.receptance {
            return Ok(y);
        }
        let x_r = shift.mixed(g, name, "r")?;
        let r = linear(g, types, &format!("{name}.receptance"), x_r, d_model, false)?;
        let r = ops::unary(g, Unary::Sigmoid, r)?;
        ops::mul(g, r, y)
    }

    fn state_bytes(&self, d_model: usize, _: &str, _: usize, _: &Sequences) -> usize {
        token_shift::state_bytes(d_model)
    }
}
