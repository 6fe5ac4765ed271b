//! Linear attention: attention whose scores are products of features, so that a matrix state holds the past.
//!
//! S_t = S_{t−1} + φ(k_t) v_tᵀ, o_t = S_tᵀ φ(q_t), divided by φ(q_t) · Σ φ(k) if normalized.
//!
//! Source: "Transformers are RNNs" (Katharopoulos et al. 2020), arXiv 2006.16236, with elu + 1; Based
//! (Arora et al. 2024), arXiv 2402.18668, with the Taylor map.

use memwall_graph::ops::feature_map::Taylor;
use memwall_graph::ops::normalizer::{AppendOne, Normalize};
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::softmax::Softmax;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::feature_map::taylor_width;
use memwall_kernels::gla::Gla as Kernel;
use serde::{Deserialize, Serialize};

use super::gla::GlaForm;
use super::linear_memory::{Convolution, Layer, check_heads, check_taps, state_bytes};
use super::{Form, Mixer};
use crate::config::{ConfigError, at_most};
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// Linear attention of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearAttentionConfig {
    /// Query heads H.
    pub heads: usize,
    /// Heads of keys and values; H if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Key width K of a head, before the feature map.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// φ.
    #[serde(default)]
    pub feature_map: FeatureMap,
    /// Divides what is read by the sum of the keys' features; the map must not be negative.
    #[serde(default)]
    pub normalize: bool,
    /// RMS norm of each head of the output.
    #[serde(default = "yes")]
    pub output_norm: bool,
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

/// A feature map φ of queries and keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMap {
    /// x.
    #[default]
    Identity,
    /// elu(x) + 1.
    Elu,
    /// max(x, 0).
    Relu,
    /// e^x.
    Exp,
    /// Softmax over the channels of a head.
    Softmax,
    /// [1, x / K^{1/4}, vec(x xᵀ) / (√2 √K)]: products of features are 1 + s + s²/2.
    Taylor,
}

/// What is added to the sum of keys before division.
const SUM_EPS: f64 = 1e-10;
/// The widest row of features.
const MOST_FEATURES: usize = 1 << 14;

fn yes() -> bool {
    true
}
fn eps() -> f64 {
    1e-5
}

impl FeatureMap {
    /// Features of a row of `width`.
    fn width(self, width: usize) -> usize {
        if self == FeatureMap::Taylor { taylor_width(width) } else { width }
    }

    fn apply(self, g: &mut Graph, x: Value) -> Result<Value, GraphError> {
        match self {
            FeatureMap::Identity => Ok(x),
            FeatureMap::Elu => {
                // e^min(x, 0) + max(x, 0).
                let above = ops::unary(g, Unary::Relu, x)?;
                let below = ops::sub(g, x, above)?;
                let below = ops::unary(g, Unary::Exp, below)?;
                ops::add(g, below, above)
            }
            FeatureMap::Relu => ops::unary(g, Unary::Relu, x),
            FeatureMap::Exp => ops::unary(g, Unary::Exp, x),
            FeatureMap::Softmax => g.push1(Softmax, &[x]),
            FeatureMap::Taylor => g.push1(Taylor, &[x]),
        }
    }
}

impl LinearAttentionConfig {
    /// `heads` heads of `key_width` and `value_width`: no feature map, no division, a norm of the output.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> LinearAttentionConfig {
        LinearAttentionConfig {
            heads,
            kv_heads: None,
            key_width,
            value_width,
            feature_map: FeatureMap::default(),
            normalize: false,
            output_norm: true,
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
        if self.feature_map == FeatureMap::Taylor {
            // Below the square root of the most features: their number can be computed.
            at_most(&format!("{key}.key_width"), self.key_width, 126)?;
        }
        let features = self.features();
        at_most(&format!("{key}.key_width"), features, MOST_FEATURES)?;
        let widths = [("key_width", features), ("value_width", self.value_width)];
        if self.key_width == 0 {
            return Err(ConfigError::at(format!("{key}.key_width"), "is 0, at least 1 is needed"));
        }
        check_heads(key, self.heads, ("kv_heads", self.kv_heads()), &widths)?;
        check_taps(key, self.short_conv)?;
        if self.normalize && self.feature_map == FeatureMap::Identity {
            let problem =
                "divides by a sum that may be 0 or negative: use the feature map elu, relu, exp, softmax or taylor";
            return Err(ConfigError::at(format!("{key}.normalize"), problem));
        }
        Ok(())
    }

    fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    fn features(&self) -> usize {
        self.feature_map.width(self.key_width)
    }

    /// Values of a state: with the sum of keys if that is needed.
    fn kept_width(&self) -> usize {
        self.value_width + usize::from(self.normalize)
    }
}

impl Mixer for LinearAttentionConfig {
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
        let q = layer.project(g, "q", [h, self.key_width], conv)?;
        let k = layer.project(g, "k", [hk, self.key_width], conv)?;
        let mut v = layer.project(g, "v", [hk, self.value_width], conv)?;
        let (q, k) = (self.feature_map.apply(g, q)?, self.feature_map.apply(g, k)?);
        if self.normalize {
            v = g.push1(AppendOne, &[v])?;
        }
        // The Taylor map has its scale inside; the others read with K^{−1/2}.
        let scale = if self.feature_map == FeatureMap::Taylor { 1.0 } else { (self.key_width as f64).powf(-0.5) };
        let kernel =
            Kernel { kv_heads: hk, compute: g.compute(), scale, ..Kernel::new(h, self.features(), self.kept_width()) };
        let mut o = layer.recall(g, kernel, self.form, [q, k, v], None)?;
        if self.normalize {
            o = g.push1(Normalize { eps: SUM_EPS }, &[o])?;
        }
        if self.output_norm {
            return layer.way_out(g, "norm", o, self.norm_eps, false);
        }
        let o = layer.joined(g, o)?;
        layer.back(g, o)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let convolved = self.heads * self.key_width + self.kv_heads() * (self.key_width + self.value_width);
        state_bytes([self.heads, self.features(), self.kept_width()], convolved, self.short_conv)
    }
}
