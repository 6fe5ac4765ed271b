//! How checkpoints store what a state loses with each token.

use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value, ops};
use serde::{Deserialize, Serialize};

/// What a stored decay w stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayForm {
    /// The log-decay is −exp(w): as trained.
    #[default]
    Exponent,
    /// The log-decay is w: as rwkv.cpp stores RWKV-4's.
    Log,
    /// The decay is w: as rwkv.cpp stores RWKV-5's.
    Factor,
}

/// A log-decay that leaves nothing: that of a factor of 0, whose logarithm is infinite.
const NOTHING_LEFT: f64 = -1e30;

impl DecayForm {
    /// The log-decay.
    pub(super) fn log(self, g: &mut Graph, w: Value) -> Result<Value, GraphError> {
        match self {
            DecayForm::Exponent => {
                let rate = ops::unary(g, Unary::Exp, w)?;
                ops::unary(g, Unary::Neg, rate)
            }
            DecayForm::Log => Ok(w),
            DecayForm::Factor => {
                let log = ops::unary(g, Unary::Ln, w)?;
                ops::unary(g, Unary::AtLeast(NOTHING_LEFT), log)
            }
        }
    }
}
