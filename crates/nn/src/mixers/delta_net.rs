//! DeltaNet and its gated kin: a matrix state a head that overwrites by key, and forgets by a gate.
//!
//! q, k, v = silu(conv(W x)); q and k to length 1; β = σ(W_b x), doubled if eigenvalues down to −1 are
//! allowed; log-gate g = −exp(A_log) softplus(W_a x + dt_bias);
//! S_t = (I − β_t k_t k_tᵀ) diag(exp(g_t)) S_{t−1} + β_t k_t v_tᵀ, o_t = K^{−1/2} S_tᵀ q_t;
//! y = (RMSNorm_head(o) ⊙ silu(W_g x)) W_o.
//!
//! Without gate DeltaNet (arXiv 2406.06484), with one a head Gated DeltaNet (arXiv 2412.06464), as in
//! Qwen3-Next and InfiniteVL; with one a key channel the rule of KDA (arXiv 2510.26692).

use memwall_graph::ops;
use memwall_graph::ops::delta::{Delta, DeltaStep};
use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::delta::{Delta as Kernel, Form as KernelForm, MOST_KEYS};
use serde::{Deserialize, Serialize};

use super::linear_memory::{Convolution, Layer, check_heads, state_bytes};
use super::{Form, Mixer};
use crate::config::{ConfigError, at_most};
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// The delta rule of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaNetConfig {
    /// Heads H of values, gates and states.
    pub heads: usize,
    /// Heads of queries and keys; H if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_heads: Option<usize>,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// Which gates the state forgets by.
    #[serde(default)]
    pub gate: DeltaGate,
    /// β up to 2 rather than 1: the state's transition may have eigenvalues down to −1.
    #[serde(default)]
    pub allow_neg_eigval: bool,
    /// The swish gate on the output.
    #[serde(default = "yes")]
    pub output_gate: bool,
    /// Taps of the depthwise convolutions, with SiLU, on q, k and v; none if 0.
    #[serde(default = "taps")]
    pub short_conv: usize,
    /// ε of the norm of the output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// The form that training uses; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<DeltaForm>,
}

/// Gates by what shares one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaGate {
    /// None: what is not overwritten stays.
    None,
    /// One a head.
    #[default]
    Head,
    /// One a key channel.
    Channel,
}

/// A form by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the forms' usual names
pub enum DeltaForm {
    Chunked,
    Recurrent,
}

impl DeltaForm {
    pub(super) fn kernel(self) -> KernelForm {
        match self {
            DeltaForm::Chunked => KernelForm::Chunked,
            DeltaForm::Recurrent => KernelForm::Recurrent,
        }
    }
}

fn yes() -> bool {
    true
}
fn taps() -> usize {
    4
}
fn eps() -> f64 {
    1e-5
}

/// What is added to the squared length of q and k before they are divided by it.
const LENGTH_EPS: f64 = 1e-6;

impl DeltaNetConfig {
    /// Gated DeltaNet with `heads` heads of `key_width` and `value_width`, all else as published.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> DeltaNetConfig {
        DeltaNetConfig {
            heads,
            key_heads: None,
            key_width,
            value_width,
            gate: DeltaGate::default(),
            allow_neg_eigval: false,
            output_gate: true,
            short_conv: taps(),
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
        check_heads(key, self.heads, ("key_heads", self.key_heads()), &widths)?;
        at_most(&format!("{key}.key_width"), self.key_width, MOST_KEYS)?;
        if self.short_conv != 0 && !(2..=8).contains(&self.short_conv) {
            return Err(ConfigError::at(format!("{key}.short_conv"), "2 to 8 taps are supported, and 0 for none"));
        }
        Ok(())
    }

    fn key_heads(&self) -> usize {
        self.key_heads.unwrap_or(self.heads)
    }

    fn taps(&self) -> Option<usize> {
        (self.short_conv > 0).then_some(self.short_conv)
    }

