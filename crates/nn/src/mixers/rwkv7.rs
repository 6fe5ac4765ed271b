//! RWKV-7's time mix (Peng et al. 2025, Goose): a matrix state a head that overwrites by key and decays by channel.
//!
//! All of r, w, k, v, a, g come from token-shifted inputs. Log-decays −e^{−1/2} σ(w₀ + W₂ tanh(W₁ x_w)); in-context
//! rates η = σ(a₀ + A₂ A₁ x_a); κ = k ⊙ k_k to length 1 in each head; k ⊙ (1 + (η − 1) ⊙ k_a) is written; from the
//! second layer on v moves towards the first layer's by σ(v₀ + V₂ V₁ x_v). With o as in [`memwall_kernels::wkv7`] for
//! a = −κ, b = κ ⊙ η: y = W_o ((GroupNorm(o) + Σ_head(r ⊙ k ⊙ r_k) v) ⊙ G₂ σ(G₁ x_g)).

use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::sum::SumLast;
use memwall_graph::ops::wkv7::{Wkv7, Wkv7Step};
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::wkv7::Wkv7 as Kernel;
use serde::{Deserialize, Serialize};

use super::delta_net::DeltaForm;
use super::rwkv6::check_heads;
use super::token_shift::{self, TokenMix, TokenShift};
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::{group_norm, linear};
use crate::sequences::{Kept, Sequences, Shared};
use crate::weights::WeightTypes;

/// RWKV-7's time mix of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rwkv7Config {
    /// Heads H.
    pub heads: usize,
    /// Width of a head's keys, and of its values unless `value_head_dim` says otherwise.
    pub head_dim: usize,
    /// Width of a head's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_head_dim: Option<usize>,
    /// Width of the decays' low-rank projection.
    #[serde(default = "rank")]
    pub decay_rank: usize,
    /// Width of the in-context rates' low-rank projection.
    #[serde(default = "rank")]
    pub rate_rank: usize,
    /// Width of the low-rank projection that mixes in the values of the first such layer of the model; none in that layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_rank: Option<usize>,
    /// Width of the gate's low-rank projection.
    #[serde(default = "gate_rank")]
    pub gate_rank: usize,
    /// ε of the norm of each head's output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// What is added to the squared length of κ in a head before κ is divided by it, above 0; as published nothing but a guard
    /// against 0 / 0.
    #[serde(default = "length_eps")]
    pub length_eps: f64,
    /// The form that training uses; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<DeltaForm>,
}

fn rank() -> usize {
    64
}
fn gate_rank() -> usize {
    128
}
fn eps() -> f64 {
    64e-5
}
fn length_eps() -> f64 {
    1e-24
}

impl Rwkv7Config {
    /// A first layer with `heads` heads of `head_dim`, all else as published.
    pub fn new(heads: usize, head_dim: usize) -> Rwkv7Config {
        Rwkv7Config {
            heads,
            head_dim,
            value_head_dim: None,
            decay_rank: rank(),
            rate_rank: rank(),
            value_rank: None,
            gate_rank: gate_rank(),
            norm_eps: eps(),
            length_eps: length_eps(),
            form: None,
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let ranks = [("decay_rank", self.decay_rank), ("rate_rank", self.rate_rank), ("gate_rank", self.gate_rank)];
        for (name, n) in ranks.into_iter().chain(self.value_rank.map(|n| ("value_rank", n))) {
            if n == 0 {
                return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
            }
            at_most(&format!("{key}.{name}"), n, MOST_WIDTH)?;
        }
        if !(self.length_eps > 0.0 && self.length_eps.is_finite()) {
            let problem = format!("is {}, a number above 0 is needed", self.length_eps);
            return Err(ConfigError::at(format!("{key}.length_eps"), problem));
        }
        check_heads(key, self.heads, self.head_dim, self.value_head_dim, self.norm_eps)
    }

    /// Channels of all heads' keys.
    fn keys(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of all heads' values.
    fn values(&self) -> usize {
        self.heads * self.value_head_dim.unwrap_or(self.head_dim)
    }

    /// v, or v and the first layer's mixed.
    fn mixed_values(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        v: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let Some(rank) = self.value_rank else {
            seqs.share(Shared::FirstValues, v);
            return Ok(v);
        };
        let Some(first) = seqs.shared(Shared::FirstValues) else {
            return Err(
                g.refused("rwkv7", "value_rank is given, but no layer without it stands before this one in the graph")
            );
        };
        let towards = low_rank(g, types, &format!("{name}.v"), x, (rank, self.values()), None)?;
        let towards = gated(g, &format!("{name}.v0"), towards)?;
        let way = ops::sub(g, first, v)?;
        let way = ops::mul(g, way, towards)?;
        ops::add(g, v, way)
    }
}

/// W₂ f(W₁ x) [N, outputs], with `.{part}1` and `.{part}2` as its matrices.
fn low_rank(
    g: &mut Graph,
    types: &WeightTypes,
    part: &str,
    x: Value,
    (rank, outputs): (usize, usize),
    f: Option<Unary>,
) -> Result<Value, GraphError> {
    let mut low = linear(g, types, &format!("{part}1"), x, rank, false)?;
    if let Some(f) = f {
        low = ops::unary(g, f, low)?;
    }
    linear(g, types, &format!("{part}2"), low, outputs, false)
}

/// σ(x + bias).
fn gated(g: &mut Graph, bias: &str, x: Value) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("rwkv7", "a low-rank projection has a fixed width"))?;
    let bias = g.weight(bias, [width], g.elem())?;
    let x = ops::add(g, x, bias)?;
    ops::unary(g, Unary::Sigmoid, x)
}

