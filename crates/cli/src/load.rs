//! From arguments to a model, its tokenizer, and a plan inside the budget.

use std::path::Path;

use anyhow::{Context, bail};
use memwall_cache::KvFormat;
use memwall_fit::{EngineOptions, MemoryPlan, WeightFormat, WeightTier, Wish};
use memwall_formats::{Dtype, Mix};
use memwall_infer::Model;
use memwall_store::{Budget, MachineMemory, ProcessMemory, format_size, parse_size};
use memwall_tokenizer::Tokenizer;

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
    /// Convert weights while loading: stored (as they are), or a format such as Q8_0 or Q4_K_M [default: stored, or what
    /// the budget holds]
    #[arg(long, value_name = "FORMAT", value_parser = weights)]
    pub weights: Option<WeightFormat>,
    /// Where weights live that keep their format: mapped or ram [default: mapped; beside converted ones ram]
    #[arg(long, value_name = "TIER", value_parser = tier)]
    pub tier: Option<WeightTier>,
    /// How keys and values are stored: f32, f16, bf16 or q8_0 [default: f16, or what the budget holds]
    #[arg(long, value_name = "FORMAT", value_parser = kv)]
    pub kv: Option<KvFormat>,
}

impl ModelArgs {
    /// Threads to run with.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(processors)
    }

    /// The budget to run in.
    pub fn budget(&self) -> Budget {
        budget(self.memory)
    }

    /// What a plan is made for; `needed` tokens at least, `outputs` rows of logits at once.
    pub fn wish(&self, context: Option<usize>, needed: usize, outputs: usize) -> Wish {
        Wish { context, needed, threads: self.threads(), weights: self.weights, tier: self.tier, kv: self.kv, outputs }
    }

    /// The options of a model whose formats are as stored unless they are given.
    pub fn options(&self, context: usize, step: usize) -> EngineOptions {
        let (weights, threads) = (self.weights.unwrap_or_default(), self.threads());
        let tier = self.tier.unwrap_or(EngineOptions::usual_tier(weights));
        let kv = self.kv.unwrap_or(EngineOptions::default().kv);
        EngineOptions { threads, context, step, weights, tier, kv, ..EngineOptions::default() }
    }
}

/// What this process may hold in all: what it holds, and what the machine or the control group has to spare.
pub fn spare_bytes() -> Option<usize> {
    let own = ProcessMemory::read().map_or(0, |m| m.rss);
    MachineMemory::read().ok().map(|m| m.available.saturating_add(own))
}

/// As many threads as there are processors.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The budget: as asked for, but not more than the machine, or the control group, has to spare.
pub fn budget(memory: Option<usize>) -> Budget {
    let limit = match (memory, spare_bytes()) {
        (Some(asked), Some(spare)) if asked > spare => {
            eprintln!(
                "memwall: warning: --memory {}: only {} can be had now; the plan is made for that",
                format_size(asked),
                format_size(spare)
            );
            Some(spare)
        }
        (asked, spare) => asked.or(spare),
    };
    limit.map_or_else(Budget::unlimited, Budget::new)
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

fn weights(text: &str) -> Result<WeightFormat, String> {
    if text.eq_ignore_ascii_case("stored") {
        return Ok(WeightFormat::AsStored);
    }
    mix(text).map(WeightFormat::Mix)
}

/// A mix by its name.
pub fn mix(name: &str) -> Result<Mix, String> {
    Mix::from_name(name).ok_or_else(|| {
        let all: Vec<&str> = Mix::ALL.iter().map(|m| m.name()).collect();
        format!("did you mean {}? There are {}", Mix::nearest_name(name), all.join(", "))
    })
}

fn tier(text: &str) -> Result<WeightTier, String> {
    [WeightTier::Mapped, WeightTier::Ram]
        .into_iter()
        .find(|tier| tier.to_string() == text)
        .ok_or_else(|| "weights live mapped or in ram".to_string())
}

/// Opens a model, or the one that ships.
pub fn model(path: Option<&Path>) -> anyhow::Result<Model> {
    let model = match path {
        Some(path) => Model::open(path)?,
        None => Model::shipped()?,
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

/// The weights of a plan, as people name their format.
pub fn weights_name(model: &Model, plan: &MemoryPlan) -> String {
    match plan.options.weights {
        WeightFormat::AsStored => model.checkpoint().main_format().name().to_string(),
        WeightFormat::Mix(mix) => mix.name().to_string(),
    }
}

/// The plan as lines for people.
pub fn describe(model: &Model, plan: &MemoryPlan, limit: Option<usize>) -> String {
    let o = &plan.options;
    let weights = weights_name(model, plan);
    let weights = match (o.weights, o.tier) {
        (WeightFormat::AsStored, WeightTier::Mapped) => format!("{weights}, mapped from the file"),
        (WeightFormat::AsStored, WeightTier::Ram) => format!("{weights}, read into memory"),
        (WeightFormat::Mix(_), _) => format!("{weights}, converted while loading"),
    };
    let rows = [
        ("weights", plan.weights_bytes, weights),
        ("kv", plan.kv_bytes, format!("{} / {}, {} tokens", o.kv.k, o.kv.v, o.context)),
        ("state", plan.state_bytes, "recurrent layers".to_string()),
        ("arena", plan.arena_bytes, format!("activations, {} rows a step", o.step)),
        ("io", plan.staging_bytes, "rows on their way, while loading".to_string()),
        ("other", plan.other_bytes, "the process itself".to_string()),
    ];
    let mut text = format!("plan, quality {}\n", plan.quality());
    for (name, bytes, what) in rows.iter().filter(|(_, bytes, _)| *bytes > 0) {
        text.push_str(&format!("  {name:8} {:>10}  {what}\n", format_size(*bytes)));
    }
    let limit = limit.map_or(String::new(), |limit| format!(" of {}", format_size(limit)));
    let threads = if o.threads == 1 { "1 thread".to_string() } else { format!("{} threads", o.threads) };
    text.push_str(&format!("  {:8} {:>10}{limit}, {threads}\n", "total", format_size(plan.total_bytes())));
    text
}
