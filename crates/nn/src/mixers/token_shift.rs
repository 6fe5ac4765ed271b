//! RWKV's token shift: what a token and the one before it hold, mixed channel by channel.
//!
//! The token before the first of a sequence is zero. It is the convolution of two taps with weights 1 and 0, so a
//! sequence's state is its last token.

use memwall_graph::ops::conv1d::{Conv1d, Conv1dStep};
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::conv1d::Conv1d as Kernel;
use serde::{Deserialize, Serialize};

use crate::sequences::{Kept, Sequences};

/// Which of the two tokens a weight of the mix is the share of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenMix {
    /// The token itself: x μ + x′ (1 − μ), as RWKV-4 and RWKV-5; the weights are named `time_mix_*`.
    Current,
    /// The token before it: x + (x′ − x) μ, as from RWKV-6 on; the weights are named `x_*`.
    #[default]
    Previous,
}

impl TokenMix {
    /// The name of the weight that mixes for `part` of the layer `name`.
    pub(super) fn weight(self, name: &str, part: &str) -> String {
        match self {
            TokenMix::Current => format!("{name}.time_mix_{part}"),
            TokenMix::Previous => format!("{name}.x_{part}"),
        }
    }
}

/// A token and the one before it, in one layer.
pub(super) struct TokenShift {
    /// What is mixed with a share of 0.
    base: Value,
    /// What a share of 1 adds to it.
    difference: Value,
    mix: TokenMix,
}

/// Bytes of state that a layer of width `d_model` keeps of a sequence: its last token.
pub(super) fn state_bytes(d_model: usize) -> usize {
    d_model * 4
}

impl TokenShift {
    /// The tokens x [N, D] and those before them.
    pub(super) fn new(
        g: &mut Graph,
        name: &str,
        x: Value,
        mix: TokenMix,
        seqs: &Sequences,
    ) -> Result<TokenShift, GraphError> {
        let channels = g.shape(x).width().ok_or_else(|| g.refused("token shift", "a model has a fixed width"))?;
        let taps: Vec<f64> = (0..2 * channels).map(|i| if i % 2 == 0 { 1.0 } else { 0.0 }).collect();
        let weight = g.constant(&format!("{name}.shift"), [channels, 2], &taps)?;
        let kernel = Kernel { channels, taps: 2, silu: false };
        let before = match &seqs.kept {
            Kept::Whole { cu_seqlens } => g.push1(Conv1d { kernel }, &[x, *cu_seqlens, weight])?,
            Kept::Slots { rows, slots, .. } => {
                let state = g.state(&format!("{name}.shift.state"), [rows.slots, 1, channels], g.elem())?;
                g.push(Conv1dStep { kernel }, &[state, x, *slots, weight])?[1]
            }
        };
        let (base, other) = match mix {
            TokenMix::Current => (before, x),
            TokenMix::Previous => (x, before),
        };
        let difference = ops::sub(g, other, base)?;
        Ok(TokenShift { base, difference, mix })
    }

    /// Mixed by the shares [N, D] or `[D]`.
    pub(super) fn by(&self, g: &mut Graph, share: Value) -> Result<Value, GraphError> {
        let part = ops::mul(g, self.difference, share)?;
        ops::add(g, self.base, part)
    }

    /// Mixed by the weight of the layer `name` for `part`.
    pub(super) fn mixed(&self, g: &mut Graph, name: &str, part: &str) -> Result<Value, GraphError> {
        let channels =
            g.shape(self.base).width().ok_or_else(|| g.refused("token shift", "a model has a fixed width"))?;
        let share = g.weight(&self.mix.weight(name, part), [channels], g.elem())?;
        self.by(g, share)
    }
}
