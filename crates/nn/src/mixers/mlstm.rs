//! mLSTM (xLSTM, Beck et al. 2024): a matrix memory with an exponential input gate and a normalizer.
//!
//! ĩ = c(W_i x + b_i), f = σ(c(W_f x + b_f)), c(z) = s tanh(z / s); C_t = f_t C_{t−1} + e^{ĩ_t} k_t v_tᵀ,
//! n_t = f_t n_{t−1} + e^{ĩ_t} k_t; h_t = C_tᵀ q_t / max(|n_t · q_t|, 1), q scaled by K^{−1/2};
//! y = (σ(W_g x) ⊙ LayerNorm_head(h)) W_o. Gates are stabilized ([`memwall_kernels::mlstm`]): no exponent
//! is above 0 in any form.
//!
//! Source: "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, section 2.3; soft caps, norm and
//! widths as in "xLSTM 7B", arXiv 2503.13427.

use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::mlstm::{MlstmGates, MlstmGatesStep};
use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::normalizer::{AppendOne, Normalize};
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::gla::Gla as Kernel;
use serde::{Deserialize, Serialize};

use super::gla::GlaForm;
use super::linear_memory::{Layer, check_heads, state_bytes};
use super::{Form, Mixer};
use crate::config::ConfigError;
use crate::layers::linear;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// mLSTM of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlstmConfig {
    /// Heads H.
    pub heads: usize,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// s: gates before their activations stay within ±s; no bound if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_soft_cap: Option<f64>,
    /// The sigmoid gate on the output.
    #[serde(default = "yes")]
    pub output_gate: bool,
    /// ε of the norm of the output, and of the division by the normalizer.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// The form that training uses; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<GlaForm>,
}

fn yes() -> bool {
    true
}
fn eps() -> f64 {
    1e-6
}

impl MlstmConfig {
    /// `heads` heads of `key_width` and `value_width`, gates capped at 15, all else as published.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> MlstmConfig {
        MlstmConfig {
            heads,
            key_width,
            value_width,
            gate_soft_cap: Some(15.0),
            output_gate: true,
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
        check_heads(key, self.heads, ("heads", self.heads), &widths)?;
        match self.gate_soft_cap {
            Some(cap) if !(cap > 0.0 && cap.is_finite()) => {
                let problem = format!("is {cap}, a number above 0 is needed");
                Err(ConfigError::at(format!("{key}.gate_soft_cap"), problem))
            }
            _ => Ok(()),
        }
    }

    /// Log-gates, e^{ĩ − m} and e^{−m} of the rows, all [N, H].
    fn gates(&self, g: &mut Graph, layer: &Layer<'_>) -> Result<[Value; 3], GraphError> {
        let (name, h) = (layer.name, self.heads);
        let gate = |g: &mut Graph, part: &str| {
            let z = linear(g, layer.types, &format!("{name}.{part}_proj"), layer.x, h, true)?;
            match self.gate_soft_cap {
                Some(cap) => ops::unary(g, Unary::Softcap(cap), z),
                None => Ok(z),
            }
        };
        let (i, f) = (gate(g, "igate")?, gate(g, "fgate")?);
        let f = ops::unary(g, Unary::LogSigmoid, f)?;
        match &layer.seqs.kept {
            Kept::Whole { cu_seqlens } => {
                let made = g.push(MlstmGates, &[i, f, *cu_seqlens])?;
                Ok([made[0], made[1], made[2]])
            }
            Kept::Slots { rows, slots, .. } => {
                let m = g.state(&format!("{name}.m"), [rows.slots, h], g.elem())?;
                let made = g.push(MlstmGatesStep, &[m, i, f, *slots])?;
                Ok([made[1], made[2], made[3]])
            }
        }
    }
}

impl Mixer for MlstmConfig {
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
        let (rows, h, v_width) = (g.shape(x).dims()[0], self.heads, self.value_width);
        let q = layer.project(g, "q", [h, self.key_width], None)?;
        let k = layer.project(g, "k", [h, self.key_width], None)?;
        let v = layer.project(g, "v", [h, v_width], None)?;
        let [gate, input, bound] = self.gates(g, &layer)?;
        let input = ops::reshape(g, input, [rows, h.into(), 1.into()])?;
        let k = ops::mul(g, k, input)?;
        // n is the sum of keys that a column of ones among the values keeps.
        let v = g.push1(AppendOne, &[v])?;
        let kernel = Kernel { compute: g.compute(), ..Kernel::new(h, self.key_width, v_width + 1) };
        let o = layer.recall(g, kernel, self.form, [q, k, v], Some((gate, GateShape::Head)))?;
        let o = g.push1(Normalize { eps: self.norm_eps }, &[o, bound])?;
        let weight = g.weight(&format!("{name}.norm.weight"), [h * v_width], g.elem())?;
        let o = g.push1(Norm::layer(v_width, self.norm_eps).grouped(h), &[o, weight])?;
        let mut o = layer.joined(g, o)?;
        if self.output_gate {
            let s = layer.flat(g, "g", h * v_width, None)?;
            let s = ops::unary(g, Unary::Sigmoid, s)?;
            o = ops::mul(g, o, s)?;
        }
        layer.back(g, o)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        state_bytes([self.heads, self.key_width, self.value_width + 1], 0, None) + self.heads * 4
    }
}
