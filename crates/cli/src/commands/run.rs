//! `memwall run`: a plan inside the budget, then text.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use memwall_fit::MemoryPlan;
use memwall_formats::atomic_file::AtomicFile;
use memwall_infer::sample::{Sampler, Sampling};
use memwall_infer::{
    Engine, Finish, Generated, Limits, Model, StepRows, Wanted, bytes_per_token, generate, read_bandwidth,
};
use memwall_store::ProcessMemory;
use memwall_tokenizer::Tokenizer;
use serde_json::json;

use super::chat;
use super::tokenize::read_text;
use crate::{interrupt, load};

/// Tokens that are generated unless said otherwise.
const TOKENS: usize = 256;
/// Rows of a step whose logits are written at once.
const LOGIT_ROWS: usize = 32;

/// Arguments of `memwall run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF or llama2.c file, or a folder of Hugging Face's; without it, the model that ships
    model: Option<PathBuf>,
    /// The text to continue; without it, a conversation if standard input is a terminal, else standard input
    prompt: Option<String>,
    /// The prompt as token ids
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "file"])]
    token_ids: Option<Vec<u32>>,
    /// The prompt from a file; - is standard input
    #[arg(short, long, conflicts_with = "prompt")]
    file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) model_args: load::ModelArgs,
    /// The most tokens to generate
    #[arg(short, long, value_name = "N")]
    pub(super) n: Option<usize>,
    /// The context in tokens; without it, the largest that fits, up to the model's
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,
    /// Logits are divided by it; 0 always takes the likeliest token [default: 0.8; with --json 0]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Only the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Only the likeliest tokens that together reach this probability [default: 0.95; with --json 1]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Only tokens at least this share as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Makes the last 64 tokens less likely to come again; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repeat_penalty: f32,
    /// Fixes what is drawn
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Write the prompt's logits there: little-endian f32 [prompt tokens, vocabulary], no header
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    /// A lone argument of several words that is no file is a prompt for the model that ships.
    fn model_and_prompt(&self) -> (Option<&Path>, Option<&str>) {
        match (self.model.as_deref(), self.prompt.as_deref()) {
            (Some(words), None)
                if !words.exists() && words.to_str().is_some_and(|w| w.contains(char::is_whitespace)) =>
            {
                (None, words.to_str())
            }
            both => both,
        }
    }

    pub(super) fn sampling(&self) -> Sampling {
        let (temperature, top_p) = if self.json { (0.0, 1.0) } else { (0.8, 0.95) };
        Sampling {
            temperature: self.temperature.unwrap_or(temperature),
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(top_p),
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed,
            ..Sampling::default()
        }
    }
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.sampling().check()?;
    let (path, prompt) = args.model_and_prompt();
    if let (Some(word), None, None, None) = (path, prompt, &args.file, &args.token_ids)
        && !word.exists()
    {
        bail!(
            "{}: no such file or folder; a prompt of one word goes after a model, or comes through standard input (-f -)",
            word.display()
        );
    }
    let model = load::model(path)?;
    let tokenizer = match (load::tokenizer(&model), &args.token_ids) {
        (Ok(tokenizer), _) => Some(tokenizer),
        (Err(error), Some(_)) => {
            eprintln!("memwall: warning: no text: {error:#}");
            None
        }
        (Err(error), None) => return Err(error),
    };
    let prompt = match (prompt, &args.file, &args.token_ids) {
        (_, _, Some(ids)) => Some(ids.clone()),
        (Some(text), ..) => Some(encode(tokenizer.as_ref(), text)?),
        (None, Some(file), None) => Some(encode(tokenizer.as_ref(), &read_text(file)?)?),
        (None, None, None) if std::io::stdin().is_terminal() && !args.json => None,
        (None, None, None) => Some(encode(tokenizer.as_ref(), &read_text("-".as_ref())?)?),
    };
    let vocab = model.checkpoint().config.vocab_size;
    if let Some(prompt) = &prompt {
        check_prompt(prompt, vocab, args, &model)?;
    }

    let budget = args.model_args.budget();
    let needed = prompt.as_ref().map_or(TOKENS, |p| p.len() + args.n.unwrap_or(1).max(1) - 1);
    let outputs = if args.logits.is_some() { LOGIT_ROWS } else { 1 };
    let wish = args.model_args.wish(args.context, needed, outputs);
    let plan = MemoryPlan::choose(model.header(), &wish, budget.limit(), load::other_bytes()?)?;
    if std::io::stderr().is_terminal() {
        eprint!("{}", load::describe(&model, &plan, args.model_args.memory));
    }
    let _other = budget.take("other", plan.other_bytes)?;
    let mut engine = Engine::with_budget(&model, plan.options, &budget)?;
    tell_conversion(&model, &plan, &engine);
    let sampler = Sampler::new(args.sampling(), vocab)?;
    let stop = interrupt::catch()?;

    let Some(prompt) = prompt else {
        let Some(tokenizer) = tokenizer else { bail!("a conversation needs a tokenizer") };
        return chat::run(args, &mut engine, &tokenizer, sampler, stop);
    };
    if let Some(file) = &args.logits {
        write_logits(&mut engine, &prompt, file)?;
    }
    let n = args.n.unwrap_or(TOKENS);
    let made = continue_prompt(args, &mut engine, tokenizer.as_ref(), &prompt, sampler, n, stop)?;
    if made.not_finite {
        let found = engine.find_not_finite().and_then(|name| model.checkpoint().tensors.get(name));
        let why = found.map_or(String::new(), |t| format!(": tensor {} holds values that are not finite", t.name));
        eprintln!("memwall: warning: {}: logits are not numbers{why}", model.container().path().display());
    }
    report(args, &model, &engine, &plan, &budget.report(), &prompt, &made)?;
    Ok(ExitCode::SUCCESS)
}

