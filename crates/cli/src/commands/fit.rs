//! `memwall fit`: what a model needs, and what fits into a number of bytes.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use memwall_fit::{Choice, FitError, Machine, MemoryPlan, choices};
use memwall_infer::Model;
use memwall_nn::{MixerConfig, policy};
use memwall_store::format_size;
use serde_json::{Value, json};

use crate::load;

/// Choices that people are shown.
const SHOWN: usize = 16;

/// Arguments of `memwall fit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF or llama2.c file, or a folder with one; without it, the model that ships
    model: Option<PathBuf>,
    #[command(flatten)]
    model_args: load::ModelArgs,
    /// The context in tokens; without it, the largest that fits, up to the model's
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Plans.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = load::model(args.model.as_deref())?;
    // The tokenizer is part of what the process holds when it runs; a model may have none.
    let tokenizer = load::tokenizer(&model).ok();
    let other = load::other_bytes()?;
    drop(tokenizer);
    let spare = load::spare_bytes();
    // A plan may be made for another machine's memory: what this one has is said, not enforced.
    let limit = args.model_args.memory.or(spare).unwrap_or(usize::MAX);
    let wish = args.model_args.wish(args.context, 1, 1);
    let plan = match MemoryPlan::choose(model.header(), &wish, Some(limit), other) {
        Ok(plan) => plan,
        Err(error @ FitError::Infeasible { .. }) => return refuse(args, limit, &error),
        Err(error) => return Err(error.into()),
    };
    let minimum = MemoryPlan::least(model.header(), &wish, other)?.total_bytes();
    if let Some(spare) = spare.filter(|&spare| plan.total_bytes() > spare) {
        eprintln!("memwall: warning: this machine has {} to spare now", format_size(spare));
    }
    let weights = model.checkpoint().weight_bytes() as usize;
    let formats = model.header().formats(&wish);
    let mut counts = vec![wish.threads];
    counts.extend((args.model_args.threads.is_none() && wish.threads > 1).then_some(1));
    let machines: Vec<Machine> =
        counts.into_iter().map(|threads| Machine::measure(threads, &formats, weights)).collect::<Result<_, _>>()?;
    let chosen = Choice::of(model.header(), plan, &machines[0])?;
    let mut all = choices(model.header(), &wish, Some(limit), other, &machines)?;
    all.retain(|c| !same(&c.plan, &plan));
    all.insert(0, chosen);
    let mut out = std::io::stdout().lock();
    if args.json {
        let line = json!({
            "budget_bytes": limit,
            "feasible": true,
            "minimum_bytes": minimum,
            "plan": object(&model, &chosen),
            "choices": all.iter().map(|c| object(&model, c)).collect::<Vec<_>>(),
        });
        writeln!(out, "{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    write!(out, "{}", load::describe(&model, &plan, Some(limit)))?;
    writeln!(out, "  at least {:>9}", format_size(minimum))?;
    writeln!(
        out,
        "\n{:8} {:10} {:>8} {:>8} {:>10} {:>9} {:>9}  quality",
        "weights", "kv", "context", "threads", "total", "decode/s", "prefill/s"
    )?;
    for choice in all.iter().take(SHOWN) {
        let o = &choice.plan.options;
        writeln!(
            out,
            "{:8} {:10} {:>8} {:>8} {:>10} {:>9.1} {:>9.0}  {}",
            load::weights_name(&model, &choice.plan),
            format!("{}", o.kv.k).to_lowercase(),
            o.context,
            o.threads,
            format_size(choice.plan.total_bytes()),
            choice.speed.decode,
            choice.speed.prefill,
            choice.quality
        )?;
    }
    if all.len() > SHOWN {
        writeln!(out, "and {} more: --json lists all", all.len() - SHOWN)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Nothing fits: the minimum that would work, and exit code 2.
fn refuse(args: &Args, limit: usize, error: &FitError) -> anyhow::Result<ExitCode> {
    let FitError::Infeasible { plan: least, .. } = error else { unreachable!("called with this error only") };
    if args.json {
        let line = json!({
            "budget_bytes": limit,
            "feasible": false,
            "minimum_bytes": least.total_bytes(),
            "plan": null,
            "choices": [],
        });
        writeln!(std::io::stdout(), "{line}")?;
    }
    eprintln!("memwall: {error}");
    Ok(ExitCode::from(2))
}

fn same(a: &MemoryPlan, b: &MemoryPlan) -> bool {
    let key = |p: &MemoryPlan| (p.options.weights, p.options.kv, p.options.context, p.options.threads);
    key(a) == key(b)
}

fn object(model: &Model, choice: &Choice) -> Value {
    let (plan, o) = (&choice.plan, &choice.plan.options);
    json!({
        "weights": {
            "format": load::weights_name(model, plan),
            "tier": o.tier.to_string(),
            "bytes": plan.weights_bytes,
        },
        "kv": {
            "policy": policies(model, plan),
            "k_format": o.kv.k.name().to_lowercase(),
            "v_format": o.kv.v.name().to_lowercase(),
            "bytes": plan.kv_bytes,
        },
        "state_bytes": plan.state_bytes,
        "arena_bytes": plan.arena_bytes,
        "other_bytes": plan.other_bytes + plan.staging_bytes,
        "total_bytes": plan.total_bytes(),
        "context": o.context,
        "step": o.step,
        "threads": o.threads,
        "predicted_decode_tps": choice.speed.decode,
        "predicted_prefill_tps": choice.speed.prefill,
        "quality_tier": choice.quality.to_string(),
    })
}

/// The policies of the model's caches, each once; none without attention.
fn policies(model: &Model, plan: &MemoryPlan) -> String {
    let mut names: Vec<&'static str> = Vec::new();
    for layer in &model.checkpoint().config.layers {
        if let MixerConfig::Attention(a) = &layer.mixer {
            let name = policy(a.window, plan.options.kv, plan.options.rollback).name();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.is_empty() { "none".to_string() } else { names.join(", ") }
}
