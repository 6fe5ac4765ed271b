//! Why there is no plan.

use memwall_graph::GraphError;
use memwall_nn::CheckpointError;
use memwall_store::format_size;

use crate::MemoryPlan;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// The file does not hold the weights that its configuration asks for.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The graph could not be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// No choice fits the budget.
    #[error("{}", infeasible(*limit, plan))]
    Infeasible {
        /// The budget in bytes.
        limit: usize,
        /// The smallest plan there is; its total is the minimum that would work.
        plan: Box<MemoryPlan>,
    },
    /// Options that the model cannot have.
    #[error("{what}")]
    Options {
        /// What does not fit, and what would.
        what: String,
    },
}

impl FitError {
    pub(crate) fn options(what: impl Into<String>) -> FitError {
        FitError::Options { what: what.into() }
    }
}

fn infeasible(limit: usize, plan: &MemoryPlan) -> String {
    let total = plan.total_bytes();
    format!(
        "a budget of {} ({limit} bytes) is too small: the minimum that would work is {} ({total} bytes): weights {} as {}, \
         keys and values {} for a context of {}, states {}, activations {}, the process itself {}",
        format_size(limit),
        format_size(total),
        format_size(plan.weights_bytes),
        plan.options.weights,
        format_size(plan.kv_bytes),
        plan.options.context,
        format_size(plan.state_bytes),
        format_size(plan.arena_bytes),
        format_size(plan.other_bytes),
    )
}
