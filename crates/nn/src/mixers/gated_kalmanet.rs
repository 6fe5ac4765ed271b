//! Gated KalmaNet: a memory that is read through a ridge regression over all past pairs, at every token.
//!
//! q, k, v = silu(conv(W x)), keys and values of fewer heads repeated; q and k to length 1;
//! k ← (β + ε) k, v ← (β + ε) v with β = σ(W_b x + b); g = −exp(A_log) softplus(W_a x + dt_bias);
//! H_t = exp(g_t) H_{t−1} + k_t k_tᵀ, x_t = (H_t + a ‖H_t‖_F I)⁻¹ q_t by Chebyshev's iteration,
//! q̃ = q + α (x − q) with α = σ(W_α x + b); U_t = exp(g_t) U_{t−1} + k_t v_tᵀ, o_t = D^{−1/2} U_tᵀ q̃_t;
//! y = (RMSNorm_head(o) ⊙ silu(W_g x)) W_o.
//!
//! With α = 0 this is gated linear attention, with α = 1 the regression alone: the covariance of a
//! Kalman filter in its steady state, which delta rules take to be the identity.
//!
//! Source: "Gated KalmaNet: A Fading Memory Layer Through Test-Time Ridge Regression" (2025), arXiv
//! 2511.21016; names as in awslabs/hybrid-model-factory.

use memwall_graph::ops;
use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::linear::Linear;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::ridge::{Ridge, RidgeStep};
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::gemm::Compute;
use memwall_kernels::gla::Gla;
use memwall_kernels::ridge::{Form as KernelForm, MOST_WIDTH, Ridge as Kernel};
use serde::{Deserialize, Serialize};

use super::linear_memory::{Convolution, Layer, check_heads, state_bytes};
use super::{Form, Mixer};
use crate::config::{ConfigError, at_most};
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// Gated KalmaNet of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedKalmanetConfig {
    /// Heads H of queries, gates and states.
    pub heads: usize,
    /// Heads of keys and values before they are repeated; H if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Width D of a head's queries, keys and values.
    pub head_dim: usize,
    /// Steps of Chebyshev's iteration; fewer may be taken when a trained model runs. With 0 nothing is
    /// solved, and the layer is gated linear attention.
    #[serde(default = "num_iter")]
    pub num_iter: usize,
    /// a, the ridge as a share of ‖H‖_F, above 0.
    #[serde(default = "ridge_strength")]
    pub ridge_strength: f64,
    /// Gradients pass through the ridge's dependence on H.
    #[serde(default = "yes")]
    pub bp_lambda: bool,
    /// q̃ = q + α (x − q) with a gate α; without, q̃ = x.
    #[serde(default = "yes")]
    pub use_alpha_connection: bool,
    /// Pairs are weighted by β².
    #[serde(default = "yes")]
    pub use_beta_gate: bool,
    /// U forgets.
    #[serde(default = "yes")]
    pub use_forgetting_gate: bool,
    /// H forgets.
    #[serde(default = "yes")]
    pub use_forgetting_gate_kk: bool,
    /// The output has the factor D^{−1/2}.
    #[serde(default = "yes")]
    pub gla_rescale: bool,
    /// The swish gate on the output.
    #[serde(default = "yes")]
    pub use_gate: bool,
    /// The convolution stands on values too.
    #[serde(default = "yes")]
    pub use_v_conv: bool,
    /// Taps of the depthwise convolutions, with SiLU.
    #[serde(default = "taps")]
    pub conv_size: usize,
    /// Tokens of a chunk in the chunked form: a multiple of 16.
    #[serde(default = "chunk")]
    pub chunk_size: usize,
    /// ε of the norm of the output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// The form that training uses for the regression; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<RidgeForm>,
}

/// A form by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the forms' usual names
pub enum RidgeForm {
    Chunked,
    Recurrent,
}

fn num_iter() -> usize {
    30
}
fn ridge_strength() -> f64 {
    0.02
}
fn yes() -> bool {
    true
}
fn taps() -> usize {
    4
}
fn chunk() -> usize {
    64
}
fn eps() -> f64 {
    1e-6
}

/// What is added to the length of q and k before they are divided by it, and to β.
const EPS: f64 = 1e-6;

/// Far below ε², so that it changes no length.
const LEAST_SQUARE: f64 = 1e-30;

