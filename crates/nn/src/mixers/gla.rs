//! Gated linear attention (Yang et al. 2023): a matrix state a head with a data-dependent forget gate.
//!
//! S_t = diag(α_t) S_{t−1} + k_t v_tᵀ, o_t = K^{−1/2} q_tᵀ S_t, with α = exp(logsigmoid(x W₁ W₂ + b) / τ);
//! y = (RMSNorm_head(o) ⊙ silu(x W_g)) W_o.

use memwall_graph::ops;
use memwall_graph::ops::gla::{GateShape, Gla, GlaStep};
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::gla::{Form as KernelForm, Gla as Kernel};
use serde::{Deserialize, Serialize};

use super::short_conv::depthwise;
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most, heads_fit};
use crate::layers::{linear, rms_norm};
use crate::sequences::{Kept, Sequences};
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
        let sizes = [
            ("heads", self.heads),
            ("key_width", self.key_width),
            ("value_width", self.value_width),
            ("gate_low_rank", self.gate_low_rank),
            ("kv_heads", self.kv_heads()),
        ];
        for (name, n) in sizes {
            if n == 0 {
                return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
            }
        }
        heads_fit(&format!("{key}.heads"), self.heads, self.key_width.max(self.value_width))?;
        at_most(&format!("{key}.gate_low_rank"), self.gate_low_rank, MOST_WIDTH)?;
        if !self.heads.is_multiple_of(self.kv_heads()) {
            let problem = format!("is {}, which is no multiple of kv_heads {}", self.heads, self.kv_heads());
            return Err(ConfigError::at(format!("{key}.heads"), problem));
        }
        if self.gate_logit_normalizer.is_nan() || self.gate_logit_normalizer <= 0.0 {
            let problem = format!("is {}, a number above 0 is needed", self.gate_logit_normalizer);
            return Err(ConfigError::at(format!("{key}.gate_logit_normalizer"), problem));
        }
        if self.short_conv.is_some_and(|w| !(2..=8).contains(&w)) {
            return Err(ConfigError::at(format!("{key}.short_conv"), "2 to 8 taps are supported"));
        }
        Ok(())
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
        let rows = g.shape(x).dims()[0];
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("gla", "a model has a fixed width"))?;
        let (h, hk, k_width, v_width) = (self.heads, self.kv_heads(), self.key_width, self.value_width);
        let project = |g: &mut Graph, part: &str, heads: usize, width: usize| {
            let y = linear(g, types, &format!("{name}.{part}_proj"), x, heads * width, false)?;
            let y = match self.short_conv {
                Some(taps) => depthwise(g, &format!("{name}.{part}_conv1d"), y, taps, false, true, seqs)?,
                None => y,
            };
            ops::reshape(g, y, [rows, heads.into(), width.into()])
        };
        let q = project(g, "q", h, k_width)?;
        let k = project(g, "k", hk, k_width)?;
        let v = project(g, "v", hk, v_width)?;
        let gate = if self.gate {
            let low = linear(g, types, &format!("{name}.gk_proj.0"), x, self.gate_low_rank, false)?;
            let z = linear(g, types, &format!("{name}.gk_proj.1"), low, hk * k_width, true)?;
            let z = ops::unary(g, Unary::LogSigmoid, z)?;
            let mut z = ops::scale(g, z, 1.0 / self.gate_logit_normalizer)?;
            if let Some(least) = self.clamp_min {
                z = ops::unary(g, Unary::AtLeast(least), z)?;
            }
            Some(ops::reshape(g, z, [rows, hk.into(), k_width.into()])?)
        } else {
            None
        };
        let shape = if gate.is_some() { GateShape::Channel } else { GateShape::None };
        let kernel = self.kernel(g);
        let o = match &seqs.kept {
            Kept::Whole { cu_seqlens } => {
                let form = self.form.map(|f| match f {
                    GlaForm::Parallel => KernelForm::Parallel,
                    GlaForm::Chunked => KernelForm::Chunked,
                    GlaForm::Recurrent => KernelForm::Recurrent,
                });
                let mut inputs = vec![q, k, v, *cu_seqlens];
                inputs.extend(gate);
                g.push(Gla::new(kernel, shape, form, false), &inputs)?[0]
            }
            Kept::Slots { rows, slots, .. } => {
                let state = g.state(&format!("{name}.state"), [rows.slots, h, k_width, v_width], g.elem())?;
                let mut inputs = vec![state, q, k, v, *slots];
                inputs.extend(gate);
                g.push(GlaStep::new(kernel, shape), &inputs)?[1]
            }
        };
        let o = rms_norm(g, &format!("{name}.g_norm"), o, self.norm_eps)?;
        let mut o = ops::reshape(g, o, [rows, (h * v_width).into()])?;
        if self.output_gate {
            let s = linear(g, types, &format!("{name}.g_proj"), x, h * v_width, false)?;
            let s = ops::unary(g, Unary::Silu, s)?;
            o = ops::mul(g, o, s)?;
        }
        linear(g, types, &format!("{name}.o_proj"), o, d_model, false)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let convolved = self.heads * self.key_width + self.kv_heads() * (self.key_width + self.value_width);
        let taps_kept = self.short_conv.map_or(0, |taps| taps - 1) * convolved;
        (self.heads * self.key_width * self.value_width + taps_kept) * 4
    }
}
