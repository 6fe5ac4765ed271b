//! Tokens out: checkpoints in, batching, sampling.
//!
//! A [`Model`] is an opened file; an [`Engine`] plans its step graph once and then executes it, step
//! by step, for the sequences in its slots; [`sample`] turns logits into tokens.

mod engine;
mod error;
mod model;
pub mod sample;

pub use engine::{Engine, EngineOptions, StepRows, Wanted};
pub use error::InferError;
pub use model::Model;
