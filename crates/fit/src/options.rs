//! What an engine is planned for: choices, which may change numbers, and schedules, which never do.

use std::fmt;

use memwall_cache::KvFormat;
use memwall_formats::{Dtype, Mix};

use crate::{FitError, Header};

/// The format of the weight matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    /// As the file stores them.
    #[default]
    AsStored,
    /// Converted while they are loaded, as `memwall quantize` converts them.
    Mix(Mix),
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::AsStored => f.write_str("stored"),
            WeightFormat::Mix(mix) => f.write_str(mix.name()),
        }
    }
}

/// Where weights live that keep the format of the file; those that are converted live in memory. A schedule: it changes no bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightTier {
    /// Mapped from the file (or part of the program): pages come when they are first read.
    #[default]
    Mapped,
    /// Read once into memory.
    Ram,
}

impl fmt::Display for WeightTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightTier::Mapped => "mapped",
            WeightTier::Ram => "ram",
        })
    }
}

/// What an engine is planned for.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Threads, at least 1.
    pub threads: usize,
    /// The most tokens of a sequence.
    pub context: usize,
    /// Sequences at the same time.
    pub slots: usize,
    /// The most rows of a step: longer prompts are prefilled in parts.
    pub step: usize,
    /// The most rows of a step whose logits are wanted.
    pub outputs: usize,
    /// The format of the weight matrices.
    pub weights: WeightFormat,
    /// Where the weights live.
    pub tier: WeightTier,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Tokens that can be taken back from windowed caches.
    pub rollback: usize,
    /// Checks the arena's laws in every step (slow).
    pub fences: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            threads: 1,
            context: 512,
            slots: 1,
            step: 512,
            outputs: 1,
            weights: WeightFormat::AsStored,
            tier: WeightTier::Mapped,
            kv: KvFormat::both(Dtype::F16),
            rollback: 0,
            fences: false,
        }
    }
}

impl EngineOptions {
    /// Checks that a model with contexts of up to `max_context` can have these options.
    ///
    /// # Errors
    /// Names the option and what would be right.
    pub fn check(&self, max_context: usize) -> Result<(), FitError> {
        if self.context == 0 || self.context > max_context {
            return Err(FitError::options(format!(
                "a context of {} tokens; this model has 1 to {max_context}",
                self.context
            )));
        }
        for (name, n) in
            [("threads", self.threads), ("slots", self.slots), ("step", self.step), ("outputs", self.outputs)]
        {
            if n == 0 {
                return Err(FitError::options(format!("{name} is 0, at least 1 is needed")));
            }
        }
        Ok(())
    }

    /// The tier of a model's weights unless the user says otherwise: what is converted would pull neighbouring pages of the
    /// file along if the rest were mapped.
    pub fn usual_tier(weights: WeightFormat) -> WeightTier {
        match weights {
            WeightFormat::AsStored => WeightTier::Mapped,
            WeightFormat::Mix(_) => WeightTier::Ram,
        }
    }

    /// Checks them for a model.
    pub(crate) fn check_for(&self, header: Header<'_>) -> Result<(), FitError> {
        self.check(header.checkpoint.config.max_context)
    }
}
