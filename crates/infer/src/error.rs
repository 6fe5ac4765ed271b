//! What can go wrong between a file and its tokens.

use memwall_formats::{FileError, FormatError};
use memwall_graph::GraphError;
use memwall_nn::CheckpointError;
use memwall_store::{BudgetError, format_size};
use memwall_tokenizer::TokenizerError;

use crate::{MemoryPlan, sample::SamplingError};

/// Why a model does not run, or a step was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no model that memwall has.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The graph could not be built or run.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A tensor could not be decoded.
    #[error("tensor {tensor}: {error}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// Why.
        error: FormatError,
    },
    /// The budget is too small.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// No options fit the budget.
    #[error("{}", infeasible(*limit, plan))]
    Infeasible {
        /// The budget in bytes.
        limit: usize,
        /// The smallest plan there is; its total is the minimum that would work.
        plan: Box<MemoryPlan>,
    },
    /// The vocabulary refuses a text or token.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A sampling setting outside its range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// What was to be written could not be.
    #[error(transparent)]
    Output(#[from] std::io::Error),
    /// A request that does not fit what was planned.
    #[error("{what}")]
    Request {
        /// What does not fit, and what would.
        what: String,
    },
}

impl InferError {
    pub(crate) fn request(what: impl Into<String>) -> InferError {
        InferError::Request { what: what.into() }
    }
}

fn infeasible(limit: usize, plan: &MemoryPlan) -> String {
    let total = plan.total_bytes();
    format!(
        "a budget of {} ({limit} bytes) is too small: the minimum that would work is {} ({total} bytes): weights {} as \
         stored, keys and values {} for a context of {}, states {}, activations {}, the process itself {}",
        format_size(limit),
        format_size(total),
        format_size(plan.weights_bytes),
        format_size(plan.kv_bytes),
        plan.options.context,
        format_size(plan.state_bytes),
        format_size(plan.arena_bytes),
        format_size(plan.other_bytes),
    )
}
