//! RWKV-6's time mix (Peng et al. 2024, Finch): as RWKV-5's, with token shifts and decays that depend on the token.
//!
//! With x′ the token before and Δ = x′ − x: s = tanh(W₁ (x + Δ ⊙ x_x)) in five parts, and for each of w, k, v, r, g the
//! input x + Δ ⊙ (x_· + W₂,· s_·). Log-decays are −exp(time_decay + D₂ tanh(D₁ x_w)); o = wkv(r, k, v) as in
//! [`memwall_kernels::wkv6`] with the bonus time_first; y = W_o (GroupNorm(o) ⊙ silu(W_g x_g)).

use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::ops::wkv6::{Wkv6, Wkv6Step};
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::wkv6::{Form as KernelForm, MOST_KEYS, Wkv6 as Kernel};
use serde::{Deserialize, Serialize};

use super::decay::DecayForm;
use super::gla::GlaForm;
use super::token_shift::{self, TokenMix, TokenShift};
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most, heads_fit};
use crate::layers::{group_norm, linear};
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// What is mixed from a token and the one before it, in the order in which s is cut.
pub(crate) const PARTS: [&str; 5] = ["w", "k", "v", "r", "g"];

/// RWKV-6's time mix of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rwkv6Config {
    /// Heads H.
    pub heads: usize,
    /// Width of a head's keys, and of its values unless `value_head_dim` says otherwise.
    pub head_dim: usize,
    /// Width of a head's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_head_dim: Option<usize>,
    /// Width of each of the five parts of s.
    #[serde(default = "mix_rank")]
    pub mix_rank: usize,
    /// Width of the decays' low-rank projection.
    #[serde(default = "decay_rank")]
    pub decay_rank: usize,
    /// ε of the norm of each head's output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
    /// The form that training uses; chosen by length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<GlaForm>,
}

fn mix_rank() -> usize {
    32
}
fn decay_rank() -> usize {
    64
}
fn eps() -> f64 {
    64e-5
}

/// Checks heads of a time mix with matrix states, whose values are as wide as keys if `value_head_dim` is absent.
pub(super) fn check_heads(
    key: &str,
    heads: usize,
    head_dim: usize,
    value_head_dim: Option<usize>,
    norm_eps: f64,
) -> Result<(), ConfigError> {
    let widths = [("head_dim", head_dim), ("value_head_dim", value_head_dim.unwrap_or(head_dim))];
    for (name, n) in [("heads", heads)].into_iter().chain(widths) {
        if n == 0 {
            return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
        }
    }
    for (_, width) in widths {
        heads_fit(&format!("{key}.heads"), heads, width)?;
    }
    at_most(&format!("{key}.head_dim"), head_dim, MOST_KEYS)?;
    if !(norm_eps >= 0.0 && norm_eps.is_finite()) {
        let problem = format!("is {norm_eps}, a number from 0 on is needed");
        return Err(ConfigError::at(format!("{key}.norm_eps"), problem));
    }
    Ok(())
}

/// o [N, H, V] of r, k [N, H K], v [N, H V], log-decays of [N, H K] elements and a bonus of `[H K]`, over kept states or whole
/// sequences.
pub(super) fn read_state(
    g: &mut Graph,
    name: &str,
    (heads, keys, values): (usize, usize, usize),
    [r, k, v, w, u]: [Value; 5],
    form: Option<GlaForm>,
    seqs: &Sequences,
) -> Result<Value, GraphError> {
    let rows = g.shape(r).dims()[0];
    let kernel = Kernel { compute: g.compute(), ..Kernel::new(heads, keys, values) };
    let mut by_head = |x: Value, width: usize| ops::reshape(g, x, [rows, heads.into(), width.into()]);
    let [r, k, v, w] = [by_head(r, keys)?, by_head(k, keys)?, by_head(v, values)?, by_head(w, keys)?];
    let u = ops::reshape(g, u, [heads, keys])?;
    match &seqs.kept {
        Kept::Whole { cu_seqlens } => {
            let form = form.map(|f| match f {
                GlaForm::Parallel => KernelForm::Parallel,
                GlaForm::Chunked => KernelForm::Chunked,
                GlaForm::Recurrent => KernelForm::Recurrent,
            });
            Ok(g.push(Wkv6::new(kernel, form), &[r, k, v, w, u, *cu_seqlens])?[0])
        }
        Kept::Slots { rows, slots, .. } => {
            let state = g.state(&format!("{name}.state"), [rows.slots, heads, keys, values], g.elem())?;
            Ok(g.push(Wkv6Step::new(kernel), &[state, r, k, v, w, u, *slots])?[1])
        }
    }
}

