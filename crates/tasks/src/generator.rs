//! Generators: what makes the examples of a [`GeneratedTask`](crate::GeneratedTask) from random streams.

use crate::copying::CopyingConfig;
use crate::philox::Philox;
use crate::recall::{
    CompositionalMqarConfig, ForgettingMqarConfig, LongFillerMqarConfig, MqarConfig, StackedMqarConfig,
};
use crate::state_tracking::StateTrackingConfig;
use crate::task::ConfigError;
use crate::triggered_copying::TriggeredCopyingConfig;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::ops::Range;

/// The inputs [T, channels] and targets `[T]` of one example.
pub type Generated = (Vec<i32>, Vec<i32>);

/// Makes examples of one setting: a segment of a [`GeneratedTask`](crate::GeneratedTask).
pub trait Generator: Debug + Send + Sync {
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

    /// Positions that ask for an answer.
    fn asked(&self) -> usize;

    /// Ids per position.
    fn channels(&self) -> usize {
        1
    }

    /// Ids that an answer can be.
    fn values(&self) -> Range<i32>;

    /// One example.
    fn generate(&self, rng: &mut Philox) -> Generated;

    /// The right answer at each position that asks for one, found from the inputs alone; any id elsewhere `[T]`.
    fn answer(&self, inputs: &[i32]) -> Vec<i32>;
}

/// A setting of one of the built-in generators, as recipes write it: `name = "mqar"` and its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
#[allow(missing_docs)] // each variant is its configuration
pub enum GeneratorConfig {
    Mqar(MqarConfig),
    ForgettingMqar(ForgettingMqarConfig),
    LongFillerMqar(LongFillerMqarConfig),
    CompositionalMqar(CompositionalMqarConfig),
    StackedMqar(StackedMqarConfig),
    Copying(CopyingConfig),
    StateTracking(StateTrackingConfig),
    TriggeredCopying(TriggeredCopyingConfig),
}

impl GeneratorConfig {
    /// The generator of this setting.
    pub fn generator(self) -> Box<dyn Generator> {
        match self {
            GeneratorConfig::Mqar(config) => Box::new(config),
            GeneratorConfig::ForgettingMqar(config) => Box::new(config),
            GeneratorConfig::LongFillerMqar(config) => Box::new(config),
            GeneratorConfig::CompositionalMqar(config) => Box::new(config),
            GeneratorConfig::StackedMqar(config) => Box::new(config),
            GeneratorConfig::Copying(config) => Box::new(config),
            GeneratorConfig::StateTracking(config) => Box::new(config),
            GeneratorConfig::TriggeredCopying(config) => Box::new(config),
        }
    }
}
