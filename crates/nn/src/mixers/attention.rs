//! Softmax attention with grouped KV heads, and the gate after it.
//!
//! y = concat_h(σ(x W_θ,h) ⊙ SDPA(rope(norm(x W_q))_h, rope(norm(x W_k)), x W_v)) W_o. The gate
//! ("Gated Attention", 2025) is off by default; its grid of variants is [`GateConfig`].

use memwall_graph::ops;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value};
use memwall_kernels::attention::Attention as Kernel;
use memwall_kernels::gemm::Compute;
use serde::{Deserialize, Serialize};

use super::differential::DifferentialConfig;
use super::{Form, Mixer};
use crate::config::{ConfigError, heads_fit};
use crate::layers::{linear, rms_norm};
use crate::rope::RopeConfig;
use crate::sequences::{KeyValues, Sequences};
use crate::weights::WeightTypes;

/// Attention of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Query heads H.
    pub heads: usize,
    /// Key-value heads G, a divisor of H.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rotary positions; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope: Option<RopeConfig>,
    /// A token sees itself and the `window − 1` tokens before it; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// RMS norms of each head of q and k, before rope.
    #[serde(default)]
    pub qk_norm: bool,
    /// Biases of q, k and v.
    #[serde(default)]
    pub qkv_bias: bool,
    /// Bias of the output projection.
    #[serde(default)]
    pub o_bias: bool,
    /// c · tanh(scores / c).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f64>,
    /// Scale of the scores; 1 / √head_dim if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// The gate; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateConfig>,
    /// ε of the norms of q and k.
    #[serde(default = "qk_eps")]
    pub qk_norm_eps: f64,
    /// The difference of two maps, by pairs of heads; one map if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differential: Option<DifferentialConfig>,
    /// The earlier layer whose keys and values are seen, instead of keys and values of its own (YOCO's cross-attention).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_source: Option<usize>,
}

fn qk_eps() -> f64 {
    1e-6
}

/// Where and how attention is gated: the grid of the paper's ablation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// What is gated.
    pub position: GatePosition,
    /// One gate a channel, or one a head.
    pub granularity: Granularity,
    /// One gate for all heads.
    pub head_shared: bool,
    /// How the gate enters.
    pub operation: GateOperation,
    /// What the gate's logits go through.
    pub activation: GateActivation,
    /// A learned constant in place of a function of the token: the paper's weak control.
    pub input_independent: bool,
}

/// What is gated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatePosition {
    /// G1: after attention, before the output projection.
    #[default]
    AfterAttention,
    /// G2: the values.
    Values,
    /// G3: the keys.
    Keys,
    /// G4: the queries.
    Queries,
    /// G5: after the output projection.
    AfterOutput,
}

/// How many gates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// One for each channel.
    #[default]
    Elementwise,
    /// One for each head.
    Headwise,
}

/// How the gate enters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateOperation {
    /// y · f(s).
    #[default]
    Multiply,
    /// y + f(s).
    Add,
}

/// What the gate's logits go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateActivation {
    /// σ(s).
    #[default]
    Sigmoid,
    /// s σ(s).
    Silu,
    /// s.
    Identity,
    /// 0.5 + 0.5 σ(s): the non-sparse control.
    NonSparseSigmoid,
}

