//! Trains a language model by a recipe: tokenizer, windows of text, validation, checkpoints, export.
//!
//! The windows of a step depend on the seed and the step alone, so a resumed training sees what an
//! uninterrupted one would have seen, and ends with the same bits.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memwall_formats::Dtype;
use memwall_graph::Memory;
use memwall_tasks::{Corpus, CorpusError, CorpusPart, Documents, Fractions, Philox, Split};
use memwall_tokenizer::train::{BpeSettings, byte_level_bpe};
use memwall_tokenizer::{Tokenizer, TokenizerError};

use crate::checkpoint::{self, CheckpointError};
use crate::export::{self, ExportError};
use crate::recipe::Recipe;
use crate::trainer::{Batch, TrainError, Trainer, TrainerOptions};

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
    /// A step failed.
    #[error("{error}; the last good checkpoint is {checkpoint}")]
    Train {
        /// Why.
        error: TrainError,
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

/// One line of progress.
#[derive(Clone, Copy, Debug, serde::Serialize)]
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
    /// Continues from the checkpoint in `out`.
    pub resume: bool,
    /// Format of the exported model's matrices.
    pub export: Dtype,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LanguageError {
    let path = path.to_path_buf();
    move |source| LanguageError::Io { path, source }
}

/// Trains by `recipe`; calls `progress` after each step.
///
/// # Errors
/// If text, tokenizer, a step, or the output folder fails; what was written before stays.
pub fn train(
    recipe: &Recipe,
    options: &LanguageOptions,
    mut progress: impl FnMut(&Progress),
) -> Result<Summary, LanguageError> {
    std::fs::create_dir_all(&options.out).map_err(io(&options.out))?;
    let files: Vec<PathBuf> = recipe.data.files.iter().map(|f| options.data.join(f)).collect();
    let tokenizer = tokenizer(recipe, &files, &options.out)?;
    let fractions = Fractions { validation: recipe.data.validation, test: recipe.data.test };
    let corpus = Corpus::read(&files, &Documents::Files, fractions, tokenizer.eos(), |text| {
        tokenizer.encode(&String::from_utf8_lossy(text), false, false)
    })?;
    let t = &recipe.train;
    let text = corpus.part(Split::Train);
    if text.len() <= t.window {
        let what =
            format!("the training text has {} tokens, more than train.window {} are needed", text.len(), t.window);
        return Err(LanguageError::Data { what });
    }
    let trainer_options = TrainerOptions {
        tokens: t.batch * t.window,
        sequences: t.batch,
        threads: options.threads,
        compute: t.compute.into(),
        recompute: t.recompute,
        seed: t.seed,
        fences: false,
    };
    let at = options.out.join("checkpoint.safetensors");
    let fail = |error: TrainError| LanguageError::Train { error, checkpoint: at.display().to_string() };
    let mut trainer = Trainer::new(recipe.model.clone(), trainer_options, Memory::new()).map_err(fail)?;
    let identity = toml::to_string(recipe).map_err(|e| LanguageError::Data { what: e.to_string() })?;
    if options.resume && at.exists() {
        checkpoint::load(&at, &mut trainer, &identity)?;
    }
    let metrics_path = options.out.join("metrics.jsonl");
    let mut metrics =
        std::fs::OpenOptions::new().create(true).append(true).open(&metrics_path).map_err(io(&metrics_path))?;
    let (schedule, optimizer) = (recipe.schedule(), recipe.optimizer.into());
    while trainer.steps() < t.steps {
        let (step, begin) = (trainer.steps(), Instant::now());
        let batches: Vec<Batch> = (0..t.accumulate).map(|i| windows(text, recipe, step, i as u64)).collect();
        let rate = schedule.rate(step);
        let report = trainer.step(&batches, rate, &optimizer).map_err(fail)?;
        let tokens = (t.batch * t.window * t.accumulate) as f64;
        let due = |every: u64| every > 0 && (step + 1).is_multiple_of(every);
        let line = Progress {
            step: step + 1,
            steps: t.steps,
            loss: report.loss,
            gradient_norm: report.gradient_norm,
            rate,
            tokens_per_second: tokens / begin.elapsed().as_secs_f64(),
            validation_bits_per_byte: match due(t.validate_every) {
                true => Some(bits_per_byte(&mut trainer, corpus.part(Split::Validation), recipe).map_err(fail)?),
                false => None,
            },
        };
        progress(&line);
        writeln!(metrics, "{}", serde_json::json!(line)).map_err(io(&metrics_path))?;
        if due(t.checkpoint_every) {
            checkpoint::save(&at, &trainer, &identity)?;
        }
    }
    checkpoint::save(&at, &trainer, &identity)?;
    let weights = weights(&trainer);
    let model = options.out.join("model.gguf");
    export::gguf(&model, &recipe.name, &recipe.model, &weights, trainer.memory(), &tokenizer, options.export)?;
    Ok(Summary {
        steps: trainer.steps(),
        parameters: weights.iter().map(|(_, s)| s.iter().product::<usize>()).sum(),
        validation_bits_per_byte: bits_per_byte(&mut trainer, corpus.part(Split::Validation), recipe).map_err(fail)?,
        test_bits_per_byte: bits_per_byte(&mut trainer, corpus.part(Split::Test), recipe).map_err(fail)?,
    })
}

/// Names and shapes of the trained weights.
fn weights(trainer: &Trainer) -> Vec<(String, Vec<usize>)> {
    let g = trainer.graph();
    let shape = |name: &str| g.find(name).map(|v| g.shape(v).dims().iter().filter_map(|d| d.known()).collect());
    trainer.parameters().map(|name| (name.to_string(), shape(name).unwrap_or_default())).collect()
}

/// The tokenizer in `out`, trained first if there is none.
fn tokenizer(recipe: &Recipe, files: &[PathBuf], out: &Path) -> Result<Tokenizer, LanguageError> {
    let path = out.join("tokenizer.json");
    let tokenizer = if path.exists() {
        Tokenizer::open(&path)?
    } else {
        let settings = BpeSettings { vocab_size: recipe.model.vocab_size, ..Default::default() };
        byte_level_bpe(files, &settings, &path)?
    };
    if tokenizer.vocab_size() != recipe.model.vocab_size {
        let (have, want) = (tokenizer.vocab_size(), recipe.model.vocab_size);
        let what = format!("{} has {have} tokens, but model.vocab_size is {want}", path.display());
        return Err(LanguageError::Data { what });
    }
    Ok(tokenizer)
}

/// Sets the draws of windows apart from other uses of the seed.
const WINDOWS: u64 = 0x7769_6E64;

/// The windows of micro-batch `part` of step `step`.
fn windows(text: &CorpusPart, recipe: &Recipe, step: u64, part: u64) -> Batch {
    let t = &recipe.train;
    let mut random = Philox::new(t.seed ^ WINDOWS, step * t.accumulate as u64 + part);
    let mut batch = Batch::default();
    for _ in 0..t.batch {
        let start = random.below((text.len() - t.window) as u64) as usize;
        let window = text.window(start, t.window + 1);
        batch.ids.extend_from_slice(&window[..t.window]);
        batch.targets.extend_from_slice(&window[1..]);
        batch.lengths.push(t.window);
    }
    batch
}

/// Bits a byte over a whole part, in windows that do not overlap.
fn bits_per_byte(trainer: &mut Trainer, part: &CorpusPart, recipe: &Recipe) -> Result<f64, TrainError> {
    let t = &recipe.train;
    let (mut nats, mut at) = (0.0, 0);
    while at + 1 < part.len() {
        let mut batch = Batch::default();
        while batch.lengths.len() < t.batch && at + 1 < part.len() {
            let count = t.window.min(part.len() - at - 1);
            let window = part.window(at, count + 1);
            batch.ids.extend_from_slice(&window[..count]);
            batch.targets.extend_from_slice(&window[1..]);
            batch.lengths.push(count);
            at += count;
        }
        let e = trainer.evaluate(&batch)?;
        nats += e.nll.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    Ok(part.bits_per_byte(nats).unwrap_or(f64::NAN))
}
