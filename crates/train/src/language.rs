//! Trains a language model by a recipe: tokenizer, windows of text, validation, samples, checkpoints, export.
//!
//! The windows of a step depend on the seed and the step alone, so a resumed training sees what an
//! uninterrupted one would have seen, and ends with the same bits.

use std::path::{Path, PathBuf};
use std::time::Instant;

use memwall_formats::{Dtype, atomic_file};
use memwall_graph::Memory;
use memwall_infer::InferError;
use memwall_nn::ModelConfig;
use memwall_store::{Budget, BudgetError, ProcessMemory};
use memwall_tasks::{Corpus, CorpusError, Split};
use memwall_tokenizer::TokenizerError;

use crate::checkpoint::{self, CheckpointError, Origin};
use crate::distillation::Teacher;
use crate::export::{self, ExportError, Stored};
use crate::gates::Gates;
use crate::memory_plan::{TrainingPlan, Work};
use crate::metrics::Metrics;
use crate::recipe::Recipe;
use crate::sample::Sample;
use crate::start::{Start, StartError};
use crate::tensorboard::EventFile;
use crate::text::{Vocabulary, bits_per_byte, fingerprint, micro_batches};
use crate::trainer::{TrainError, Trainer, TrainerOptions, evaluation_graph};
use crate::weight_decay;

/// What the process grows by beyond what the plan names: tables of the plan, buffers of files.
const ALLOWANCE_BYTES: usize = 4 << 20;

/// Why a training did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguageError {
    /// The text cannot be used.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The tokenizer cannot be made.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model file that the recipe starts from does not fit.
    #[error("from: {0}")]
    Start(#[from] StartError),
    /// The teacher's model file does not fit.
    #[error("distillation.teacher: {0}")]
    Teacher(StartError),
    /// The memory does not suffice; nothing was allocated for the training.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The training cannot be planned, or a sample not be written.
    #[error(transparent)]
    Plan(#[from] TrainError),
    /// A step failed.
    #[error("{error}; {checkpoint}")]
    Train {
        /// Why.
        error: Box<TrainError>,
        /// Where training can be resumed from.
        checkpoint: String,
    },
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Something in the output folder cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The recipe and the text do not go together.
    #[error("{what}")]
    Data {
        /// What does not fit, and what would.
        what: String,
    },
}

impl From<InferError> for LanguageError {
    fn from(error: InferError) -> LanguageError {
        LanguageError::Plan(error.into())
    }
}

/// One line of progress.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// All steps.
    pub steps: u64,
    /// Mean loss of the step in nats a token.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub rate: f64,
    /// Tokens a second since the last line.
    pub tokens_per_second: f64,
    /// Bits a byte of the validation text, when it has been measured.
    pub validation_bits_per_byte: Option<f64>,
    /// What the model writes after the prompt of `sample`, when it was due.
    pub sample: Option<String>,
    /// Where the gates of low-rank corrections are, if the model has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gates: Option<Gates>,
}

/// How a training ended.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// Parameters.
    pub parameters: usize,
    /// Bits a byte of the validation text.
    pub validation_bits_per_byte: f64,
    /// Bits a byte of the test text, which no training sees.
    pub test_bits_per_byte: f64,
    /// Blocks that were recomputed.
    pub recompute: usize,
    /// What the plan held, in bytes.
    pub plan_bytes: usize,
}

/// What to do besides the recipe.
#[derive(Clone, Debug)]
pub struct LanguageOptions {
    /// Where data files are.
    pub data: PathBuf,
    /// Where checkpoint, tokenizer, metrics and model go.
    pub out: PathBuf,
    /// Threads.
    pub threads: usize,
    /// What weights, moments, gradients and activations are taken from.
    pub budget: Budget,
    /// Continues from the checkpoint in `out`.
    pub resume: bool,
    /// Format of the exported model's matrices; without it F32, and of weights that were trained rounded the format that holds
    /// just what they were rounded to, if files have one.
    pub export: Option<Dtype>,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LanguageError {
    let path = path.to_path_buf();
    move |source| LanguageError::Io { path, source }
}

/// Trains by `recipe`; calls `plan` before anything is allocated, `progress` after each step.
///
/// # Errors
/// If text, tokenizer, budget, a step, or the output folder fails; what was written before stays.
pub fn train(
    recipe: &Recipe,
    options: &LanguageOptions,
    plan: impl FnOnce(&TrainingPlan),
    mut progress: impl FnMut(&Progress),
) -> Result<Summary, LanguageError> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(io(out))?;
    let metrics_path = out.join("metrics.jsonl");
    let mut metrics = Metrics::open(&metrics_path).map_err(io(&metrics_path))?;
    let checkpoint = out.join("checkpoint.safetensors");
    for file in [&checkpoint, &out.join("tokenizer.json"), &out.join("model.gguf")] {
        atomic_file::remove_unfinished(file).map_err(io(file))?;
    }

