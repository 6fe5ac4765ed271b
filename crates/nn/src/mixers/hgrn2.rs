//! HGRN2 (Qin et al. 2024): a gated linear memory whose keys are what its forget gates leave, k = 1 − f.
//!
//! f = b + (1 − b) σ(W_f x), k = 1 − f, q = silu(W_q x), S_t = diag(f_t) S_{t−1} + k_t (W_i x_t)ᵀ,
//! o_t = K^{−1/2} S_tᵀ q_t; y = RMSNorm(o) W_o, the norm over all heads. The lower bounds b of the layers
//! rise from 0: b_i = Σ_{1 ≤ j ≤ i} softmax_j(Λ), Λ [L, H · K] one weight of the whole model.
//!
//! Source: "HGRN2: Gated Linear RNNs with State Expansion", arXiv 2404.07904; names as in
//! fla-org/flash-linear-attention, `fla/models/hgrn2`.

use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::matmul::MatMul;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::softmax::Softmax;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::gemm::Compute;
use memwall_kernels::gla::Gla as Kernel;
use serde::{Deserialize, Serialize};

use super::gla::GlaForm;
use super::linear_memory::{Convolution, Layer, check_heads, check_taps, state_bytes};
use super::{Form, Mixer};
use crate::config::{ConfigError, at_most};
use crate::layers::rms_norm;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// HGRN2 of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hgrn2Config {
    /// Heads H.
    pub heads: usize,
    /// Width K of the forget gates, and so of the keys, of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// The lower bound of the forget gates; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_bound: Option<LowerBound>,
    /// Depthwise convolutions of so many taps on what q, f and the values are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_conv: Option<usize>,
    /// ε of the norm of the output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// The form that training uses; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<GlaForm>,
}

/// Which of the model's lower bounds a layer has: the weight `model.lower_bounds` [layers, H · K].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowerBound {
    /// The row, from 0; that of row 0 is 0.
    pub layer: usize,
    /// Rows.
    pub layers: usize,
}

/// Name of the weight that all layers share.
const LOWER_BOUNDS: &str = "model.lower_bounds";
/// Forget gates are at least this, so that their logarithms are numbers.
const LEAST: f64 = 1e-30;
/// The most layers that can share bounds.
const MOST_LAYERS: usize = 1 << 8;

fn eps() -> f64 {
    1e-5
}

impl Hgrn2Config {
    /// `heads` heads of `key_width` and `value_width`, without lower bounds.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> Hgrn2Config {
        Hgrn2Config { heads, key_width, value_width, lower_bound: None, short_conv: None, norm_eps: eps(), form: None }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let widths = [("key_width", self.key_width), ("value_width", self.value_width)];
        check_heads(key, self.heads, ("heads", self.heads), &widths)?;
        check_taps(key, self.short_conv)?;
        let Some(LowerBound { layer, layers }) = self.lower_bound else { return Ok(()) };
        at_most(&format!("{key}.lower_bound.layers"), layers, MOST_LAYERS)?;
        if layer < layers {
            return Ok(());
        }
        let problem = format!("is {layer}; there are lower_bound.layers {layers}, counted from 0");
        Err(ConfigError::at(format!("{key}.lower_bound.layer"), problem))
    }

    /// The lower bounds `[H · K]` of a layer after the first.
    fn bound(&self, g: &mut Graph, name: &str, bound: LowerBound) -> Result<Value, GraphError> {
        let (layers, width) = (bound.layers, self.heads * self.key_width);
        let all = g.weight(LOWER_BOUNDS, [layers, width], g.elem())?;
        // The softmax runs over layers: of the transpose, which is a product with the unit matrix.
        let unit: Vec<f64> = (0..layers * layers).map(|i| f64::from(u8::from(i / layers == i % layers))).collect();
        let unit = g.constant(&format!("{name}.unit"), [layers, layers], &unit)?;
        let of_layers = MatMul { a_trans: true, b_trans: false, compute: Compute::F32 };
        let all = g.push1(of_layers, &[all, unit])?;
        let shares = g.push1(Softmax, &[all])?;
        let summed: Vec<f64> = (0..layers).map(|j| f64::from(u8::from(j >= 1 && j <= bound.layer))).collect();
        let summed = g.constant(&format!("{name}.layers_before"), [layers, 1], &summed)?;
        let b = g.push1(MatMul { a_trans: false, b_trans: false, compute: Compute::F32 }, &[shares, summed])?;
        ops::reshape(g, b, [width])
    }

    /// log f and k = 1 − f, both [N, H · K], from W_f x.
    fn gates(&self, g: &mut Graph, name: &str, z: Value) -> Result<[Value; 2], GraphError> {
        let minus = ops::unary(g, Unary::Neg, z)?;
        let rest = ops::unary(g, Unary::Sigmoid, minus)?;
        let Some(bound) = self.lower_bound.filter(|bound| bound.layer > 0) else {
            return Ok([ops::unary(g, Unary::LogSigmoid, z)?, rest]);
        };
        let b = self.bound(g, name, bound)?;
        let room = ops::unary(g, Unary::Neg, b)?;
        let room = ops::unary(g, Unary::Offset(1.0), room)?;
        let kept = ops::unary(g, Unary::Sigmoid, z)?;
        let f = ops::mul(g, kept, room)?;
        let f = ops::add(g, f, b)?;
        let f = ops::unary(g, Unary::AtLeast(LEAST), f)?;
        let log_f = ops::unary(g, Unary::Ln, f)?;
        // Rounding must not make a state grow.
        let log_f = ops::unary(g, Unary::Neg, log_f)?;
        let log_f = ops::unary(g, Unary::AtLeast(0.0), log_f)?;
        Ok([ops::unary(g, Unary::Neg, log_f)?, ops::mul(g, rest, room)?])
    }
}

impl Mixer for Hgrn2Config {
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
        let conv = self.short_conv.map(|taps| Convolution { taps, silu: false });
        let by_key = [self.heads, self.key_width];
        let q = layer.flat(g, "q", self.heads * self.key_width, conv)?;
        let q = ops::unary(g, Unary::Silu, q)?;
        let q = layer.heads(g, q, by_key)?;
        let z = layer.flat(g, "f", self.heads * self.key_width, conv)?;
        let v = layer.project(g, "i", [self.heads, self.value_width], conv)?;
        let [gate, k] = self.gates(g, name, z)?;
        let (gate, k) = (layer.heads(g, gate, by_key)?, layer.heads(g, k, by_key)?);
        let kernel = Kernel { compute: g.compute(), ..Kernel::new(self.heads, self.key_width, self.value_width) };
        let o = layer.recall(g, kernel, self.form, [q, k, v], Some((gate, GateShape::Channel)))?;
        let o = layer.joined(g, o)?;
        let o = rms_norm(g, &format!("{name}.g_norm"), o, self.norm_eps)?;
        layer.back(g, o)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let convolved = self.heads * (2 * self.key_width + self.value_width);
        state_bytes([self.heads, self.key_width, self.value_width], convolved, self.short_conv)
    }
}