    /// Log-gates [N, H] or [N, H, K]: −exp(A_log) softplus(W_a x + dt_bias), A_log one a head.
    fn log_gates(&self, g: &mut Graph, types: &WeightTypes, name: &str, x: Value) -> Result<Option<Value>, GraphError> {
        let (rows, h) = (g.shape(x).dims()[0], self.heads);
        let width = match self.gate {
            DeltaGate::None => return Ok(None),
            DeltaGate::Head => 1,
            DeltaGate::Channel => self.key_width,
        };
        let a = linear(g, types, &format!("{name}.a_proj"), x, h * width, false)?;
        let bias = g.weight(&format!("{name}.dt_bias"), [h * width], g.elem())?;
        let a = ops::add(g, a, bias)?;
        // softplus(a) = −logsigmoid(−a), so the minus sign of g is already there.
        let a = ops::unary(g, Unary::Neg, a)?;
        let a = ops::unary(g, Unary::LogSigmoid, a)?;
        let rate = g.weight(&format!("{name}.A_log"), [h], g.elem())?;
        let mut rate = ops::unary(g, Unary::Exp, rate)?;
        if self.gate == DeltaGate::Head {
            return ops::mul(g, a, rate).map(Some);
        }
        // The channels of a head share its rate.
        rate = ops::reshape(g, rate, [h, 1, 1])?;
        rate = ops::repeat_heads(g, rate, width)?;
        rate = ops::reshape(g, rate, [h * width])?;
        let a = ops::mul(g, a, rate)?;
        ops::reshape(g, a, [rows, h.into(), width.into()]).map(Some)
    }

    /// q or k of length 1 in each head.
    fn to_length_1(&self, g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
        // x / √(Σ x² + ε) is K^{−1/2} x / √(mean x² + ε / K): a norm with a constant weight.
        let width = self.key_width;
        let weight = g.constant(name, [width], &vec![(width as f64).powf(-0.5); width])?;
        g.push1(Norm::rms(width, LENGTH_EPS / width as f64), &[x, weight])
    }
}

impl Mixer for DeltaNetConfig {
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
        let (h, hk, k_width, v_width) = (self.heads, self.key_heads(), self.key_width, self.value_width);
        let conv = self.taps().map(Convolution::silu);
        let q = layer.project(g, "q", [hk, k_width], conv)?;
        let k = layer.project(g, "k", [hk, k_width], conv)?;
        let v = layer.project(g, "v", [h, v_width], conv)?;
        let q = self.to_length_1(g, &format!("{name}.length_1"), q)?;
        let k = self.to_length_1(g, &format!("{name}.length_1"), k)?;
        let beta = linear(g, types, &format!("{name}.b_proj"), x, h, false)?;
        let mut beta = ops::unary(g, Unary::Sigmoid, beta)?;
        if self.allow_neg_eigval {
            beta = ops::scale(g, beta, 2.0)?;
        }
        let gate = self.log_gates(g, types, name, x)?;
        let shape = match self.gate {
            DeltaGate::None => GateShape::None,
            DeltaGate::Head => GateShape::Head,
            DeltaGate::Channel => GateShape::Channel,
        };
        let kernel = Kernel { key_heads: hk, ..Kernel::new(h, k_width, v_width) };
        let o = match &seqs.kept {
            Kept::Whole { cu_seqlens } => {
                let form = self.form.map(DeltaForm::kernel);
                let mut inputs = vec![q, k, v, beta, *cu_seqlens];
                inputs.extend(gate);
                g.push(Delta::new(kernel, shape, form, false), &inputs)?[0]
            }
            Kept::Slots { rows, slots, .. } => {
                let state = g.state(&format!("{name}.state"), [rows.slots, h, k_width, v_width], g.elem())?;
                let mut inputs = vec![state, q, k, v, beta, *slots];
                inputs.extend(gate);
                g.push(DeltaStep::new(kernel, shape), &inputs)?[1]
            }
        };
        layer.way_out(g, "o_norm", o, self.norm_eps, self.output_gate)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let convolved = 2 * self.key_heads() * self.key_width + self.heads * self.value_width;
        state_bytes([self.heads, self.key_width, self.value_width], convolved, self.taps())
    }
}
