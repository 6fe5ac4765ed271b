//! How parameters change: backpropagation under a memory plan.

mod initialize;
mod schedule;
mod trainer;

pub use initialize::initialize;
pub use schedule::Schedule;
pub use trainer::{Batch, Evaluated, Optimizer, StepReport, TrainError, Trainer, TrainerOptions};
