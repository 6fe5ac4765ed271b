//! Tokens out: checkpoints in, batching, sampling.
//!
//! A [`Model`] is an opened file; an [`Engine`] plans its step graph once and then executes it, step
//! by step, for the sequences in its slots; [`sample`] turns logits into tokens, [`generate`] tokens into
//! text as they come. What all of it needs is planned by `memwall-fit`, before anything is allocated.

mod bandwidth;
mod engine;
mod error;
mod generate;
mod load;
mod model;
pub mod perplexity;
pub mod recall_slices;
pub mod sample;
mod shipped;

pub use bandwidth::{bytes_per_token, read_bandwidth};
pub use engine::{Engine, StepRows, Wanted};
pub use error::InferError;
pub use generate::{Finish, Generated, Limits, generate};
pub use load::{Behind, Conversion, Loading};
pub use memwall_fit::{EngineOptions, MemoryPlan, Wish, step_graph};
pub use model::Model;
