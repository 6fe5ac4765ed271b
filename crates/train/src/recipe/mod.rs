//! Recipes: what to train, on what, and how, in TOML. Unknown keys are refused.

mod check;
mod unknown_key;

use std::path::{Path, PathBuf};

use memwall_kernels::gemm::Compute;
use memwall_nn::{ModelConfig, QuantizationConfig};
use serde::{Deserialize, Serialize};

use crate::distillation::DistillationOptions;
use crate::schedule::Schedule;
use crate::trainer::Optimizer;

/// A training recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the model is called.
    pub name: String,
    /// A model file (GGUF, safetensors or llama2.c) whose weights are the first ones, relative to the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// The model; its `vocab_size` is the tokenizer's. With `from` it may be left out, and must agree with the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelConfig>,
    /// The text.
    pub data: DataRecipe,
    /// Steps, batches and rates.
    pub train: TrainRecipe,
    /// AdamW's settings.
    #[serde(default)]
    pub optimizer: OptimizerRecipe,
    /// A teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationRecipe>,
    /// How linear layers of blocks round while they are trained; takes the place of what `from` says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationConfig>,
    /// Text that the model writes while it is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleRecipe>,
}

/// Which text, and how it is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Text files, relative to the data folder.
    pub files: Vec<PathBuf>,
    /// A tokenizer, relative to the data folder; if absent that of `from`, and else one is trained on the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// The share of the text, at the end of the training part, that is kept for validation.
    #[serde(default = "a_twentieth")]
    pub validation: f64,
    /// The share at the very end that no training sees.
    #[serde(default = "a_twentieth")]
    pub test: f64,
}

fn a_twentieth() -> f64 {
    0.05
}

/// Steps, batches and rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences of a micro-batch.
    pub batch: usize,
    /// Tokens of a sequence.
    pub window: usize,
    /// Micro-batches of a step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// The last learning rate, as a share of the highest.
    #[serde(default = "a_tenth")]
    pub final_rate: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warm_up: u64,
    /// Fixes weights and batches.
    #[serde(default = "one_seed")]
    pub seed: u64,
    /// Operands of matrix products: f32 or bf16.
    #[serde(default)]
    pub compute: Precision,
    /// Blocks whose inside is computed again in the backward pass; if absent, as few as the memory allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute: Option<usize>,
    /// Steps between validations (0: only at the end).
    #[serde(default)]
    pub validate_every: u64,
    /// Steps between checkpoints (0: only at the end).
    #[serde(default)]
    pub checkpoint_every: u64,
}

fn one() -> usize {
    1
}
fn one_seed() -> u64 {
    1
}
fn a_tenth() -> f64 {
    0.1
}

/// Precision of the operands of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// bf16, with f32 sums and master weights.
    Bf16,
}

impl From<Precision> for Compute {
    fn from(p: Precision) -> Compute {
        match p {
            Precision::F32 => Compute::F32,
            Precision::Bf16 => Compute::Bf16,
        }
    }
}

/// AdamW's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub eps: f64,
    /// λ.
    pub weight_decay: f64,
    /// Vectors (norms, biases) decay too.
    pub decay_all: bool,
    /// The largest norm of the gradient; 0: no limit.
    pub clip: f64,
    /// Weights with a decay of their own; the first group that names a weight counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<DecayGroup>,
}

/// Weights that decay at a rate of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecayGroup {
    /// Their names; `*` stands for any characters, e.g. `model.layers.*.norm.weight`.
    pub weights: Vec<String>,
    /// λ.
    pub weight_decay: f64,
}

/// A teacher whose likeliest tokens are learned from; decoupled top-K distillation as in LFM2 (arXiv 2511.23404).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillationRecipe {
    /// A model file with the same tokens, relative to the data folder.
    pub teacher: PathBuf,
    /// K, the likeliest tokens of each position that the teacher tells.
    #[serde(default = "top_k")]
    pub top_k: usize,
    /// τ of the comparison within them.
    #[serde(default = "one_temperature")]
    pub temperature: f64,
    /// The share of the loss; the rest is cross-entropy with the text.
    #[serde(default = "half")]
    pub weight: f64,
}

fn top_k() -> usize {
    32
}
fn one_temperature() -> f64 {
    1.0
}
fn half() -> f64 {
    0.5
}

impl From<&DistillationRecipe> for DistillationOptions {
    fn from(d: &DistillationRecipe) -> DistillationOptions {
        DistillationOptions { top_k: d.top_k, temperature: d.temperature, weight: d.weight }
    }
}

/// Text that the model writes while it is trained: the same at each run of the recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleRecipe {
    /// Steps between samples.
    pub every: u64,
    /// How it begins.
    pub prompt: String,
    /// Tokens after the prompt.
    #[serde(default = "sample_tokens")]
    pub tokens: usize,
    /// Logits are divided by it; 0 takes the likeliest token.
    #[serde(default = "sample_temperature")]
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability.
    #[serde(default = "sample_top_p")]
    pub top_p: f32,
}

fn sample_tokens() -> usize {
    64
}
fn sample_temperature() -> f32 {
    0.8
}
fn sample_top_p() -> f32 {
    0.95
}

impl Default for OptimizerRecipe {
    fn default() -> OptimizerRecipe {
        let o = Optimizer::default();
        OptimizerRecipe {
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: o.weight_decay,
            decay_all: o.decay_all,
            clip: o.clip.unwrap_or(0.0),
            groups: Vec::new(),
        }
    }
}

impl From<&OptimizerRecipe> for Optimizer {
    fn from(o: &OptimizerRecipe) -> Optimizer {
        Optimizer {
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: o.weight_decay,
            decay_all: o.decay_all,
            clip: (o.clip > 0.0).then_some(o.clip),
        }
    }
}

/// Why a recipe is refused.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The recipe.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no recipe; the message names the line and the key.
    #[error("{file}: {error}")]
    Toml {
        /// The recipe.
        file: PathBuf,
        /// Where and why.
        error: String,
    },
    /// A value is out of range.
    #[error("{file}: {key}: {problem}")]
    Value {
        /// The recipe.
        file: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// Names the file, the key, and what would be right.
    pub fn read(file: &Path) -> Result<Recipe, RecipeError> {
        let text = std::fs::read_to_string(file).map_err(|source| RecipeError::Io { file: file.into(), source })?;
        Recipe::parse(file, &text)
    }

    /// Reads and checks a recipe's text; `file` is for messages.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Recipe, RecipeError> {
        let recipe: Recipe = toml::from_str(text).map_err(|e| {
            let mut error = e.to_string().trim_end().to_string();
            if let Some(name) = unknown_key::nearest(e.message()) {
                error.push_str(&format!("; did you mean `{name}`?"));
            }
            RecipeError::Toml { file: file.into(), error }
        })?;
        check::check(&recipe).map_err(|(key, problem)| RecipeError::Value { file: file.into(), key, problem })?;
        Ok(recipe)
    }

    /// The learning rate over the steps.
    pub fn schedule(&self) -> Schedule {
        let t = &self.train;
        Schedule { peak: t.learning_rate, last: t.learning_rate * t.final_rate, warm_up: t.warm_up, steps: t.steps }
    }
}