    let start = recipe.from.as_ref().map(|file| Start::open(&options.data.join(file))).transpose()?;
    let taught = recipe.distillation.as_ref().map(|d| Start::open(&options.data.join(&d.teacher))).transpose();
    let taught = taught.map_err(LanguageError::Teacher)?;
    let vocabulary = Vocabulary::of(recipe, &options.data, out, start.as_ref().or(taught.as_ref()))?;
    let mut config = match (&start, &recipe.model) {
        (Some(start), model) => start.config(model.as_ref())?,
        (None, Some(model)) => model.clone(),
        (None, None) => return Err(LanguageError::Data { what: "the recipe has neither model nor from".into() }),
    };
    if recipe.quantization.is_some() {
        config.quantization = recipe.quantization.clone();
        config.check().map_err(|e| LanguageError::Data { what: e.to_string() })?;
    }
    vocabulary.check(&config, recipe)?;
    let teacher_config = taught.as_ref().map(|t| vocabulary.teacher(t, &config, recipe)).transpose()?;
    let corpus = vocabulary.corpus(recipe, &options.data)?;
    let sample = Sample::of(recipe, &config, &vocabulary.tokenizer, options.threads)?;

    let held = planned(recipe, options, &config, teacher_config.as_ref(), sample.as_ref())?;
    plan(&held);
    let _held = held.take(&options.budget)?;
    let mut memory = Memory::new();
    let resumes = options.resume && checkpoint.exists();
    if let Some(start) = start.as_ref().filter(|_| !resumes) {
        start.load(&evaluation_graph(&config, &held.options).map_err(TrainError::from)?, &mut memory)?;
    }
    let mut trainer = Trainer::new(config, held.options, memory)?;
    if let (Some(file), Some(config)) = (&taught, &teacher_config) {
        trainer.set_teacher(Teacher::load(file, config, &held.options).map_err(LanguageError::Teacher)?);
    }
    weight_decay::set(&mut trainer, recipe)?;
    let origin = Origin { recipe: identity(recipe)?, text: fingerprint(&corpus) };
    if resumes {
        checkpoint::load(&checkpoint, &mut trainer, &origin)?;
    }
    metrics.keep(trainer.steps()).map_err(io(&metrics_path))?;
    let events = EventFile::create(out, trainer.steps()).map_err(io(out))?;

    let mut run = Run { recipe, corpus, vocabulary, sample, trainer, metrics, events, checkpoint, origin };
    run.steps(&mut progress)?;
    run.finish(options, &held)
}

/// The plan that fits the budget.
fn planned(
    recipe: &Recipe,
    options: &LanguageOptions,
    config: &ModelConfig,
    teacher: Option<&ModelConfig>,
    sample: Option<&Sample<'_>>,
) -> Result<TrainingPlan, LanguageError> {
    let t = &recipe.train;
    if t.window > config.max_context {
        let what = format!("train.window is {}, but the model's max_context is {}", t.window, config.max_context);
        return Err(LanguageError::Data { what });
    }
    let trainer_options = TrainerOptions {
        tokens: t.batch * t.window,
        sequences: t.batch,
        threads: options.threads,
        compute: t.compute.into(),
        recompute: t.recompute.unwrap_or(0),
        seed: t.seed,
        input_noise: None,
        distillation: recipe.distillation.as_ref().map(Into::into),
        fences: false,
    };
    let other_bytes = ProcessMemory::read().map_or(0, |m| m.rss) + ALLOWANCE_BYTES;
    let work = Work { config, accumulate: t.accumulate, teacher, sample: sample.map(Sample::options), other_bytes };
    let limit = options.budget.left();
    Ok(TrainingPlan::choose(&work, trainer_options, t.recompute.is_none(), limit)?)
}

/// The recipe as a checkpoint knows it.
fn identity(recipe: &Recipe) -> Result<String, LanguageError> {
    toml::to_string(recipe).map_err(|e| LanguageError::Data { what: e.to_string() })
}

/// A training in progress.
struct Run<'a> {
    recipe: &'a Recipe,
    corpus: Corpus,
    vocabulary: Vocabulary<'a>,
    sample: Option<Sample<'a>>,
    trainer: Trainer,
    metrics: Metrics,
    events: EventFile,
    checkpoint: PathBuf,
    origin: Origin,
}