/// Converting is a choice that costs time at every start: it is told, also where nobody watches.
fn tell_conversion(model: &Model, plan: &MemoryPlan, engine: &Engine) {
    let done = engine.conversion();
    if done.matrices > 0 {
        eprintln!(
            "memwall: {} of {} matrices converted to {} in {:.2} s (quality: {}); `memwall quantize` does it once",
            done.matrices,
            model.checkpoint().tensors.values().filter(|t| t.shape.len() > 1).count(),
            load::weights_name(model, plan),
            done.time.as_secs_f64(),
            plan.quality(),
        );
    }
}

fn encode(tokenizer: Option<&Tokenizer>, text: &str) -> anyhow::Result<Vec<u32>> {
    let tokenizer = tokenizer.context("a text needs a tokenizer; --token-ids does without one")?;
    let mut ids = tokenizer.encode(text, true, true)?;
    if ids.is_empty() {
        // Nothing to continue: begin as texts begin.
        ids.extend(tokenizer.bos().or(tokenizer.eos()));
    }
    Ok(ids)
}

fn check_prompt(prompt: &[u32], vocab: usize, args: &Args, model: &Model) -> anyhow::Result<()> {
    if prompt.is_empty() {
        bail!("the prompt is empty, and this vocabulary has no token that begins a text");
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        bail!("--token-ids: {id} is beyond the vocabulary of {vocab} tokens");
    }
    let most = model.checkpoint().config.max_context;
    if let Some(context) = args.context
        && (context == 0 || context > most)
    {
        bail!("--context: {context}; this model has 1 to {most} tokens");
    }
    let context = args.context.unwrap_or(most);
    if prompt.len() > context {
        bail!("the prompt has {} tokens, more than the context of {context}", prompt.len());
    }
    Ok(())
}

fn continue_prompt(
    args: &Args,
    engine: &mut Engine,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    mut sampler: Sampler,
    tokens: usize,
    stop: &AtomicBool,
) -> anyhow::Result<Generated> {
    let mut out = std::io::stdout().lock();
    let show = !args.json;
    if let (true, Some(text)) = (show, args.model_and_prompt().1) {
        write!(out, "{text}")?;
        out.flush()?;
    }
    let mut text = |piece: &str| {
        if show {
            out.write_all(piece.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    };
    let limits = Limits { tokens, stop };
    let made = generate(engine, tokenizer, &[], prompt, &mut sampler, limits, &mut text)?;
    if show {
        if tokenizer.is_none() {
            let ids: Vec<String> = made.tokens.iter().map(u32::to_string).collect();
            write!(out, "{}", ids.join(","))?;
        }
        writeln!(out)?;
    }
    Ok(made)
}

/// Logits of every token of the prompt, in the order of the prompt; the slot is empty again after it.
fn write_logits(engine: &mut Engine, prompt: &[u32], file: &Path) -> anyhow::Result<()> {
    let mut out = AtomicFile::create(file)?;
    let rows = engine.options().outputs;
    for tokens in prompt.chunks(rows) {
        let logits = engine.step(&[StepRows { slot: 0, tokens }], Wanted::All)?;
        // Floats are little endian on every machine that memwall builds for.
        out.write_all(bytemuck::cast_slice(logits)).with_context(|| format!("{}: cannot write it", file.display()))?;
    }
    out.commit()?;
    engine.clear(0)?;
    Ok(())
}

fn report(
    args: &Args,
    model: &Model,
    engine: &Engine,
    plan: &MemoryPlan,
    budget: &memwall_store::BudgetReport,
    prompt: &[u32],
    made: &Generated,
) -> anyhow::Result<()> {
    let rss = ProcessMemory::read().map_or(0, |m| m.hwm);
    let share = |made: &Generated| {
        let tokens = prompt.len() + made.tokens.len() / 2;
        made.decode_tps() * bytes_per_token(model, engine, plan, tokens) / read_bandwidth(engine)
    };
    if args.json {
        let line = json!({
            "text": made.text,
            "token_ids": made.tokens,
            "prompt_tokens": prompt.len(),
            "generated_tokens": made.tokens.len(),
            "prefill_tps": made.prefill_tps(prompt.len()),
            "decode_tps": made.decode_tps(),
            "plan_bytes": plan.total_bytes(),
            "peak_bytes": budget.peak,
            "rss_bytes": rss,
            "bandwidth_share": if made.steps == 0 { 0.0 } else { share(made) },
        });
        writeln!(std::io::stdout(), "{line}")?;
    } else if std::io::stderr().is_terminal() {
        eprintln!("{}", timing(prompt.len(), made, rss));
    }
    Ok(())
}

/// The timing line.
pub(super) fn timing(prompt: usize, made: &Generated, rss: usize) -> String {
    let end = match made.finish {
        Finish::End(_) => "the model ended it",
        Finish::Length => "as many as asked for",
        Finish::Context => "the context is full",
        Finish::Stopped => "stopped",
    };
    format!(
        "[{prompt} tokens in at {:.0}/s, {} out at {:.1}/s ({end}), peak {}]",
        made.prefill_tps(prompt),
        made.tokens.len(),
        made.decode_tps(),
        memwall_store::format_size(rss)
    )
}
