//! Mamba (Gu and Dao 2023): a selective scan between a gate and a short convolution.
//!
//! (x, z) = W_in h; x = silu(conv(x)); (Δ₀, B, C) = W_x x; Δ = softplus(W_Δ Δ₀ + b_Δ); y = scan(x, Δ, B, C) as in
//! [`memwall_kernels::selective_scan`] with A = −exp(A_log) and the skip D; out = W_out (y ⊙ silu(z)).

use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::selective_scan::{SelectiveScan, SelectiveScanStep};
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::{Graph, GraphError, Value, ops};
use serde::{Deserialize, Serialize};

use super::decay::DecayForm;
use super::short_conv::depthwise;
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// Mamba of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MambaConfig {
    /// Channels of the scan.
    pub inner: usize,
    /// States S of a channel.
    #[serde(default = "states")]
    pub state_size: usize,
    /// Width of the time steps' low-rank projection.
    pub dt_rank: usize,
    /// Taps of the convolution.
    #[serde(default = "taps")]
    pub conv: usize,
    /// Biases of the first and last projections.
    #[serde(default)]
    pub bias: bool,
    /// Bias of the convolution.
    #[serde(default = "yes")]
    pub conv_bias: bool,
    /// What the stored A_log stands for: GGUF has A itself, a log-decay of a time step of 1.
    #[serde(default)]
    pub decay: DecayForm,
}

fn states() -> usize {
    16
}
fn taps() -> usize {
    4
}
fn yes() -> bool {
    true
}

impl MambaConfig {
    /// Mamba in a model of width `d_model`: twice the channels, time steps from a sixteenth, all else as published.
    pub fn new(d_model: usize) -> MambaConfig {
        let (inner, dt_rank) = (2 * d_model, d_model.div_ceil(16));
        MambaConfig {
            inner,
            state_size: states(),
            dt_rank,
            conv: taps(),
            bias: false,
            conv_bias: true,
            decay: DecayForm::default(),
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        for (name, n) in [("inner", self.inner), ("state_size", self.state_size), ("dt_rank", self.dt_rank)] {
            if n == 0 {
                return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
            }
            at_most(&format!("{key}.{name}"), n, MOST_WIDTH / 2)?;
        }
        if !(2..=8).contains(&self.conv) {
            return Err(ConfigError::at(format!("{key}.conv"), format!("is {}, 2 to 8 taps are supported", self.conv)));
        }
        Ok(())
    }
}

impl Mixer for MambaConfig {
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
        let (inner, states) = (self.inner, self.state_size);
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("selective_scan", "a model has a fixed width"))?;
        let slice = |g: &mut Graph, x: Value, from: usize, width: usize| g.push1(SliceLast { from, width }, &[x]);
        let both = linear(g, types, &format!("{name}.in_proj"), x, 2 * inner, self.bias)?;
        let x = slice(g, both, 0, inner)?;
        let z = slice(g, both, inner, inner)?;
        let x = depthwise(g, &format!("{name}.conv1d"), x, self.conv, true, self.conv_bias, seqs)?;
        let all = linear(g, types, &format!("{name}.x_proj"), x, self.dt_rank + 2 * states, false)?;
        let delta = slice(g, all, 0, self.dt_rank)?;
        let b = slice(g, all, self.dt_rank, states)?;
        let c = slice(g, all, self.dt_rank + states, states)?;
        let delta = linear(g, types, &format!("{name}.dt_proj"), delta, inner, true)?;
        // softplus(x) = −logsigmoid(−x).
        let delta = ops::unary(g, Unary::Neg, delta)?;
        let delta = ops::unary(g, Unary::LogSigmoid, delta)?;
        let delta = ops::unary(g, Unary::Neg, delta)?;
        let a = g.weight(&format!("{name}.A_log"), [inner, states], g.elem())?;
        let a = self.decay.log(g, a)?;
        let skip = g.weight(&format!("{name}.D"), [inner], g.elem())?;
        let y = match &seqs.kept {
            Kept::Whole { cu_seqlens } => g.push(SelectiveScan, &[x, delta, a, b, c, skip, *cu_seqlens])?[0],
            Kept::Slots { rows, slots, .. } => {
                let state = g.state(&format!("{name}.state"), [rows.slots, states, inner], g.elem())?;
                g.push(SelectiveScanStep, &[state, x, delta, a, b, c, skip, *slots])?[1]
            }
        };
        seqs.set_memory(seqs.layer(), y);
        let z = ops::unary(g, Unary::Silu, z)?;
        let y = ops::mul(g, y, z)?;
        linear(g, types, &format!("{name}.out_proj"), y, d_model, self.bias)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        (self.state_size + self.conv - 1) * self.inner * 4
    }
}