impl AttentionConfig {
    /// Plain attention with those heads.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionConfig {
        AttentionConfig {
            heads,
            kv_heads,
            head_dim,
            rope: None,
            window: None,
            qk_norm: false,
            qkv_bias: false,
            o_bias: false,
            softcap: None,
            scale: None,
            gate: None,
            qk_norm_eps: qk_eps(),
            differential: None,
            kv_source: None,
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        for (name, n) in [("heads", self.heads), ("kv_heads", self.kv_heads), ("head_dim", self.head_dim)] {
            if n == 0 {
                return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let problem = format!("is {}, which is no multiple of kv_heads {}", self.heads, self.kv_heads);
            return Err(ConfigError::at(format!("{key}.heads"), problem));
        }
        heads_fit(&format!("{key}.heads"), self.heads, self.head_dim)?;
        if self.window == Some(0) {
            return Err(ConfigError::at(format!("{key}.window"), "is 0, at least 1 is needed"));
        }
        if let Some(rope) = &self.rope {
            rope.check(&format!("{key}.rope"), self.head_dim)?;
        }
        if let Some(differential) = &self.differential {
            differential.check(key, self.heads, self.kv_heads)?;
        }
        let own = self.gate.is_some_and(|g| matches!(g.position, GatePosition::Keys | GatePosition::Values));
        if own && self.kv_source.is_some() {
            let problem = "gates keys or values, but kv_source is given: they are another layer's";
            return Err(ConfigError::at(format!("{key}.gate.position"), problem));
        }
        Ok(())
    }

    /// The kernel's options.
    pub fn kernel(&self, compute: Compute) -> Kernel {
        Kernel {
            heads: self.heads,
            kv_heads: self.kv_heads,
            key_width: self.head_dim,
            value_width: self.head_dim,
            scale: self.scale.unwrap_or(1.0 / (self.head_dim as f64).sqrt()),
            causal: true,
            window: (self.window.map(|w| w - 1), None),
            softcap: self.softcap,
            compute,
            ..Default::default()
        }
    }

    /// Adds the gate `f(x W_θ)` of a tensor [N, heads, head_dim] to `y`, if it is at `position`.
    fn gate(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        position: GatePosition,
        heads: usize,
        x: Value,
        y: Value,
    ) -> Result<Value, GraphError> {
        let Some(gate) = self.gate.filter(|gate| gate.position == position) else { return Ok(y) };
        let width = g.shape(y).width().expect("heads have a fixed width");
        let gates = match (gate.granularity, gate.head_shared) {
            (Granularity::Headwise, true) => 1,
            (Granularity::Headwise, false) => heads,
            (Granularity::Elementwise, true) => width,
            (Granularity::Elementwise, false) => heads * width,
        };
        let s = if gate.input_independent {
            g.weight(&format!("{name}.gate_proj.bias"), [gates], g.elem())?
        } else {
            linear(g, types, &format!("{name}.gate_proj"), x, gates, false)?
        };
        let s = match gate.activation {
            GateActivation::Sigmoid => ops::unary(g, Unary::Sigmoid, s)?,
            GateActivation::Silu => ops::unary(g, Unary::Silu, s)?,
            GateActivation::Identity => s,
            GateActivation::NonSparseSigmoid => {
                let s = ops::unary(g, Unary::Sigmoid, s)?;
                let s = ops::scale(g, s, 0.5)?;
                ops::unary(g, Unary::Offset(0.5), s)?
            }
        };
        // [N, gates] against [N, heads, width]: rows of a head, or of all heads.
        let rows = g.shape(y).dims()[0];
        let (y_shape, y2, s) = {
            let full = g.shape(y).clone();
            let elementwise = gate.granularity == Granularity::Elementwise;
            let (a, b): (memwall_graph::Shape, memwall_graph::Shape) = match (elementwise, gate.head_shared) {
                (true, false) => ([rows, (heads * width).into()].into(), [rows, gates.into()].into()),
                (true, true) => ([rows, heads.into(), width.into()].into(), [rows, 1.into(), gates.into()].into()),
                (false, false) => ([rows.times(heads), width.into()].into(), [rows.times(heads), 1.into()].into()),
                (false, true) => ([rows, (heads * width).into()].into(), [rows, 1.into()].into()),
            };
            let y = ops::reshape(g, y, a)?;
            let s = if gate.input_independent { s } else { ops::reshape(g, s, b)? };
            let s = if elementwise && gate.head_shared && !gate.input_independent {
                ops::repeat_heads(g, s, heads)?
            } else {
                s
            };
            (full, y, s)
        };
        let out = match gate.operation {
            GateOperation::Multiply => ops::mul(g, y2, s)?,
            GateOperation::Add => ops::add(g, y2, s)?,
        };
        ops::reshape(g, out, y_shape)
    }

    /// Queries [N, H, K] of x, before their norm and rotation.
    pub(crate) fn queries(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
    ) -> Result<Value, GraphError> {
        let (rows, h, d) = (g.shape(x).dims()[0], self.heads, self.head_dim);
        let q = linear(g, types, &format!("{name}.q_proj"), x, h * d, self.qkv_bias)?;
        ops::reshape(g, q, [rows, h.into(), d.into()])
    }

    /// Makes keys and values of x and puts them where rows can see them.
    pub(crate) fn keep(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<KeyValues, GraphError> {
        let (rows, kv, d) = (g.shape(x).dims()[0], self.kv_heads, self.head_dim);
        let k = linear(g, types, &format!("{name}.k_proj"), x, kv * d, self.qkv_bias)?;
        let v = linear(g, types, &format!("{name}.v_proj"), x, kv * d, self.qkv_bias)?;
        let mut k = ops::reshape(g, k, [rows, kv.into(), d.into()])?;
        let v = ops::reshape(g, v, [rows, kv.into(), d.into()])?;
        if self.qk_norm {
            k = rms_norm(g, &format!("{name}.k_norm"), k, self.qk_norm_eps)?;
        }
        if let Some(rope) = &self.rope {
            k = seqs.rotate(g, rope, d, k)?;
        }
        let k = self.gate(g, types, name, GatePosition::Keys, kv, x, k)?;
        let v = self.gate(g, types, name, GatePosition::Values, kv, x, v)?;
        seqs.keep(g, name, &self.kernel(g.compute()), k, v)
    }

    /// Attends from the queries of x to what they can see, and projects; [N, D].
    pub(crate) fn read(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        mut q: Value,
        visible: KeyValues,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let rows = g.shape(x).dims()[0];
        let d_model = g.shape(x).width().expect("a model has a fixed width");
        let (h, d, kernel) = (self.heads, self.head_dim, self.kernel(g.compute()));
        if self.qk_norm {
            q = rms_norm(g, &format!("{name}.q_norm"), q, self.qk_norm_eps)?;
        }
        if let Some(rope) = &self.rope {
            q = seqs.rotate(g, rope, d, q)?;
        }
        let q = self.gate(g, types, name, GatePosition::Queries, h, x, q)?;
        let o = match &self.differential {
            Some(differential) => differential.attend(g, name, &kernel, q, visible, seqs)?,
            None => seqs.attend(g, &kernel, q, visible)?,
        };
        let o = self.gate(g, types, name, GatePosition::AfterAttention, h, x, o)?;
        let o = ops::reshape(g, o, [rows, (h * d).into()])?;
        seqs.set_memory(seqs.layer(), o);
        let o = types.sub_norm(g, &format!("{name}.attn_sub_norm"), o)?;
        let y = linear(g, types, &format!("{name}.o_proj"), o, d_model, self.o_bias)?;
        let one_head = ops::reshape(g, y, [rows, 1.into(), d_model.into()])?;
        let y = self.gate(g, types, name, GatePosition::AfterOutput, 1, x, one_head)?;
        ops::reshape(g, y, [rows, d_model.into()])
    }
}

impl Mixer for AttentionConfig {
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
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let q = self.queries(g, types, name, x)?;
        let visible = match self.kv_source {
            Some(source) => seqs.kept_by(g, source)?,
            None => self.keep(g, types, name, x, seqs)?,
        };
        self.read(g, types, name, x, q, visible, seqs)
    }

    fn reads_only(&self) -> bool {
        self.kv_source.is_some()
    }

    fn state_bytes(&self, _: usize, name: &str, tokens: usize, seqs: &Sequences) -> usize {
        if self.kv_source.is_some() {
            return 0;
        }
        seqs.kv_bytes(name, &self.kernel(Compute::F32), tokens)
    }
}
