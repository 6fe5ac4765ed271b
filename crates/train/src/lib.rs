//! How parameters change: backpropagation under a memory plan.
//!
//! A [`Recipe`] says what to train; [`language::train`] does it inside a budget, step by step, with a
//! [`Trainer`] that plans forward and backward pass as one graph; [`checkpoint`] and [`export`] keep the result.

pub mod checkpoint;
mod distillation;
pub mod export;
mod gates;
mod initialize;
mod input_noise;
pub mod language;
mod memory_plan;
mod metrics;
mod read;
mod recipe;
mod sample;
mod schedule;
mod start;
mod stored;
mod tensorboard;
mod text;
mod trainer;
mod update;
mod weight_decay;

pub use distillation::{DistillationOptions, Teacher};
pub use gates::Gates;
pub use initialize::initialize;
pub use input_noise::InputNoise;
pub use memory_plan::{TrainingPlan, Work};
pub use recipe::{
    DataRecipe, DecayGroup, DistillationRecipe, OptimizerRecipe, Precision, Recipe, RecipeError, SampleRecipe,
    TrainRecipe,
};
pub use schedule::Schedule;
pub use start::StartError;
pub use trainer::{Batch, Evaluated, Optimizer, StepReport, TrainError, Trainer, TrainerOptions, step_graph};
pub use update::Update;
