//! `memwall eval`: how well a model predicts a text.

mod recall;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::bail;
use memwall_fit::{EngineOptions, MemoryPlan, Wish};
use memwall_infer::perplexity::{Score, Windows};
use memwall_infer::recall_slices::FREQUENT;
use memwall_infer::{Engine, Model};
use memwall_store::Budget;
use memwall_tokenizer::Tokenizer;
use serde_json::json;

use super::tokenize::read_text;
use crate::{interrupt, load};
use recall::Recall;

/// Rows of a step whose logits are held at once.
const LOGIT_ROWS: usize = 64;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Task {
    /// exp of the mean -ln p of the second half of each window
    Perplexity,
    /// The same, apart for tokens that can be recalled (their bigram occurred earlier in the window) and all others
    Recall,
}

/// Arguments of `memwall eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF or llama2.c file, or a folder of Hugging Face's; without it, the model that ships
    model: Option<PathBuf>,
    /// What is measured
    #[arg(long, value_enum)]
    task: Task,
    /// The text; - is standard input
    #[arg(short, long)]
    file: PathBuf,
    /// Tokens of a window
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    context: usize,
    /// A model to compare with: mean KL divergence from it, and how often the likeliest token is the same
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// For recall: the training text; its frequent bigrams are known by heart and do not count as recalled
    #[arg(long, value_name = "FILE")]
    train_file: Option<PathBuf>,
    /// For recall: a bigram is frequent that occurs more often in the training text
    #[arg(long, value_name = "N", default_value_t = FREQUENT)]
    frequent: u64,
    #[command(flatten)]
    model_args: load::ModelArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Measures it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    if args.task != Task::Recall && args.train_file.is_some() {
        bail!("--train-file belongs to --task recall");
    }
    let model = load::model(args.model.as_deref())?;
    let tokenizer = load::tokenizer(&model)?;
    let text = read_text(&args.file)?;
    let tokens = tokenizer.encode(&text, true, false)?;
    let budget = args.model_args.budget();
    let other = load::other_bytes()?;
    let _other = budget.take("other", other)?;
    let mut engine = engine(args, &model, &args.model_args.options(args.context, LOGIT_ROWS), &budget)?;
    let mut reference = match args.reference.as_deref() {
        Some(path) => Some(open_reference(args, path, &model, &budget)?),
        None => None,
    };
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let windows = Windows { tokens: &tokens, context: args.context, bos };
    let mut recall = match args.task {
        Task::Recall => Some(Recall::new(args, &windows, &tokenizer)?),
        Task::Perplexity => None,
    };
    let count = tokens.len() / args.context.max(1);
    let stop = interrupt::catch()?;
    let show = !args.json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let progress = |window: usize, score: &Score| {
        if show {
            eprint!("\rwindow {window} of {count}: perplexity {:.4} ", score.perplexity());
        }
        !stop.load(Ordering::Relaxed)
    };
    let each = |token| {
        if let Some(recall) = &mut recall {
            recall.add(token);
        }
    };
    let score = windows.score_tokens(&mut engine, reference.as_mut(), progress, each)?;
    if show {
        eprintln!();
    }
    if stop.load(Ordering::Relaxed) {
        bail!("stopped after {} tokens", score.tokens);
    }
    let bytes = scored_bytes(&windows, &tokenizer);
    let bits_per_byte = score.nll / std::f64::consts::LN_2 / bytes as f64;
    let mut line = json!({
        "tokens": score.tokens,
        "bytes": bytes,
        "nll_per_token": score.nll_per_token(),
        "perplexity": score.perplexity(),
        "bits_per_byte": bits_per_byte,
        "seconds": begin.elapsed().as_secs_f64(),
    });
    if reference.is_some() {
        line["mean_kl"] = json!(score.mean_kl());
        line["top1_agreement"] = json!(score.top1_agreement());
    }
    if let Some(recall) = &recall {
        recall.fill(&mut line, reference.is_some());
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "perplexity    {:.4} over {} tokens", score.perplexity(), score.tokens)?;
    writeln!(out, "bits per byte {bits_per_byte:.4} over {bytes} bytes")?;
    if let Some(recall) = &recall {
        recall.write(&mut out, reference.is_some())?;
    }
    if reference.is_some() {
        writeln!(out, "mean KL       {:.6} nats from the reference", score.mean_kl())?;
        writeln!(out, "same top-1    {:.2} %", 100.0 * score.top1_agreement())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of the tokens that are scored.
pub(super) fn scored_bytes(windows: &Windows<'_>, tokenizer: &Tokenizer) -> usize {
    windows.scored().flatten().map(|&id| tokenizer.token_bytes(id).map_or(0, |bytes| bytes.len())).sum()
}

/// An engine whose formats are as given, never chosen: a figure must say what it is of.
fn engine(args: &Args, model: &Model, wanted: &EngineOptions, budget: &Budget) -> anyhow::Result<Engine> {
    let wish = Wish {
        context: Some(args.context),
        needed: args.context,
        threads: wanted.threads,
        weights: Some(wanted.weights),
        tier: Some(wanted.tier),
        kv: Some(wanted.kv),
        outputs: LOGIT_ROWS,
    };
    // What is held already counts as the process's own; the budget holds it under its name.
    let held = budget.held();
    let plan = MemoryPlan::choose(model.header(), &wish, budget.limit(), held)?;
    Ok(Engine::with_budget(model, plan.options, budget)?)
}

fn open_reference(args: &Args, path: &Path, model: &Model, budget: &Budget) -> anyhow::Result<Engine> {
    let reference = load::model(Some(path))?;
    let (ours, theirs) = (model.checkpoint().config.vocab_size, reference.checkpoint().config.vocab_size);
    if ours != theirs {
        bail!("--reference {}: it has {theirs} tokens, the model {ours}; they must share a vocabulary", path.display());
    }
    // As it is stored, whatever is asked of the model.
    let options = EngineOptions { threads: args.model_args.threads(), ..EngineOptions::default() };
    engine(args, &reference, &options, budget)
}
