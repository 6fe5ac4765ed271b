//! What can go wrong between a model and its quantized form.

use std::path::PathBuf;

use memwall_fit::FitError;
use memwall_formats::{FileError, FormatError};
use memwall_graph::GraphError;
use memwall_infer::InferError;
use memwall_kernels::hadamard::HadamardError;
use memwall_store::{ArenaError, BudgetError, format_size};

/// Why a model was not quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The text has too few tokens.
    #[error("the calibration text has {have} tokens; {need} are needed at least: {why}")]
    ShortText {
        /// Tokens that the text has.
        have: usize,
        /// Tokens that would do.
        need: usize,
        /// What they are needed for.
        why: String,
    },
    /// A token that the model does not have.
    #[error("token {token} of the calibration text is not in the model's vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// A weight is NaN or infinite.
    #[error("tensor {tensor} holds {value} at {at}; a model with such a weight computes nothing to calibrate on")]
    Weight {
        /// The tensor's name in the file.
        tensor: String,
        /// The first such value.
        value: f32,
        /// Its place among the tensor's values.
        at: usize,
    },
    /// A layer's inputs are NaN or infinite: its statistics would say nothing.
    #[error("weight {weight}: its inputs are not finite on the calibration text")]
    NotFinite {
        /// A weight that reads them.
        weight: String,
    },
    /// The second moments have no Cholesky factor, even damped.
    #[error("the second moments of {width} inputs are not positive definite at column {column}, even damped")]
    NotPositive {
        /// Inputs of the layer.
        width: usize,
        /// Where the factor ends.
        column: usize,
    },
    /// An importance matrix that cannot be used.
    #[error("{file}: {problem}")]
    Importance {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A transform needs to know what layers read.
    #[error("{transform} learns from a text: give one to calibrate on")]
    NoText {
        /// The transform.
        transform: &'static str,
    },
    /// A transform does not commute with a layer.
    #[error("{transform}, block {block}: {why}; the model would be another one")]
    Transform {
        /// The transform.
        transform: &'static str,
        /// The block.
        block: usize,
        /// What stands in the way.
        why: String,
    },
    /// No rotation has that size.
    #[error(transparent)]
    Hadamard(#[from] HadamardError),
    /// No choice of formats is so small.
    #[error(
        "no plan has {} ({asked} bytes); the smallest possible has {} ({smallest} bytes)",
        format_size(*asked as usize),
        format_size(*smallest as usize)
    )]
    Impossible {
        /// Bytes asked for.
        asked: u64,
        /// Bytes of the smallest plan.
        smallest: u64,
    },
    /// Values that a format cannot hold.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model does not run.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The model does not fit its file.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A graph could not be built or run.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The budget is too small.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// Scratch memory could not be had.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}
