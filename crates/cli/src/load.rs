//! From arguments to a model, its tokenizer, and a plan inside the budget.

use std::path::Path;

use anyhow::{Context, bail};
use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_infer::{MemoryPlan, Model};
use memwall_store::{Budget, MachineMemory, ProcessMemory, format_size, parse_size};
use memwall_tokenizer::Tokenizer;

use crate::shipped;

/// What the process grows by beyond what the plan names: tables of the plan, buffers of the output.
const ALLOWANCE_BYTES: usize = 4 << 20;
/// More threads than any machine has use for.
const MOST_THREADS: usize = 1024;

/// Settings that all commands share which run a model.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// The most memory to use, e.g. 64MiB or 2GiB; without it, what the machine has to spare
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<usize>,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// How keys and values are stored: f32, f16, bf16 or q8_0
    #[arg(long, value_name = "FORMAT", default_value = "f16", value_parser = kv)]
    pub kv: KvFormat,
}

impl ModelArgs {
    /// Threads to run with.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(processors)
    }

    /// The budget: as asked for, or what the machine has to spare.
    pub fn budget(&self) -> anyhow::Result<Budget> {
        Ok(budget(self.memory))
    }
}

/// As many threads as there are processors.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The budget: as asked for, or what the machine has to spare.
pub fn budget(memory: Option<usize>) -> Budget {
    match memory {
        Some(limit) => Budget::new(limit),
        None => MachineMemory::read().map_or_else(|_| Budget::unlimited(), |m| Budget::new(m.available)),
    }
}

/// Reads `--memory`.
pub fn size(text: &str) -> Result<usize, String> {
    parse_size("--memory", text).map_err(|e| e.to_string())
}

/// A number of threads.
///
/// # Errors
/// If it is none that a machine has use for.
pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MOST_THREADS).contains(&n) => Ok(n),
        _ => Err(format!("a number from 1 to {MOST_THREADS} is needed")),
    }
}

/// A format of keys and values.
///
/// # Errors
/// If caches do not store it.
pub fn kv(text: &str) -> Result<KvFormat, String> {
    match Dtype::from_name(text) {
        Some(d @ (Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::Q8_0)) => Ok(KvFormat::both(d)),
        _ => Err("caches store f32, f16, bf16 or q8_0".into()),
    }
}

/// Opens a model, or the one that ships.
pub fn model(path: Option<&Path>) -> anyhow::Result<Model> {
    let model = match path {
        Some(path) => Model::open(path)?,
        None => shipped::open()?,
    };
    for key in &model.checkpoint().unread {
        eprintln!("memwall: warning: config.json: key `{key}` is not known, and left out of account");
    }
    Ok(model)
}

/// The tokenizer of a model, with as many tokens as the model has logits at most.
pub fn tokenizer(model: &Model) -> anyhow::Result<Tokenizer> {
    let tokenizer = Tokenizer::from_container(model.container())
        .context("this model comes without a tokenizer; --token-ids does without one")?;
    let (tokens, logits) = (tokenizer.vocab_size(), model.checkpoint().config.vocab_size);
    if tokens > logits {
        let file = model.container().path().display();
        bail!("{file}: its tokenizer has {tokens} tokens, but the model only {logits}");
    }
    Ok(tokenizer)
}

/// What the process itself takes, by what it takes now.
pub fn other_bytes() -> anyhow::Result<usize> {
    let memory = ProcessMemory::read().context("cannot read this process's memory")?;
    Ok(memory.hwm.max(memory.rss) + ALLOWANCE_BYTES)
}

/// The plan as lines for people.
pub fn describe(plan: &MemoryPlan, limit: Option<usize>) -> String {
    let o = &plan.options;
    let rows = [
        ("weights", plan.weights_bytes, format!("{}, mapped from the file", plan.weights_format)),
        ("kv", plan.kv_bytes, format!("{} / {}, {} tokens", o.kv.k, o.kv.v, o.context)),
        ("state", plan.state_bytes, "recurrent layers".to_string()),
        ("arena", plan.arena_bytes, format!("activations, {} rows a step", o.step)),
        ("other", plan.other_bytes, "the process itself".to_string()),
    ];
    let mut text = String::from("plan\n");
    for (name, bytes, what) in rows.iter().filter(|(_, bytes, _)| *bytes > 0) {
        text.push_str(&format!("  {name:8} {:>10}  {what}\n", format_size(*bytes)));
    }
    let limit = limit.map_or(String::new(), |limit| format!(" of {}", format_size(limit)));
    let threads = if o.threads == 1 { "1 thread".to_string() } else { format!("{} threads", o.threads) };
    text.push_str(&format!("  {:8} {:>10}{limit}, {threads}\n", "total", format_size(plan.total_bytes())));
    text
}
