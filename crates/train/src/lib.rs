//! How parameters change: backpropagation under a memory plan.
//!
//! A [`Recipe`] says what to train; [`language::train`] does it, step by step, with a [`Trainer`]
//! that plans forward and backward pass as one graph; [`checkpoint`] and [`export`] keep the result.

pub mod checkpoint;
pub mod export;
mod initialize;
pub mod language;
mod recipe;
mod schedule;
mod trainer;
mod update;

pub use initialize::initialize;
pub use recipe::{DataRecipe, OptimizerRecipe, Precision, Recipe, RecipeError, TrainRecipe};
pub use schedule::Schedule;
pub use trainer::{Batch, Evaluated, Optimizer, StepReport, TrainError, Trainer, TrainerOptions, step_graph};
pub use update::Update;
