//! Retention (RetNet, Sun et al. 2023): a matrix state a head that fades at a fixed rate of the head's own.
//!
//! S_t = γ_h S_{t−1} + k_t v_tᵀ, o_t = K^{−1/2} S_tᵀ q_t, γ_h = 1 − 2^{−5−h}, q and k turned by their
//! positions (the rotation of xPos; its decay is γ); y = (RMSNorm_head(o) ⊙ silu(x W_g)) W_o.
//!
//! Source: "Retentive Network: A Successor to Transformer for Large Language Models", arXiv 2307.08621,
//! section 2; norm and names as in fla-org/flash-linear-attention, `fla/layers/multiscale_retention.py`.

use memwall_graph::ops::fill::Fill;
use memwall_graph::ops::gla::GateShape;
use memwall_graph::{Graph, GraphError, Type, Value, ops};
use memwall_kernels::gla::Gla as Kernel;
use serde::{Deserialize, Serialize};

use super::gla::GlaForm;
use super::linear_memory::{Convolution, Layer, check_heads, check_taps, state_bytes};
use super::{Form, Mixer};
use crate::config::ConfigError;
use crate::rope::RopeConfig;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// Retention of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// Query heads H.
    pub heads: usize,
    /// Heads of keys and values; H if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// How q and k are turned by their positions; not at all if null.
    #[serde(default = "turned")]
    pub rope: Option<RopeConfig>,
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

fn yes() -> bool {
    true
}
fn turned() -> Option<RopeConfig> {
    Some(RopeConfig::default())
}
fn eps() -> f64 {
    1e-5
}

/// log γ_h of the heads.
fn log_decays(heads: usize) -> Vec<f64> {
    (0..heads).map(|h| (-(-5.0 - h as f64).exp2()).ln_1p()).collect()
}

impl RetentionConfig {
    /// `heads` heads of `key_width` and `value_width`, all else as published.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> RetentionConfig {
        RetentionConfig {
            heads,
            kv_heads: None,
            key_width,
            value_width,
            rope: turned(),
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
        check_taps(key, self.short_conv)?;
        match &self.rope {
            Some(rope) => rope.check(&format!("{key}.rope"), self.key_width),
            None => Ok(()),
        }
    }

    fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }
}

impl Mixer for RetentionConfig {
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
        let conv = self.short_conv.map(Convolution::silu);
        let (h, hk) = (self.heads, self.kv_heads());
        let mut q = layer.project(g, "q", [h, self.key_width], conv)?;
        let mut k = layer.project(g, "k", [hk, self.key_width], conv)?;
        let mut v = layer.project(g, "v", [hk, self.value_width], conv)?;
        if let Some(rope) = &self.rope {
            q = seqs.rotate(g, rope, self.key_width, q)?;
            k = seqs.rotate(g, rope, self.key_width, k)?;
        }
        if hk < h {
            // Heads that share keys fade at rates of their own.
            (k, v) = (ops::repeat_heads(g, k, h)?, ops::repeat_heads(g, v, h)?);
        }
        let decay = g.constant(&format!("{name}.log_decay"), [h], &log_decays(h))?;
        let rows = g.shape(x).dims()[0];
        let none = g.push1(Fill::new(Type::new([rows, h.into()], g.elem()), 0.0), &[])?;
        let decay = ops::add(g, none, decay)?;
        let kernel = Kernel { compute: g.compute(), ..Kernel::new(h, self.key_width, self.value_width) };
        let o = layer.recall(g, kernel, self.form, [q, k, v], Some((decay, GateShape::Head)))?;
        layer.way_out(g, "g_norm", o, self.norm_eps, self.output_gate)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let convolved = self.heads * self.key_width + self.kv_heads() * (self.key_width + self.value_width);
        state_bytes([self.heads, self.key_width, self.value_width], convolved, self.short_conv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_fade_as_published() {
        let decays: Vec<f64> = log_decays(3).into_iter().map(f64::exp).collect();
        for (got, want) in decays.iter().zip([31.0 / 32.0, 63.0 / 64.0, 127.0 / 128.0]) {
            assert!((got - want).abs() < 1e-15, "{got}");
        }
    }
}