/// More steps change nothing in f64 for any ridge that makes sense, and would only be a mistake.
const MOST_ITERATIONS: usize = 10_000;

impl GatedKalmanetConfig {
    /// `heads` heads of `head_dim`, all else as published.
    pub fn new(heads: usize, head_dim: usize) -> GatedKalmanetConfig {
        GatedKalmanetConfig {
            heads,
            kv_heads: None,
            head_dim,
            num_iter: num_iter(),
            ridge_strength: ridge_strength(),
            bp_lambda: true,
            use_alpha_connection: true,
            use_beta_gate: true,
            use_forgetting_gate: true,
            use_forgetting_gate_kk: true,
            gla_rescale: true,
            use_gate: true,
            use_v_conv: true,
            conv_size: taps(),
            chunk_size: chunk(),
            norm_eps: eps(),
            form: None,
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        check_heads(key, self.heads, ("kv_heads", self.kv_heads()), &[("head_dim", self.head_dim)])?;
        at_most(&format!("{key}.head_dim"), self.head_dim, MOST_WIDTH)?;
        at_most(&format!("{key}.num_iter"), self.num_iter, MOST_ITERATIONS)?;
        let wrong = |name: &str, problem: String| Err(ConfigError::at(format!("{key}.{name}"), problem));
        if !(self.ridge_strength > 0.0 && self.ridge_strength.is_finite()) {
            return wrong("ridge_strength", format!("is {}, a number above 0 is needed", self.ridge_strength));
        }
        if !(2..=8).contains(&self.conv_size) {
            return wrong("conv_size", format!("is {}, 2 to 8 taps are supported", self.conv_size));
        }
        if self.chunk_size == 0 || !self.chunk_size.is_multiple_of(16) {
            return wrong("chunk_size", format!("is {}, a multiple of 16 is needed", self.chunk_size));
        }
        if !(self.norm_eps >= 0.0 && self.norm_eps.is_finite()) {
            return wrong("norm_eps", format!("is {}, a number from 0 on is needed", self.norm_eps));
        }
        Ok(())
    }

    fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// σ(W x + b) as [N, H, 1], weights `name.part.*`.
    fn gate(&self, g: &mut Graph, types: &WeightTypes, name: &str, part: &str, x: Value) -> Result<Value, GraphError> {
        let rows = g.shape(x).dims()[0];
        let y = linear(g, types, &format!("{name}.{part}"), x, self.heads, true)?;
        let y = ops::unary(g, Unary::Sigmoid, y)?;
        ops::reshape(g, y, [rows, self.heads.into(), 1.into()])
    }

    /// Log-gates [N, H]: −exp(A_log) softplus(W_a x + dt_bias).
    fn log_gates(&self, g: &mut Graph, types: &WeightTypes, name: &str, x: Value) -> Result<Value, GraphError> {
        let a = linear(g, types, &format!("{name}.a_proj"), x, self.heads, false)?;
        let bias = g.weight(&format!("{name}.dt_bias"), [self.heads], g.elem())?;
        let a = ops::add(g, a, bias)?;
        // softplus(a) = −logsigmoid(−a), so the minus sign of g is already there.
        let a = ops::unary(g, Unary::Neg, a)?;
        let a = ops::unary(g, Unary::LogSigmoid, a)?;
        let rate = g.weight(&format!("{name}.A_log"), [self.heads], g.elem())?;
        let rate = ops::unary(g, Unary::Exp, rate)?;
        ops::mul(g, a, rate)
    }

    /// x_t = (H_t + λ_t I)⁻¹ q_t [N, H, D]: over whole sequences, or on the kept states `name.state_kk`.
    fn solve(
        &self,
        g: &mut Graph,
        name: &str,
        seqs: &Sequences,
        [q, k]: [Value; 2],
        gate: Option<Value>,
    ) -> Result<Value, GraphError> {
        let kernel = Kernel {
            heads: self.heads,
            width: self.head_dim,
            num_iter: self.num_iter,
            ridge_strength: self.ridge_strength,
            bp_lambda: self.bp_lambda,
            chunk: self.chunk_size,
        };
        match &seqs.kept {
            Kept::Whole { cu_seqlens } => {
                let form = self.form.map(|f| match f {
                    RidgeForm::Chunked => KernelForm::Chunked,
                    RidgeForm::Recurrent => KernelForm::Recurrent,
                });
                let mut inputs = vec![q, k, *cu_seqlens];
                inputs.extend(gate);
                Ok(g.push(Ridge::new(kernel, gate.is_some(), form, false), &inputs)?[0])
            }
            Kept::Slots { rows, slots, .. } => {
                let size = [rows.slots, self.heads, self.head_dim, self.head_dim];
                let state = g.state(&format!("{name}.state_kk"), size, g.elem())?;
                let mut inputs = vec![state, q, k, *slots];
                inputs.extend(gate);
                Ok(g.push(RidgeStep::new(kernel, gate.is_some()), &inputs)?[1])
            }
        }
    }
}

/// x / (‖x‖ + ε) over the last axis of x [N, H, D].
fn to_length_1(g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
    let width = g.shape(x).width().unwrap_or(0);
    let ones = g.constant(name, [1, width], &vec![1.0; width])?;
    let squares = ops::unary(g, Unary::Square, x)?;
    let sum = g.push1(Linear { compute: Compute::F32 }, &[squares, ones])?;
    // √s = exp(½ ln s), s kept above 0, where that has a derivative.
    let sum = ops::unary(g, Unary::Offset(LEAST_SQUARE), sum)?;
    let log = ops::unary(g, Unary::Ln, sum)?;
    let log = ops::scale(g, log, 0.5)?;
    let length = ops::unary(g, Unary::Exp, log)?;
    let length = ops::unary(g, Unary::Offset(EPS), length)?;
    let by = ops::unary(g, Unary::Reciprocal, length)?;
    ops::mul(g, x, by)
}

impl Mixer for GatedKalmanetConfig {
    fn causal(&self) -> bool {
        true
    }

