//! RWKV-4's time mix (Peng et al. 2023): a weighted mean of the past's values, channel by channel.
//!
//! r, k, v are projections of token-shifted inputs; y = W_o (σ(r) ⊙ wkv(k, v)), wkv as in
//! [`memwall_kernels::wkv4`] with log-decays −exp(time_decay) and the bonus time_first.

use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::wkv4::{Wkv4, Wkv4Step};
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::wkv4::STATE_ROWS;
use serde::{Deserialize, Serialize};

use super::decay::DecayForm;
use super::token_shift::{self, TokenMix, TokenShift};
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// RWKV-4's time mix of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rwkv4Config {
    /// Channels of keys and values.
    pub width: usize,
    /// What the stored decays stand for.
    #[serde(default)]
    pub decay: DecayForm,
}

impl Rwkv4Config {
    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let key = format!("{key}.width");
        if self.width == 0 {
            return Err(ConfigError::at(key, "is 0, at least 1 is needed"));
        }
        at_most(&key, self.width, MOST_WIDTH)
    }
}

impl Mixer for Rwkv4Config {
    fn causal(&self) -> bool {
        true
    }

    fn forms(&self) -> &'static [Form] {
        &[Form::Recurrent]
    }

    fn forward(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("wkv4", "a model has a fixed width"))?;
        let shift = TokenShift::new(g, name, x, TokenMix::Current, seqs)?;
        let project = |g: &mut Graph, mix: &str, part: &str| {
            let x = shift.mixed(g, name, mix)?;
            linear(g, types, &format!("{name}.{part}"), x, self.width, false)
        };
        let r = project(g, "r", "receptance")?;
        let k = project(g, "k", "key")?;
        let v = project(g, "v", "value")?;
        let r = ops::unary(g, Unary::Sigmoid, r)?;
        let w = g.weight(&format!("{name}.time_decay"), [self.width], g.elem())?;
        let w = self.decay.log(g, w)?;
        let u = g.weight(&format!("{name}.time_first"), [self.width], g.elem())?;
        let y = match &seqs.kept {
            Kept::Whole { cu_seqlens } => g.push(Wkv4, &[w, u, k, v, *cu_seqlens])?[0],
            Kept::Slots { rows, slots, .. } => {
                let state = g.state(&format!("{name}.state"), [rows.slots, STATE_ROWS, self.width], g.elem())?;
                g.push(Wkv4Step, &[state, w, u, k, v, *slots])?[1]
            }
        };
        let y = ops::mul(g, r, y)?;
        linear(g, types, &format!("{name}.output"), y, d_model, false)
    }

    fn state_bytes(&self, d_model: usize, _: &str, _: usize, _: &Sequences) -> usize {
        STATE_ROWS * self.width * 4 + token_shift::state_bytes(d_model)
    }
}