impl Rwkv6Config {
    /// RWKV-6 with `heads` heads of `head_dim`, all else as published.
    pub fn new(heads: usize, head_dim: usize) -> Rwkv6Config {
        let (mix_rank, decay_rank) = (mix_rank(), decay_rank());
        Rwkv6Config { heads, head_dim, value_head_dim: None, mix_rank, decay_rank, norm_eps: eps(), form: None }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        for (name, n) in [("mix_rank", self.mix_rank), ("decay_rank", self.decay_rank)] {
            if n == 0 {
                return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
            }
            at_most(&format!("{key}.{name}"), n, MOST_WIDTH / PARTS.len())?;
        }
        check_heads(key, self.heads, self.head_dim, self.value_head_dim, self.norm_eps)
    }

    /// Width of a head's values.
    fn value_width(&self) -> usize {
        self.value_head_dim.unwrap_or(self.head_dim)
    }
}

impl Mixer for Rwkv6Config {
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
        let (all, values) = (self.heads * self.head_dim, self.heads * self.value_width());
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("wkv6", "a model has a fixed width"))?;
        let shift = TokenShift::new(g, name, x, TokenMix::Previous, seqs)?;
        let s = shift.mixed(g, name, "x")?;
        let s = linear(g, types, &format!("{name}.mix_w1"), s, PARTS.len() * self.mix_rank, false)?;
        let s = ops::unary(g, Unary::Tanh, s)?;
        let mut inputs = Vec::new();
        for (i, part) in PARTS.into_iter().enumerate() {
            let own = g.push1(SliceLast { from: i * self.mix_rank, width: self.mix_rank }, &[s])?;
            let own = linear(g, types, &format!("{name}.mix_w2_{part}"), own, d_model, false)?;
            let fixed = g.weight(&TokenMix::Previous.weight(name, part), [d_model], g.elem())?;
            let share = ops::add(g, own, fixed)?;
            inputs.push(shift.by(g, share)?);
        }
        let low = linear(g, types, &format!("{name}.decay_w1"), inputs[0], self.decay_rank, false)?;
        let low = ops::unary(g, Unary::Tanh, low)?;
        let own = linear(g, types, &format!("{name}.decay_w2"), low, all, false)?;
        let fixed = g.weight(&format!("{name}.time_decay"), [all], g.elem())?;
        let w = ops::add(g, own, fixed)?;
        let w = DecayForm::Exponent.log(g, w)?;
        let k = linear(g, types, &format!("{name}.key"), inputs[1], all, false)?;
        let v = linear(g, types, &format!("{name}.value"), inputs[2], values, false)?;
        let r = linear(g, types, &format!("{name}.receptance"), inputs[3], all, false)?;
        let u = g.weight(&format!("{name}.time_first"), [self.heads, self.head_dim], g.elem())?;
        let o = read_state(g, name, (self.heads, self.head_dim, self.value_width()), [r, k, v, w, u], self.form, seqs)?;
        let o = group_norm(g, &format!("{name}.g_norm"), o, self.norm_eps)?;
        let gate = linear(g, types, &format!("{name}.gate"), inputs[4], values, false)?;
        let gate = ops::unary(g, Unary::Silu, gate)?;
        let o = ops::mul(g, o, gate)?;
        linear(g, types, &format!("{name}.output"), o, d_model, false)
    }

    fn state_bytes(&self, d_model: usize, _: &str, _: usize, _: &Sequences) -> usize {
        self.heads * self.head_dim * self.value_width() * 4 + token_shift::state_bytes(d_model)
    }
}
