//! Text that the model writes while it is trained, by the weights as they are in memory.

use std::sync::atomic::AtomicBool;

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_infer::sample::{Sampler, Sampling};
use memwall_infer::{Engine, EngineOptions, InferError, Limits, generate};
use memwall_nn::ModelConfig;
use memwall_tokenizer::Tokenizer;

use crate::recipe::{Recipe, SampleRecipe};
use crate::trainer::Trainer;

/// The most tokens of a prompt that are read in one step.
const STEP: usize = 64;

/// What is written, and the engine for it.
pub(crate) struct Sample<'a> {
    recipe: &'a SampleRecipe,
    prompt: Vec<u32>,
    sampling: Sampling,
    options: EngineOptions,
}

impl<'a> Sample<'a> {
    /// The sample of a recipe, if it asks for one.
    pub(crate) fn of(
        recipe: &'a Recipe,
        config: &ModelConfig,
        tokenizer: &Tokenizer,
        threads: usize,
    ) -> Result<Option<Sample<'a>>, InferError> {
        let Some(sample) = &recipe.sample else { return Ok(None) };
        let prompt = tokenizer.encode(&sample.prompt, true, false)?;
        let context = prompt.len() + sample.tokens;
        if context > config.max_context {
            let (given, most) = (prompt.len(), config.max_context);
            let what =
                format!("sample.tokens: {given} of the prompt and {} more are above the model's {most}", sample.tokens);
            return Err(InferError::Request { what });
        }
        let options = EngineOptions {
            threads,
            context,
            step: prompt.len().min(STEP),
            kv: KvFormat::both(Dtype::F32),
            ..EngineOptions::default()
        };
        let sampling = Sampling {
            temperature: sample.temperature,
            top_p: sample.top_p,
            seed: recipe.train.seed,
            ..Sampling::default()
        };
        Ok(Some(Sample { recipe: sample, prompt, sampling, options }))
    }

    /// The engine's options, for the plan.
    pub(crate) fn options(&self) -> EngineOptions {
        self.options
    }

    /// Whether a sample is due after `steps` steps.
    pub(crate) fn due(&self, steps: u64) -> bool {
        steps.is_multiple_of(self.recipe.every)
    }

    /// What the model writes after the prompt. An error leaves the trainer without its weights.
    pub(crate) fn write(&self, trainer: &mut Trainer, tokenizer: &Tokenizer) -> Result<String, InferError> {
        let config = trainer.config().clone();
        let mut engine = Engine::over(&config, std::mem::take(trainer.memory_mut()), self.options)?;
        let mut sampler = Sampler::new(self.sampling, config.vocab_size)?;
        let never = AtomicBool::new(false);
        let limits = Limits { tokens: self.recipe.tokens, stop: &never };
        let made = generate(&mut engine, Some(tokenizer), &[], &self.prompt, &mut sampler, limits, &mut |_| Ok(()))?;
        *trainer.memory_mut() = engine.into_memory();
        Ok(made.text)
    }
}
