//! Channel layers: what each token does by itself.

pub(crate) mod moe;

use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value, ops};

use crate::config::{Activation, ChannelConfig};
use crate::layers::linear;
use crate::weights::WeightTypes;

impl Activation {
    fn apply(self, g: &mut Graph, x: Value) -> Result<Value, GraphError> {
        let function = match self {
            Activation::Silu => Unary::Silu,
            Activation::Gelu => Unary::Gelu,
            Activation::GeluErf => Unary::GeluErf,
            Activation::Relu | Activation::Relu2 => Unary::Relu,
        };
        let y = ops::unary(g, function, x)?;
        if self == Activation::Relu2 { ops::unary(g, Unary::Square, y) } else { Ok(y) }
    }
}

/// A per-token layer.
pub trait Channel {
    /// Adds the layer: `x` [N, D] in, [N, D] out; weights are named `name`.*.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    fn forward(&self, g: &mut Graph, types: &WeightTypes, name: &str, x: Value) -> Result<Value, GraphError>;

    /// Parameters of the layer for models of width `d_model`.
    fn parameters(&self, d_model: usize) -> usize;

    /// Parameters that serve one token.
    fn active_parameters(&self, d_model: usize) -> usize {
        self.parameters(d_model)
    }
}

impl Channel for ChannelConfig {
    fn forward(&self, g: &mut Graph, types: &WeightTypes, name: &str, x: Value) -> Result<Value, GraphError> {
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("mlp", "a model has a fixed width"))?;
        match *self {
            ChannelConfig::None => Ok(x),
            ChannelConfig::Moe(ref moe) => moe.forward(g, types, name, x),
            ChannelConfig::Glu { hidden, activation, bias } => {
                let gate = linear(g, types, &format!("{name}.gate_proj"), x, hidden, bias)?;
                let up = linear(g, types, &format!("{name}.up_proj"), x, hidden, bias)?;
                let gate = activation.apply(g, gate)?;
                let h = ops::mul(g, gate, up)?;
                let h = types.sub_norm(g, &format!("{name}.ffn_sub_norm"), h)?;
                linear(g, types, &format!("{name}.down_proj"), h, d_model, bias)
            }
            ChannelConfig::Mlp { hidden, activation, bias } => {
                let up = linear(g, types, &format!("{name}.up_proj"), x, hidden, bias)?;
                let h = activation.apply(g, up)?;
                let h = types.sub_norm(g, &format!("{name}.ffn_sub_norm"), h)?;
                linear(g, types, &format!("{name}.down_proj"), h, d_model, bias)
            }
        }
    }

    fn parameters(&self, d_model: usize) -> usize {
        match *self {
            ChannelConfig::None => 0,
            ChannelConfig::Moe(ref moe) => moe.parameters(d_model),
            ChannelConfig::Glu { hidden, bias, .. } => {
                3 * hidden * d_model + usize::from(bias) * (2 * hidden + d_model)
            }
            ChannelConfig::Mlp { hidden, bias, .. } => 2 * hidden * d_model + usize::from(bias) * (hidden + d_model),
        }
    }

    fn active_parameters(&self, d_model: usize) -> usize {
        match self {
            ChannelConfig::Moe(moe) => moe.active_parameters(d_model),
            _ => self.parameters(d_model),
        }
    }
}
