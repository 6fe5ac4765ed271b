//! BaseConv: the simplest gated convolution, whose filter does not depend on what it reads.
//!
//! y = conv(u) ⊙ (W u + b) + u. conv is short: taps of its own for each channel, with a bias; or long and implicit:
//! conv(u)_t = Σ_{s ≤ t} h_{t−s} ⊙ u_s + u_t, the filter h [L, D] made by a small network from the place in time,
//! h_l = W_2 silu(W_1 [l / (L − 1), cos(2π l / L), sin(2π l / L)] + b_1) + b_2. What a long convolution has read it must keep:
//! between steps the inputs of all tokens. "Zoology" (Arora et al., 2023, arXiv 2312.04927), section 4.

use memwall_graph::ops::cache_write::CacheWrite;
use memwall_graph::ops::long_conv::{LongConv, LongConvStep};
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value, ops};
use serde::{Deserialize, Serialize};

use super::short_conv::depthwise;
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// BaseConv as a token mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseConvConfig {
    /// Taps W of a short convolution: a token sees itself and W − 1 before it. Not read by a long one.
    #[serde(default = "taps")]
    pub taps: usize,
    /// The filter of a long convolution, in place of a short one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub implicit_long_conv: Option<ImplicitFilterConfig>,
}

/// A filter that a small network makes from the place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImplicitFilterConfig {
    /// L: no sequence can be longer.
    pub l_max: usize,
    /// Width of the network's hidden layer.
    #[serde(default = "hidden")]
    pub hidden: usize,
}

fn taps() -> usize {
    3
}

fn hidden() -> usize {
    16
}

/// What the network reads: the place in time, its cosine and its sine.
const FEATURES: usize = 3;

impl BaseConvConfig {
    /// A short convolution of `taps`.
    pub fn short(taps: usize) -> BaseConvConfig {
        BaseConvConfig { taps, implicit_long_conv: None }
    }

    /// A long convolution for sequences of up to `l_max` tokens, its network as wide as published.
    pub fn long(l_max: usize) -> BaseConvConfig {
        BaseConvConfig { taps: taps(), implicit_long_conv: Some(ImplicitFilterConfig { l_max, hidden: hidden() }) }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        if !(2..=8).contains(&self.taps) {
            return Err(ConfigError::at(format!("{key}.taps"), format!("is {}, 2 to 8 are supported", self.taps)));
        }
        let Some(filter) = &self.implicit_long_conv else { return Ok(()) };
        for (name, n) in [("l_max", filter.l_max), ("hidden", filter.hidden)] {
            let key = format!("{key}.implicit_long_conv.{name}");
            if n == 0 {
                return Err(ConfigError::at(key, "is 0, at least 1 is needed"));
            }
            at_most(&key, n, MOST_WIDTH)?;
        }
        Ok(())
    }
}

impl ImplicitFilterConfig {
    /// h [L, D].
    fn filter(&self, g: &mut Graph, types: &WeightTypes, name: &str, d: usize) -> Result<Value, GraphError> {
        let last = (self.l_max.max(2) - 1) as f64;
        let features: Vec<f64> = (0..self.l_max)
            .flat_map(|l| {
                let turn = std::f64::consts::TAU * l as f64 / self.l_max as f64;
                [l as f64 / last, turn.cos(), turn.sin()]
            })
            .collect();
        let features = g.constant(&format!("{name}.features"), [self.l_max, FEATURES], &features)?;
        let h = linear(g, types, &format!("{name}.up_proj"), features, self.hidden, true)?;
        let h = ops::unary(g, Unary::Silu, h)?;
        linear(g, types, &format!("{name}.down_proj"), h, d, true)
    }

    /// Σ_{s ≤ t} h_{t−s} ⊙ u_s + u_t.
    fn convolve(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        u: Value,
        d: usize,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let filter = self.filter(g, types, &format!("{name}.filter"), d)?;
        let y = match &seqs.kept {
            Kept::Whole { cu_seqlens } => g.push1(LongConv, &[u, *cu_seqlens, filter])?,
            Kept::Slots { rows, .. } => {
                if rows.context > self.l_max {
                    let problem = format!("a context of {} tokens; l_max is {}", rows.context, self.l_max);
                    return Err(g.refused("long_conv", problem));
                }
                let past = g.state(&format!("{name}.inputs"), [rows.slots, rows.context, d], g.elem())?;
                let past = g.push1(CacheWrite, &[past, u, rows.rows])?;
                g.push1(LongConvStep, &[past, filter, rows.rows])?
            }
        };
        ops::add(g, y, u)
    }
}

impl Mixer for BaseConvConfig {
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
        u: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let d = g.shape(u).width().ok_or_else(|| g.refused("long_conv", "a model has a fixed width"))?;
        let conv = format!("{name}.conv");
        let mixed = match &self.implicit_long_conv {
            Some(filter) => filter.convolve(g, types, &conv, u, d, seqs)?,
            None => depthwise(g, &conv, u, self.taps, false, true, seqs)?,
        };
        let gate = linear(g, types, &format!("{name}.projection"), u, d, true)?;
        let y = ops::mul(g, mixed, gate)?;
        ops::add(g, y, u)
    }

    fn state_bytes(&self, d_model: usize, _: &str, tokens: usize, _: &Sequences) -> usize {
        let kept = if self.implicit_long_conv.is_some() { tokens } else { self.taps - 1 };
        kept * d_model * 4
    }
}
