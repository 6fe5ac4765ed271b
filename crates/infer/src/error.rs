//! What can go wrong between a file and its tokens.

use memwall_fit::FitError;
use memwall_formats::{FileError, FormatError};
use memwall_graph::GraphError;
use memwall_nn::CheckpointError;
use memwall_store::{BudgetError, TierError};
use memwall_tokenizer::TokenizerError;

use crate::sample::SamplingError;

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
    /// There is no plan: options that the model cannot have, or a budget that holds none.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A weight cannot be had from where it lives.
    #[error(transparent)]
    Tier(#[from] TierError),
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
