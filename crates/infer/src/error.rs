//! What can go wrong between a file and its tokens.

use memwall_formats::{FileError, FormatError};
use memwall_graph::GraphError;
use memwall_nn::CheckpointError;
use memwall_store::BudgetError;

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
