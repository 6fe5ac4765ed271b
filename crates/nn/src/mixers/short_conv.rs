//! Short convolutions: LFM2's gated one, and a plain depthwise one.
//!
//! Gated (LFM2, 2025): (B, C, x̃) = W_in x; y = W_out (C ⊙ conv(B ⊙ x̃)). Plain: y = conv(x).

use memwall_graph::ops::conv1d::{Conv1d, Conv1dStep};
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::conv1d::Conv1d as Kernel;
use serde::{Deserialize, Serialize};

use super::{Form, Mixer};
use crate::config::ConfigError;
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// A short convolution as a token mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortConvConfig {
    /// Taps W: a token sees itself and W − 1 before it.
    pub taps: usize,
    /// With the two gates and projections of LFM2.
    #[serde(default = "yes")]
    pub gated: bool,
}

fn yes() -> bool {
    true
}

impl ShortConvConfig {
    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        if (2..=8).contains(&self.taps) {
            return Ok(());
        }
        Err(ConfigError::at(format!("{key}.taps"), format!("is {}, 2 to 8 are supported", self.taps)))
    }
}

/// A depthwise causal convolution of x [N, D], its weight under `name.weight` [D, W], its bias under `name.bias`.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn depthwise(
    g: &mut Graph,
    name: &str,
    x: Value,
    taps: usize,
    bias: bool,
    silu: bool,
    seqs: &Sequences,
) -> Result<Value, GraphError> {
    let channels = g.shape(x).width().ok_or_else(|| g.refused("conv1d", "its input has no fixed width"))?;
    let weight = g.weight(&format!("{name}.weight"), [channels, taps], g.elem())?;
    let kernel = Kernel { channels, taps, silu };
    let bias = if bias { Some(g.weight(&format!("{name}.bias"), [channels], g.elem())?) } else { None };
    match &seqs.kept {
        Kept::Whole { cu_seqlens } => {
            let mut inputs = vec![x, *cu_seqlens, weight];
            inputs.extend(bias);
            g.push1(Conv1d { kernel }, &inputs)
        }
        Kept::Slots { rows, slots, .. } => {
            let state = g.state(&format!("{name}.state"), [rows.slots, taps - 1, channels], g.elem())?;
            let mut inputs = vec![state, x, *slots, weight];
            inputs.extend(bias);
            Ok(g.push(Conv1dStep { kernel }, &inputs)?[1])
        }
    }
}

impl Mixer for ShortConvConfig {
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
        let d = g.shape(x).width().ok_or_else(|| g.refused("conv1d", "a model has a fixed width"))?;
        if !self.gated {
            return depthwise(g, &format!("{name}.conv"), x, self.taps, false, false, seqs);
        }
        let all = linear(g, types, &format!("{name}.in_proj"), x, 3 * d, false)?;
        let [b, c, h] = [0, d, 2 * d].map(|from| g.push1(SliceLast { from, width: d }, &[all]));
        let (b, c, h) = (b?, c?, h?);
        let h = ops::mul(g, b, h)?;
        let h = depthwise(g, &format!("{name}.conv"), h, self.taps, false, false, seqs)?;
        let h = ops::mul(g, c, h)?;
        linear(g, types, &format!("{name}.out_proj"), h, d, false)
    }

    fn state_bytes(&self, d_model: usize, _: &str, _: usize, _: &Sequences) -> usize {
        (self.taps - 1) * d_model * 4
    }
}
