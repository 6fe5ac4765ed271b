//! Mamba-2 (Dao & Gu 2024): a state space of one decay a head, which is attention with a decaying mask.
//!
//! z, x, B, C, Δ = W_in u; x, B, C = silu(conv(x, B, C)); Δ = softplus(Δ + dt_bias), A = −exp(A_log);
//! S_t = e^{Δ_t A} S_{t−1} + B_t (Δ_t x_t)ᵀ, y_t = S_tᵀ C_t + D x_t; out = W_out (RMSNorm(y ⊙ silu(z))).
//! Heads of x share the B and C of their group, and the norm is of each group's channels.
//!
//! Source: "Transformers are SSMs", arXiv 2405.21060; names as in Hugging Face transformers (`Mamba2Mixer`).

use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::gla::Gla as Kernel;
use serde::{Deserialize, Serialize};

use super::gla::GlaForm;
use super::linear_memory::{Layer, check_heads, state_bytes};
use super::short_conv::depthwise;
use super::{Form, Mixer};
use crate::config::ConfigError;
use crate::layers::linear;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// Mamba-2 of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mamba2Config {
    /// Heads H of x.
    pub heads: usize,
    /// Channels P of a head of x.
    pub head_width: usize,
    /// Width of B and C: the state of a head is [state_width, P].
    pub state_width: usize,
    /// Groups G of heads that share B and C.
    #[serde(default = "one")]
    pub groups: usize,
    /// Taps of the depthwise convolution, with SiLU, on x, B and C.
    #[serde(default = "taps")]
    pub taps: usize,
    /// The convolution has a bias.
    #[serde(default = "yes")]
    pub conv_bias: bool,
    /// The projections have biases.
    #[serde(default)]
    pub bias: bool,
    /// Δ is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_step_min: Option<f64>,
    /// Δ is at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_step_max: Option<f64>,
    /// ε of the norm of the output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// The form that training uses; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<GlaForm>,
}

fn one() -> usize {
    1
}
fn taps() -> usize {
    4
}
fn yes() -> bool {
    true
}
fn eps() -> f64 {
    1e-5
}

impl Mamba2Config {
    /// `heads` heads of `head_width` over states of `state_width`, all else as published.
    pub fn new(heads: usize, head_width: usize, state_width: usize) -> Mamba2Config {
        Mamba2Config {
            heads,
            head_width,
            state_width,
            groups: one(),
            taps: taps(),
            conv_bias: true,
            bias: false,
            time_step_min: None,
            time_step_max: None,
            norm_eps: eps(),
            form: None,
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let widths = [("head_width", self.head_width), ("state_width", self.state_width)];
        check_heads(key, self.heads, ("groups", self.groups), &widths)?;
        if !(2..=8).contains(&self.taps) {
            return Err(ConfigError::at(format!("{key}.taps"), format!("is {}, 2 to 8 are supported", self.taps)));
        }
        let (least, most) = (self.time_step_min.unwrap_or(0.0), self.time_step_max.unwrap_or(f64::INFINITY));
        if !(least >= 0.0 && least <= most) {
            let problem = format!("is {least}, a number from 0 to time_step_max ({most}) is needed");
            return Err(ConfigError::at(format!("{key}.time_step_min"), problem));
        }
        Ok(())
    }

    /// Channels of x.
    fn inner(&self) -> usize {
        self.heads * self.head_width
    }

    /// Channels of B, and of C.
    fn shared(&self) -> usize {
        self.groups * self.state_width
    }

    /// Δ [N, H] from its projection.
    fn time_steps(&self, g: &mut Graph, name: &str, dt: Value) -> Result<Value, GraphError> {
        let bias = g.weight(&format!("{name}.dt_bias"), [self.heads], g.elem())?;
        let dt = ops::add(g, dt, bias)?;
        // softplus(x) = −logsigmoid(−x).
        let dt = ops::unary(g, Unary::Neg, dt)?;
        let mut minus = ops::unary(g, Unary::LogSigmoid, dt)?;
        if let Some(most) = self.time_step_max {
            minus = ops::unary(g, Unary::AtLeast(-most), minus)?;
        }
        let dt = ops::unary(g, Unary::Neg, minus)?;
        match self.time_step_min {
            Some(least) => ops::unary(g, Unary::AtLeast(least), dt),
            None => Ok(dt),
        }
    }

    /// D x, D one a head, x [N, H, P].
    fn skip(&self, g: &mut Graph, name: &str, x: Value) -> Result<Value, GraphError> {
        let (h, p) = (self.heads, self.head_width);
        let d = g.weight(&format!("{name}.D"), [h], g.elem())?;
        let d = ops::reshape(g, d, [h, 1, 1])?;
        let d = ops::repeat_heads(g, d, p)?;
        let d = ops::reshape(g, d, [h, p])?;
        ops::mul(g, x, d)
    }
}

impl Mixer for Mamba2Config {
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
        let (d_model, rows) = (layer.d_model(g)?, g.shape(x).dims()[0]);
        let (h, p, n) = (self.heads, self.head_width, self.state_width);
        let (inner, shared) = (self.inner(), self.shared());
        let convolved = inner + 2 * shared;
        let all = linear(g, types, &format!("{name}.in_proj"), x, inner + convolved + h, self.bias)?;
        let part = |g: &mut Graph, of: Value, from: usize, width: usize| g.push1(SliceLast { from, width }, &[of]);
        let z = part(g, all, 0, inner)?;
        let xbc = part(g, all, inner, convolved)?;
        let dt = part(g, all, inner + convolved, h)?;
        let xbc = depthwise(g, &format!("{name}.conv1d"), xbc, self.taps, true, self.conv_bias, seqs)?;
        let u = part(g, xbc, 0, inner)?;
        let u = layer.heads(g, u, [h, p])?;
        let group = |g: &mut Graph, from: usize| {
            let y = part(g, xbc, from, shared)?;
            let y = layer.heads(g, y, [self.groups, n])?;
            if self.groups == h { Ok(y) } else { ops::repeat_heads(g, y, h) }
        };
        let (k, q) = (group(g, inner)?, group(g, inner + shared)?);

        let dt = self.time_steps(g, name, dt)?;
        let rate = g.weight(&format!("{name}.A_log"), [h], g.elem())?;
        let rate = ops::unary(g, Unary::Exp, rate)?;
        let rate = ops::unary(g, Unary::Neg, rate)?;
        let decay = ops::mul(g, dt, rate)?;
        let dt = ops::reshape(g, dt, [rows, h.into(), 1.into()])?;
        let v = ops::mul(g, u, dt)?;
        let kernel = Kernel { compute: g.compute(), scale: 1.0, ..Kernel::new(h, n, p) };
        let o = layer.recall(g, kernel, self.form, [q, k, v], Some((decay, GateShape::Head)))?;
        let skip = self.skip(g, name, u)?;
        let y = ops::add(g, o, skip)?;
        let y = layer.joined(g, y)?;

        let z = ops::unary(g, Unary::Silu, z)?;
        let y = ops::mul(g, y, z)?;
        let y = layer.heads(g, y, [self.groups, inner / self.groups])?;
        let weight = g.weight(&format!("{name}.norm.weight"), [inner], g.elem())?;
        let norm = Norm::rms(inner / self.groups, self.norm_eps).grouped(self.groups);
        let y = g.push1(norm, &[y, weight])?;
        let y = layer.joined(g, y)?;
        linear(g, types, &format!("{name}.out_proj"), y, d_model, self.bias)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        let convolved = self.inner() + 2 * self.shared();
        state_bytes([self.heads, self.state_width, self.head_width], convolved, Some(self.taps))
    }
}
