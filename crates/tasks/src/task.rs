//! The trait of tasks, and the example of token tasks.

use crate::philox::Philox;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug};
use std::ops::Neg;
use thiserror::Error;

/// The target of a position that nothing is asked at; losses and metrics leave it out.
pub const IGNORE: i32 = -100;

/// A part of the examples of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What a model learns from.
    Train,
    /// What choices are made by: learning rates, when to stop.
    Validation,
    /// What is reported.
    Test,
}

impl Split {
    /// Every split.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        })
    }
}

/// What a score says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The share of what was asked that was answered right, 0 to 1; higher is better.
    Accuracy,
    /// Mean surprise of a token in bits, from 0; lower is better.
    BitsPerToken,
}

impl Metric {
    /// The score of a perfect answer.
    pub fn best(self) -> f64 {
        match self {
            Metric::Accuracy => 1.0,
            Metric::BitsPerToken => 0.0,
        }
    }

    /// A negative number when `a` is a better score than `b`, a positive one when it is worse.
    pub fn compare(self, a: f64, b: f64) -> f64 {
        match self {
            Metric::Accuracy => (a - b).neg(),
            Metric::BitsPerToken => a - b,
        }
    }
}

/// A data set or generator with a score; every implementation runs [`crate::laws::task`].
pub trait Task: Send + Sync {
    /// What is asked, with the answer key.
    type Example: Clone + PartialEq + Debug;
    /// What a model answers to one example.
    type Answer;

    /// The task's name in tables and recipes.
    fn name(&self) -> &str;

    /// What its scores say.
    fn metric(&self) -> Metric;

    /// The sizes of the groups of examples of a split, in order; a batch never mixes groups.
    fn groups(&self, split: Split) -> Vec<u64>;

    /// Example `index` of a split, groups counted through: the same each time it is asked for.
    ///
    /// # Errors
    /// [`TaskError::OutOfRange`].
    fn example(&self, split: Split, index: u64) -> Result<Self::Example, TaskError>;

    /// The score of an answer to one example.
    ///
    /// # Errors
    /// [`TaskError::AnswerShape`] when it is no answer to this example.
    fn score(&self, example: &Self::Example, answer: &Self::Answer) -> Result<f64, TaskError>;

    /// The perfect answer, found from the question alone; only generated tasks have one.
    fn oracle(&self, example: &Self::Example) -> Option<Self::Answer>;

    /// An answer of someone who knows only what kind of answer is asked for.
    fn guess(&self, example: &Self::Example, rng: &mut Philox) -> Self::Answer;

    /// The score that [`Task::guess`] gets on average.
    fn chance(&self, example: &Self::Example) -> f64;
}

/// One sequence of a token task: T positions of `channels` ids each, and a target for each position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tokens {
    /// Ids [T, channels].
    pub inputs: Vec<i32>,
    /// Ids per position; 1 except where a task gives several at once.
    pub channels: usize,
    /// The id to predict at each position `[T]`, or [`IGNORE`].
    pub targets: Vec<i32>,
    /// The split it belongs to.
    pub split: Split,
    /// Its group within the split.
    pub group: usize,
}

impl Tokens {
    /// T, the number of positions.
    pub fn time(&self) -> usize {
        self.targets.len()
    }
}

/// A setting of a task that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{task}: {key} = {value}: {reason}")]
pub struct ConfigError {
    /// The task.
    pub task: &'static str,
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Why it cannot be, and what would be right.
    pub reason: String,
}

/// A question to a task that has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TaskError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No example has this index.
    #[error("{task}: example {index} of {split}, which has {examples}")]
    OutOfRange {
        /// The task.
        task: String,
        /// The split.
        split: Split,
        /// The index asked for.
        index: u64,
        /// Examples of the split.
        examples: u64,
    },
    /// An answer of a wrong length.
    #[error("{task}: an answer of {found} values to an example of {expected} positions")]
    AnswerShape {
        /// The task.
        task: String,
        /// Values of the answer.
        found: usize,
        /// Positions of the example.
        expected: usize,
    },
    /// Batches of no examples, or sequences of different shapes in one.
    #[error("a batch of {rows} examples: {reason}")]
    Batch {
        /// Examples in it.
        rows: usize,
        /// What is wrong.
        reason: String,
    },
}
