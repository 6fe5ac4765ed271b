//! RWKV-5's time mix (Peng et al. 2024, Eagle): a matrix state a head, with decays that do not depend on the token.
//!
//! r, k, v (and g) are projections of token-shifted inputs; o = wkv(r, k, v) as in [`memwall_kernels::wkv6`], with
//! log-decays −exp(time_decay) and the bonus time_first, one a head (5.0, 5.1) or one a key channel (5.2);
//! y = W_o (GroupNorm(o) ⊙ silu(g)).

use memwall_graph::ops::fill::Fill;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Type, Value, ops};
use serde::{Deserialize, Serialize};

use super::decay::DecayForm;
use super::rwkv6::{check_heads, read_state};
use super::token_shift::{self, TokenMix, TokenShift};
use super::{Form, Mixer};
use crate::config::ConfigError;
use crate::layers::{group_norm, linear};
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// RWKV-5's time mix of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rwkv5Config {
    /// Heads H.
    pub heads: usize,
    /// Width of a head's keys and values.
    pub head_dim: usize,
    /// Decays and bonuses a key channel (5.2) rather than a head.
    #[serde(default = "yes")]
    pub by_channel: bool,
    /// The swish gate on the output (from 5.1 on).
    #[serde(default = "yes")]
    pub gate: bool,
    /// What the stored decays stand for.
    #[serde(default)]
    pub decay: DecayForm,
    /// ε of the norm of each head's output.
    #[serde(default = "eps")]
    pub norm_eps: f64,
}

fn yes() -> bool {
    true
}
/// The published models divide the output by 8 before a norm with ε 1e-5.
fn eps() -> f64 {
    64e-5
}

impl Rwkv5Config {
    /// RWKV-5.2 with `heads` heads of `head_dim`.
    pub fn new(heads: usize, head_dim: usize) -> Rwkv5Config {
        Rwkv5Config { heads, head_dim, by_channel: true, gate: true, decay: DecayForm::default(), norm_eps: eps() }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        check_heads(key, self.heads, self.head_dim, None, self.norm_eps)
    }

    /// A weight by head or by channel, as [H, K].
    fn by_head(&self, g: &mut Graph, name: &str) -> Result<Value, GraphError> {
        let (h, k) = (self.heads, self.head_dim);
        if self.by_channel {
            return g.weight(name, [h, k], g.elem());
        }
        // The channels of a head share one.
        let w = g.weight(name, [h], g.elem())?;
        let w = ops::reshape(g, w, [h, 1, 1])?;
        let w = ops::repeat_heads(g, w, k)?;
        ops::reshape(g, w, [h, k])
    }
}

impl Mixer for Rwkv5Config {
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
        let (rows, all) = (g.shape(x).dims()[0], self.heads * self.head_dim);
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("wkv6", "a model has a fixed width"))?;
        let shift = TokenShift::new(g, name, x, TokenMix::Current, seqs)?;
        let project = |g: &mut Graph, mix: &str, part: &str| {
            let x = shift.mixed(g, name, mix)?;
            linear(g, types, &format!("{name}.{part}"), x, all, false)
        };
        let r = project(g, "r", "receptance")?;
        let k = project(g, "k", "key")?;
        let v = project(g, "v", "value")?;
        let w = self.by_head(g, &format!("{name}.time_decay"))?;
        let w = self.decay.log(g, w)?;
        // Every token has the same.
        let none =
            g.push1(Fill::new(Type::new([rows, self.heads.into(), self.head_dim.into()], g.elem()), 0.0), &[])?;
        let w = ops::add(g, none, w)?;
        let u = self.by_head(g, &format!("{name}.time_first"))?;
        let o = read_state(g, name, (self.heads, self.head_dim, self.head_dim), [r, k, v, w, u], None, seqs)?;
        let mut o = group_norm(g, &format!("{name}.g_norm"), o, self.norm_eps)?;
        if self.gate {
            let s = project(g, "g", "gate")?;
            let s = ops::unary(g, Unary::Silu, s)?;
            o = ops::mul(g, o, s)?;
        }
        linear(g, types, &format!("{name}.output"), o, d_model, false)
    }

    fn state_bytes(&self, d_model: usize, _: &str, _: usize, _: &Sequences) -> usize {
        self.heads * self.head_dim * self.head_dim * 4 + token_shift::state_bytes(d_model)
    }
}