    fn forms(&self) -> &'static [Form] {
        &[Form::Chunked, Form::Recurrent]
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
        let (h, d) = (self.heads, self.head_dim);
        let conv = Some(Convolution::silu(self.conv_size));
        let q = layer.project(g, "q", [h, d], conv)?;
        let k = layer.project(g, "k", [self.kv_heads(), d], conv)?;
        let v = layer.project(g, "v", [self.kv_heads(), d], conv.filter(|_| self.use_v_conv))?;
        let q = to_length_1(g, &format!("{name}.ones"), q)?;
        let k = to_length_1(g, &format!("{name}.ones"), k)?;
        let repeated = |g: &mut Graph, x: Value| if self.kv_heads() == h { Ok(x) } else { ops::repeat_heads(g, x, h) };
        let (mut k, mut v) = (repeated(g, k)?, repeated(g, v)?);
        if self.use_beta_gate {
            let beta = self.gate(g, types, name, "b_proj", x)?;
            let beta = ops::unary(g, Unary::Offset(EPS), beta)?;
            k = ops::mul(g, k, beta)?;
            v = ops::mul(g, v, beta)?;
        }
        let gated = self.use_forgetting_gate || self.use_forgetting_gate_kk;
        let gate = if gated { Some(self.log_gates(g, types, name, x)?) } else { None };
        let mut query = q;
        if self.num_iter > 0 {
            let solved = self.solve(g, name, seqs, [q, k], gate.filter(|_| self.use_forgetting_gate_kk))?;
            query = solved;
            if self.use_alpha_connection {
                let alpha = self.gate(g, types, name, "alpha_proj", x)?;
                let moved = ops::sub(g, solved, q)?;
                let moved = ops::mul(g, moved, alpha)?;
                query = ops::add(g, q, moved)?;
            }
        }
        let scale = if self.gla_rescale { (d as f64).powf(-0.5) } else { 1.0 };
        let kernel = Gla { scale, ..Gla::new(h, d, d) };
        let gate = gate.filter(|_| self.use_forgetting_gate).map(|gate| (gate, GateShape::Head));
        let o = layer.recall(g, kernel, None, [query, k, v], gate)?;
        layer.way_out(g, "o_norm", o, self.norm_eps, self.use_gate)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let of_keys = self.heads * self.head_dim + self.kv_heads() * self.head_dim;
        let convolved = of_keys + if self.use_v_conv { self.kv_heads() * self.head_dim } else { 0 };
        let matrices = if self.num_iter > 0 { 2 * self.heads } else { self.heads };
        state_bytes([matrices, self.head_dim, self.head_dim], convolved, Some(self.conv_size))
    }
}
