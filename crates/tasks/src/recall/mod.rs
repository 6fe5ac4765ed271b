//! Associative recall: sequences of key-value pairs, and queries for the value of a key.
//!
//! Multi-query associative recall (MQAR) and its variants, after "Zoology: Measuring and Improving Recall in Efficient
//! Language Models" (Arora, Eyuboglu et al., 2023). A generator makes one example from a random stream; [`RecallTask`] gives
//! every segment of every split a seed of its own.

mod compositional;
mod forgetting;
mod layout;
mod long_filler;
mod mqar;
mod published;
mod recall_task;
mod stacked;

pub use compositional::CompositionalMqarConfig;
pub use forgetting::ForgettingMqarConfig;
pub use long_filler::{LongFillerMqarConfig, QueryPlaces};
pub use mqar::MqarConfig;
pub use published::FIGURE_2;
pub use recall_task::{RecallData, RecallTask};
pub use stacked::StackedMqarConfig;

use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::ops::Range;

/// The inputs [T, channels] and targets `[T]` of one recall example.
pub type Recalled = (Vec<i32>, Vec<i32>);

/// Makes examples of one setting: a segment of a [`RecallTask`].
pub trait RecallGenerator: Debug + Send + Sync {
    /// Its name in recipes and errors.
    fn name(&self) -> &'static str;

    /// Checks the setting; the other methods may be called only if this succeeds.
    ///
    /// # Errors
    /// The first setting that cannot be.
    fn check(&self) -> Result<(), ConfigError>;

    /// Examples of the segment.
    fn num_examples(&self) -> u64;

    /// T, positions of an example.
    fn input_seq_len(&self) -> usize;

    /// Pairs that are asked for, each once.
    fn num_kv_pairs(&self) -> usize;

    /// Ids per position.
    fn channels(&self) -> usize {
        1
    }

    /// Ids that an answer can be.
    fn values(&self) -> Range<i32>;

    /// One example.
    fn generate(&self, rng: &mut Philox) -> Recalled;

    /// The right answer at each position that asks for one, found from the inputs alone; any id elsewhere `[T]`.
    fn answer(&self, inputs: &[i32]) -> Vec<i32>;
}

/// A setting of one of the built-in generators, as recipes write it: `name = "mqar"` and its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
#[allow(missing_docs)] // each variant is its configuration
pub enum RecallConfig {
    Mqar(MqarConfig),
    ForgettingMqar(ForgettingMqarConfig),
    LongFillerMqar(LongFillerMqarConfig),
    CompositionalMqar(CompositionalMqarConfig),
    StackedMqar(StackedMqarConfig),
}

impl RecallConfig {
    /// The generator of this setting.
    pub fn generator(self) -> Box<dyn RecallGenerator> {
        match self {
            RecallConfig::Mqar(config) => Box::new(config),
            RecallConfig::ForgettingMqar(config) => Box::new(config),
            RecallConfig::LongFillerMqar(config) => Box::new(config),
            RecallConfig::CompositionalMqar(config) => Box::new(config),
            RecallConfig::StackedMqar(config) => Box::new(config),
        }
    }
}
