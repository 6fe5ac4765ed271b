//! Gated associative memory: a short convolution and a look-up in learned patterns, added under a gate each.
//!
//! local = conv(x) + b; global = softmax(x Bᵀ) B over the M patterns of the bank B; y = σ(g_l) ⊙ local + σ(g_g) ⊙ global with
//! (g_l, g_g) = x W_g + b_g. The bank is the same for every sequence: only the convolution looks at other tokens, so that a
//! token sees itself and W − 1 before it, and L layers L (W − 1). "Gated Associative Memory" (Acharya, 2025, arXiv 2509.00605).

use memwall_graph::ops::matmul::MatMul;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::ops::softmax::Softmax;
use memwall_graph::{Graph, GraphError, Value, ops};
use serde::{Deserialize, Serialize};

use super::short_conv::depthwise;
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// A gated associative memory as a token mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedAssociativeConfig {
    /// M, patterns of the bank.
    pub slots: usize,
    /// Taps W of the convolution.
    #[serde(default = "taps")]
    pub taps: usize,
    /// Which of the two are there.
    #[serde(default, skip_serializing_if = "Paths::are_both")]
    pub paths: Paths,
    /// Each has a gate; without, they are added as they are.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub gated: bool,
}

/// The paths of a gated associative memory: the ablations of the paper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paths {
    /// Convolution and bank.
    #[default]
    Both,
    /// The convolution.
    Local,
    /// The bank.
    Global,
}

impl Paths {
    fn are_both(&self) -> bool {
        *self == Paths::Both
    }
}

fn taps() -> usize {
    3
}

fn yes() -> bool {
    true
}

impl GatedAssociativeConfig {
    /// `slots` patterns and a convolution of `taps`, as published.
    pub fn new(slots: usize, taps: usize) -> GatedAssociativeConfig {
        GatedAssociativeConfig { slots, taps, paths: Paths::Both, gated: true }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        if !(2..=8).contains(&self.taps) {
            return Err(ConfigError::at(format!("{key}.taps"), format!("is {}, 2 to 8 are supported", self.taps)));
        }
        if self.slots == 0 {
            return Err(ConfigError::at(format!("{key}.slots"), "is 0, at least 1 is needed"));
        }
        at_most(&format!("{key}.slots"), self.slots, MOST_WIDTH)
    }
}

impl GatedAssociativeConfig {
    /// softmax(x Bᵀ) B.
    fn recall(&self, g: &mut Graph, name: &str, x: Value, d: usize) -> Result<Value, GraphError> {
        let bank = g.weight(&format!("{name}.memory_bank.weight"), [self.slots, d], g.elem())?;
        let product = |b_trans| MatMul { a_trans: false, b_trans, compute: g.compute() };
        let (towards, back) = (product(true), product(false));
        let scores = g.push1(towards, &[x, bank])?;
        let shares = g.push1(Softmax, &[scores])?;
        g.push1(back, &[shares, bank])
    }
}

impl Mixer for GatedAssociativeConfig {
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
        let d = g.shape(x).width().ok_or_else(|| g.refused("conv1d", "a model has a fixed width"))?;
        let mut paths = Vec::new();
        if self.paths != Paths::Global {
            paths.push(depthwise(g, &format!("{name}.causal_conv"), x, self.taps, false, true, seqs)?);
        }
        if self.paths != Paths::Local {
            paths.push(self.recall(g, name, x, d)?);
        }
        if self.gated {
            let gates = linear(g, types, &format!("{name}.gate"), x, paths.len() * d, true)?;
            let gates = ops::unary(g, Unary::Sigmoid, gates)?;
            for (i, path) in paths.iter_mut().enumerate() {
                let gate = g.push1(SliceLast { from: i * d, width: d }, &[gates])?;
                *path = ops::mul(g, gate, *path)?;
            }
        }
        match paths[..] {
            [local, global] => ops::add(g, local, global),
            _ => Ok(paths[0]),
        }
    }

    fn state_bytes(&self, d_model: usize, _: &str, _: usize, _: &Sequences) -> usize {
        if self.paths == Paths::Global {
            return 0;
        }
        (self.taps - 1) * d_model * 4
    }
}