impl Mixer for Rwkv7Config {
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
        let (rows, h, width) = (g.shape(x).dims()[0], self.heads, self.head_dim);
        let (keys, values, value_width) = (self.keys(), self.values(), self.values() / h);
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("wkv7", "a model has a fixed width"))?;
        let shift = TokenShift::new(g, name, x, TokenMix::Previous, seqs)?;
        let vector = |g: &mut Graph, part: &str| g.weight(&format!("{name}.{part}"), [keys], g.elem());
        let by_head = |g: &mut Graph, x: Value| ops::reshape(g, x, [rows, h.into(), width.into()]);
        let project =
            |g: &mut Graph, x: Value, part: &str, n: usize| linear(g, types, &format!("{name}.{part}"), x, n, false);

        let x_r = shift.mixed(g, name, "r")?;
        let r = project(g, x_r, "receptance", keys)?;
        let x_w = shift.mixed(g, name, "w")?;
        let w = low_rank(g, types, &format!("{name}.w"), x_w, (self.decay_rank, keys), Some(Unary::Tanh))?;
        let w = gated(g, &format!("{name}.w0"), w)?;
        let w = ops::scale(g, w, -(-0.5f64).exp())?;
        let x_k = shift.mixed(g, name, "k")?;
        let k = project(g, x_k, "key", keys)?;
        let x_v = shift.mixed(g, name, "v")?;
        let v = project(g, x_v, "value", values)?;
        let v = self.mixed_values(g, types, name, x_v, v, seqs)?;
        let x_a = shift.mixed(g, name, "a")?;
        let rate = low_rank(g, types, &format!("{name}.a"), x_a, (self.rate_rank, keys), None)?;
        let rate = gated(g, &format!("{name}.a0"), rate)?;

        // x / √(Σ x² + ε) is K^{−1/2} x / √(mean x² + ε / K): a norm with a constant weight.
        let k_k = vector(g, "k_k")?;
        let kappa = ops::mul(g, k, k_k)?;
        let kappa = by_head(g, kappa)?;
        let length = g.constant(&format!("{name}.length_1"), [width], &vec![(width as f64).powf(-0.5); width])?;
        let kappa = g.push1(Norm::rms(width, self.length_eps / width as f64), &[kappa, length])?;
        let k_a = vector(g, "k_a")?;
        let less = ops::unary(g, Unary::Offset(-1.0), rate)?;
        let less = ops::mul(g, less, k_a)?;
        let less = ops::mul(g, less, k)?;
        let k = ops::add(g, k, less)?;

        let [r, k, w, rate] = [by_head(g, r)?, by_head(g, k)?, by_head(g, w)?, by_head(g, rate)?];
        let v = ops::reshape(g, v, [rows, h.into(), value_width.into()])?;
        let a = ops::unary(g, Unary::Neg, kappa)?;
        let b = ops::mul(g, kappa, rate)?;
        let kernel = Kernel::new(h, width, value_width);
        let o = match &seqs.kept {
            Kept::Whole { cu_seqlens } => {
                let op = Wkv7::new(kernel, self.form.map(DeltaForm::kernel));
                g.push(op, &[r, k, v, a, b, w, *cu_seqlens])?[0]
            }
            Kept::Slots { rows, slots, .. } => {
                let state = g.state(&format!("{name}.state"), [rows.slots, h, width, value_width], g.elem())?;
                g.push(Wkv7Step::new(kernel), &[state, r, k, v, a, b, w, *slots])?[1]
            }
        };
        let o = group_norm(g, &format!("{name}.g_norm"), o, self.norm_eps)?;
        let r_k = g.weight(&format!("{name}.r_k"), [h, width], g.elem())?;
        let own = ops::mul(g, r, k)?;
        let own = ops::mul(g, own, r_k)?;
        let own = g.push1(SumLast, &[own])?;
        let own = ops::mul(g, v, own)?;
        let own = ops::reshape(g, own, [rows, values.into()])?;
        let o = ops::add(g, o, own)?;
        let x_g = shift.mixed(g, name, "g")?;
        let gate = low_rank(g, types, &format!("{name}.g"), x_g, (self.gate_rank, values), Some(Unary::Sigmoid))?;
        let o = ops::mul(g, o, gate)?;
        linear(g, types, &format!("{name}.output"), o, d_model, false)
    }

    fn state_bytes(&self, d_model: usize, _: &str, _: usize, _: &Sequences) -> usize {
        self.head_dim * self.values() * 4 + token_shift::state_bytes(d_model)
    }
}