impl Run<'_> {
    /// All steps that are left.
    fn steps(&mut self, progress: &mut impl FnMut(&Progress)) -> Result<(), LanguageError> {
        let t = &self.recipe.train;
        while self.trainer.steps() < t.steps {
            let line = self.step()?;
            let step = line.step;
            progress(&line);
            self.record(&line)?;
            if step == t.steps || (t.checkpoint_every > 0 && step.is_multiple_of(t.checkpoint_every)) {
                self.save()?;
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Progress, LanguageError> {
        let (t, step, begin) = (&self.recipe.train, self.trainer.steps(), Instant::now());
        let batches = micro_batches(self.corpus.part(Split::Train), self.recipe, step);
        let rate = self.recipe.schedule().rate(step);
        let report = match self.trainer.step(&batches, rate, &(&self.recipe.optimizer).into()) {
            Ok(report) => report,
            Err(error) => return Err(self.stopped(error)),
        };
        let tokens = (t.batch * t.window * t.accumulate) as f64;
        let tokens_per_second = tokens / begin.elapsed().as_secs_f64();
        let done = step + 1;
        let validates = t.validate_every > 0 && done.is_multiple_of(t.validate_every);
        let validation_bits_per_byte = if validates { Some(self.bits_per_byte(Split::Validation)?) } else { None };
        let sample = match self.sample.as_ref().filter(|s| s.due(done)) {
            Some(sample) => Some(sample.write(&mut self.trainer, &self.vocabulary.tokenizer)?),
            None => None,
        };
        Ok(Progress {
            step: done,
            steps: t.steps,
            loss: report.loss,
            gradient_norm: report.gradient_norm,
            rate,
            tokens_per_second,
            validation_bits_per_byte,
            sample,
            gates: self.trainer.gates(),
        })
    }

    fn record(&mut self, line: &Progress) -> Result<(), LanguageError> {
        self.metrics.add(line).map_err(io(self.metrics.path()))?;
        let mut scalars = vec![
            ("loss", line.loss),
            ("gradient_norm", line.gradient_norm),
            ("learning_rate", line.rate),
            ("tokens_per_second", line.tokens_per_second),
        ];
        scalars.extend(line.validation_bits_per_byte.map(|bits| ("validation/bits_per_byte", bits)));
        self.events.scalars(line.step, &scalars).map_err(io(self.events.path()))
    }

    /// Keeps the weights as they are, if the next step can be made with them: no others are worth it.
    fn save(&mut self) -> Result<(), LanguageError> {
        let next = micro_batches(self.corpus.part(Split::Train), self.recipe, self.trainer.steps());
        self.trainer.check(&next).map_err(|error| self.stopped(error))?;
        // The lines that tell how the weights came to be are on the disk before them.
        self.metrics.sync().map_err(io(self.metrics.path()))?;
        Ok(checkpoint::save(&self.checkpoint, &self.trainer, &self.origin)?)
    }

    fn bits_per_byte(&mut self, split: Split) -> Result<f64, LanguageError> {
        Ok(bits_per_byte(&mut self.trainer, self.corpus.part(split), self.recipe)?)
    }

    /// A failed step, and where training can go on from.
    fn stopped(&self, error: TrainError) -> LanguageError {
        let checkpoint = match self.checkpoint.exists() {
            true => format!("the last good checkpoint is {}", self.checkpoint.display()),
            false => "there is no checkpoint yet".to_string(),
        };
        LanguageError::Train { error: Box::new(error), checkpoint }
    }

    /// Exports the model and measures it.
    fn finish(mut self, options: &LanguageOptions, plan: &TrainingPlan) -> Result<Summary, LanguageError> {
        let weights = weights(&self.trainer);
        let put_tokenizer = |m: &mut _| self.vocabulary.put_gguf_keys(m);
        let (name, memory) = (&self.recipe.name, self.trainer.memory());
        let model = options.out.join("model.gguf");
        let stored = Stored::of(self.trainer.config(), self.trainer.graph(), options.export);
        export::gguf(&model, name, &stored, &weights, memory, put_tokenizer)?;
        Ok(Summary {
            steps: self.trainer.steps(),
            parameters: weights.iter().map(|(_, s)| s.iter().product::<usize>()).sum(),
            validation_bits_per_byte: self.bits_per_byte(Split::Validation)?,
            test_bits_per_byte: self.bits_per_byte(Split::Test)?,
            recompute: plan.options.recompute,
            plan_bytes: plan.total_bytes(),
        })
    }
}

/// Names and shapes of the trained weights.
fn weights(trainer: &Trainer) -> Vec<(String, Vec<usize>)> {
    let g = trainer.graph();
    let shape = |name: &str| g.find(name).map(|v| g.shape(v).dims().iter().filter_map(|d| d.known()).collect());
    trainer.parameters().map(|name| (name.to_string(), shape(name).unwrap_or_default())).collect()
}
