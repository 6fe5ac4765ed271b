//! Gated linear attention (Yang et al. 2023): a matrix state a head with a data-dependent forget gate.
//!
//! S_t = diag(α_t) S_{t−1} + k_t v_tᵀ, o_t = K^{−1/2} q_tᵀ S_t, with α = exp(logsigmoid(x W₁ W₂ + b) / τ);
//! y = (RMSNorm_head(o) ⊙ silu(x W_g)) W_o.

use memwall_graph::ops;
use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::gla::Gla as Kernel;
use serde::{Deserialize, Serialize};

use super::linear_memory::{Convolution, Layer, check_heads, check_taps, state_bytes};
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// Gated linear attention of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlaConfig {
    /// Query heads H.
    pub heads: usize,
    /// Heads of keys, values and gates; H if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// The gate; false is plain linear attention.
    #[serde(default = "yes")]
    pub gate: bool,
    /// Width of the gate's low-rank projection.
    #[serde(default = "low_rank")]
    pub gate_low_rank: usize,
    /// τ, by which log-gates are divided.
    #[serde(default = "tau")]
    pub gate_logit_normalizer: f64,
    /// Log-gates are at least this, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp_min: Option<f64>,
    /// The swish gate on the output.
    #[serde(default = "yes")]
    pub output_gate: bool,
    /// Depthwise convolutions of so many taps, with SiLU, on q, k and v.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_conv: Option<usize>,
    /// ε of the norm of the output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// The form that training uses; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<GlaForm>,
}

/// A form by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the forms' usual names
pub enum GlaForm {
    Parallel,
    Chunked,
    Recurrent,
}

fn yes() -> bool {
    true
}
fn low_rank() -> usize {
    16
}
fn tau() -> f64 {
    16.0
}
fn eps() -> f64 {
    1e-5
}

impl GlaConfig {
    /// `heads` heads of `key_width` and `value_width`, all else as published.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> GlaConfig {
        GlaConfig {
            heads,
            kv_heads: None,
            key_width,
            value_width,
            gate: true,
            gate_low_rank: low_rank(),
            gate_logit_normalizer: tau(),
            clamp_min: None,
            output_gate: true,
            short_conv: None,
            norm_eps: eps(),
            form: None,
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let widths = [("key_width", self.key_width), ("value_width", self.value_width)];
        check_heads(key, self.heads, ("kv_heads", self.kv_heads()), &widths)?;
        if self.gate_low_rank == 0 {
            return Err(ConfigError::at(format!("{key}.gate_low_rank"), "is 0, at least 1 is needed"));
        }
        at_most(&format!("{key}.gate_low_rank"), self.gate_low_rank, MOST_WIDTH)?;
        if self.gate_logit_normalizer.is_nan() || self.gate_logit_normalizer <= 0.0 {
            let problem = format!("is {}, a number above 0 is needed", self.gate_logit_normalizer);
            return Err(ConfigError::at(format!("{key}.gate_logit_normalizer"), problem));
        }
        check_taps(key, self.short_conv)
    }

    fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    fn kernel(&self, g: &Graph) -> Kernel {
        Kernel {
            kv_heads: self.kv_heads(),
            compute: g.compute(),
            ..Kernel::new(self.heads, self.key_width, self.value_width)
        }
    }
}

impl Mixer for GlaConfig {
    fn causal(&self) -> bool {
        true
    }

    fn forms(&self) -> &'static [Form] {
        &[Form::Parallel, Form::Chunked, Form::Recurrent]
    }

    fn forward(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let layer = Layer { types, name, x, seqs };
        let (hk, k_width) = (self.kv_heads(), self.key_width);
        let conv = self.short_conv.map(Convolution::silu);
        let q = layer.project(g, "q", [self.heads, k_width], conv)?;
        let k = layer.project(g, "k", [hk, k_width], conv)?;
        let v = layer.project(g, "v", [hk, self.value_width], conv)?;
        let gate = if self.gate {
            let low = linear(g, types, &format!("{name}.gk_proj.0"), x, self.gate_low_rank, false)?;
            let z = linear(g, types, &format!("{name}.gk_proj.1"), low, hk * k_width, true)?;
            let z = ops::unary(g, Unary::LogSigmoid, z)?;
            let mut z = ops::scale(g, z, 1.0 / self.gate_logit_normalizer)?;
            if let Some(least) = self.clamp_min {
                z = ops::unary(g, Unary::AtLeast(least), z)?;
            }
            Some((layer.heads(g, z, [hk, k_width])?, GateShape::Channel))
        } else {
            None
        };
        let o = layer.recall(g, self.kernel(g), self.form, [q, k, v], gate)?;
        layer.way_out(g, "g_norm", o, self.norm_eps, self.output_gate)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let convolved = self.heads * self.key_width + self.kv_heads() * (self.key_width + self.value_width);
        state_bytes([self.heads, self.key_width, self.value_width], convolved, self.short_conv)
    }
}
