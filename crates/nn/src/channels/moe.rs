//! A mixture of experts: a router that sends each token through a few of many gated MLPs, and a shared one beside them.
//!
//! s = softmax or sigmoid(W_r x); the k experts with the largest s + bias are chosen; w = s of the chosen, divided by their
//! sum, times a factor; y = Σ w_e MLP_e(x) + σ(W_s x) MLP_shared(x). The bias chooses only, as in LFM2-MoE and DeepSeek-V3
//! (arXiv 2412.19437); it is a state of training, not differentiated. Sources: Switch Transformers (arXiv 2101.03961),
//! transformers `models/{lfm2_moe,qwen3_next}`.

use memwall_graph::ops::experts::Experts;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::route::Route;
use memwall_graph::{Graph, GraphError, Value, ops};
use memwall_kernels::experts::{Route as Kernel, Scores as KernelScores};
use serde::{Deserialize, Serialize};

use super::Channel;
use crate::config::{Activation, ChannelConfig, ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::weights::WeightTypes;

/// A mixture of experts of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoeConfig {
    /// Experts E.
    pub experts: usize,
    /// Experts of a token k.
    pub active: usize,
    /// Width F of an expert's hidden layer.
    pub hidden: usize,
    /// What makes scores of the router's logits.
    #[serde(default)]
    pub scores: Scores,
    /// A bias by which experts are chosen, but not weighed.
    #[serde(default)]
    pub selection_bias: bool,
    /// Weights of the chosen are divided by their sum.
    #[serde(default = "yes")]
    pub normalize: bool,
    /// What is added to that sum.
    #[serde(default)]
    pub normalize_eps: f64,
    /// What weights are multiplied by.
    #[serde(default = "one")]
    pub scaling: f64,
    /// An expert for all tokens; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedExpert>,
}

/// An expert that every token goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedExpert {
    /// Width of its hidden layer.
    pub hidden: usize,
    /// Its output is multiplied by σ of a linear function of the token.
    #[serde(default)]
    pub gate: bool,
}

/// What makes scores of the router's logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// Of all experts together.
    #[default]
    Softmax,
    /// Of each alone.
    Sigmoid,
}

fn yes() -> bool {
    true
}
fn one() -> f64 {
    1.0
}

impl MoeConfig {
    /// `active` of `experts` experts of width `hidden`, by softmax, normalized, without bias or shared expert.
    pub fn new(experts: usize, active: usize, hidden: usize) -> MoeConfig {
        MoeConfig {
            experts,
            active,
            hidden,
            scores: Scores::default(),
            selection_bias: false,
            normalize: true,
            normalize_eps: 0.0,
            scaling: 1.0,
            shared: None,
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let wrong = |name: &str, problem: String| Err(ConfigError::at(format!("{key}.{name}"), problem));
        for (name, n) in [("experts", self.experts), ("active", self.active), ("hidden", self.hidden)] {
            if n == 0 {
                return wrong(name, "is 0, at least 1 is needed".into());
            }
            at_most(&format!("{key}.{name}"), n, MOST_WIDTH)?;
        }
        if self.active > self.experts {
            return wrong("active", format!("is {}, but there are {} experts", self.active, self.experts));
        }
        if self.experts.saturating_mul(self.hidden) > MOST_WIDTH {
            let problem = format!("is {}: of width {} more than {MOST_WIDTH} in all", self.experts, self.hidden);
            return wrong("experts", problem);
        }
        if !(self.normalize_eps >= 0.0 && self.normalize_eps.is_finite()) {
            return wrong("normalize_eps", format!("is {}, a number from 0 on is needed", self.normalize_eps));
        }
        if !self.scaling.is_finite() {
            return wrong("scaling", format!("is {}, a finite number is needed", self.scaling));
        }
        match self.shared {
            Some(SharedExpert { hidden: 0, .. }) => wrong("shared.hidden", "is 0, at least 1 is needed".into()),
            Some(shared) => at_most(&format!("{key}.shared.hidden"), shared.hidden, MOST_WIDTH),
            None => Ok(()),
        }
    }

    fn route(&self) -> Kernel {
        Kernel {
            experts: self.experts,
            active: self.active,
            scores: match self.scores {
                Scores::Softmax => KernelScores::Softmax,
                Scores::Sigmoid => KernelScores::Sigmoid,
            },
            normalize: self.normalize.then_some(self.normalize_eps),
            factor: self.scaling,
        }
    }

    /// σ(W_s x) MLP_shared(x), or without the gate.
    fn shared(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        shared: SharedExpert,
    ) -> Result<Value, GraphError> {
        let mlp = ChannelConfig::Glu { hidden: shared.hidden, activation: Activation::Silu, bias: false };
        let y = mlp.forward(g, types, &format!("{name}.shared_expert"), x)?;
        if !shared.gate {
            return Ok(y);
        }
        let s = linear(g, types, &format!("{name}.shared_expert_gate"), x, 1, false)?;
        let s = ops::unary(g, Unary::Sigmoid, s)?;
        ops::mul(g, y, s)
    }
}

impl Channel for MoeConfig {
    fn forward(&self, g: &mut Graph, types: &WeightTypes, name: &str, x: Value) -> Result<Value, GraphError> {
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("experts", "a model has a fixed width"))?;
        let logits = linear(g, types, &format!("{name}.gate"), x, self.experts, false)?;
        let mut inputs = vec![logits];
        if self.selection_bias {
            inputs.push(g.weight(&format!("{name}.expert_bias"), [self.experts], g.elem())?);
        }
        let [chosen, weights] = g.push(Route { kernel: self.route() }, &inputs)?[..] else {
            unreachable!("a router has two outputs");
        };
        let mut matrix = |part: &str, rows: usize, width: usize| {
            let weight = format!("{name}.experts.{part}_proj.weight");
            let dtype = types.of(&weight, g.elem());
            g.weight(&weight, [self.experts, rows, width], dtype)
        };
        let gate = matrix("gate", self.hidden, d_model)?;
        let up = matrix("up", self.hidden, d_model)?;
        let down = matrix("down", d_model, self.hidden)?;
        let y = g.push1(Experts { compute: g.compute() }, &[x, chosen, weights, gate, up, down])?;
        match self.shared {
            Some(shared) => {
                let s = self.shared(g, types, name, x, shared)?;
                ops::add(g, y, s)
            }
            None => Ok(y),
        }
    }

    fn parameters(&self, d_model: usize) -> usize {
        let beside = self.experts * d_model
            + usize::from(self.selection_bias) * self.experts
            + self.shared.map_or(0, |s| 3 * s.hidden * d_model + usize::from(s.gate) * d_model);
        beside + 3 * self.experts * self.hidden * d_model
    }

    fn active_parameters(&self, d_model: usize) -> usize {
        self.parameters(d_model) - 3 * (self.experts - self.active) * self.hidden * d_model
    }
}
