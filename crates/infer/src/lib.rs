//! Tokens out: checkpoints in, batching, sampling.
//!
//! A [`Model`] is an opened file; an [`Engine`] plans its step graph once and then executes it, step
//! by step, for the sequences in its slots; [`sample`] turns logits into tokens, [`generate`] tokens into
//! text as they come. [`MemoryPlan`] says what all of it needs before anything is allocated.

mod bandwidth;
mod engine;
mod error;
mod generate;
mod memory_plan;
mod model;
pub mod perplexity;
pub mod sample;

pub use bandwidth::{bytes_per_token, read_bandwidth};
pub use engine::{Engine, EngineOptions, StepRows, Wanted, step_graph, step_graph_of};
pub use error::InferError;
pub use generate::{Finish, Generated, Limits, generate};
pub use memory_plan::{MemoryPlan, Wish};
pub use model::Model;
