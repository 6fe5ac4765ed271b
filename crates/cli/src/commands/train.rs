//! `memwall train`: trains a model by a recipe; resumes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use memwall_formats::Dtype;
use memwall_store::{ProcessMemory, format_size};
use memwall_tasks::DataDir;
use memwall_train::language::{LanguageOptions, train};
use memwall_train::{Recipe, TrainingPlan};

use super::train_progress::Show;
use crate::load;

const EXAMPLES: &str = "Examples:\n  \
    memwall train recipes/books.toml --data data\n  \
    memwall train recipes/books.toml --data data --memory 96MiB --out runs/small\n  \
    memwall train recipes/books.toml --data data --resume\n\n\
    The output folder holds checkpoint.safetensors, tokenizer.json, metrics.jsonl (a line a step), an event file\n\
    for TensorBoard and, at the end, model.gguf. What a recipe may say is on the page of the crate train.\n\n\
    Exit codes: 0 done; 2 an error. Sizes: 64MiB, 1.5GiB, 512KB (decimal), or bytes.";

/// Arguments of `memwall train`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The recipe, TOML
    recipe: PathBuf,
    /// The folder of the recipe's files; without it, MEMWALL_DATA, or the recipe's own folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where checkpoint, tokenizer, metrics and model go; without it, runs/NAME
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue from the checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// The most memory to use, e.g. 512MiB; without it, what the machine has to spare. Blocks are recomputed to fit it
    #[arg(long, value_name = "SIZE", value_parser = load::size)]
    memory: Option<usize>,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N", value_parser = load::threads)]
    threads: Option<usize>,
    /// Format of the matrices in model.gguf; without it f32, and what `[quantization]` rounds weights to where files have it.
    /// A block format is that of rounded weights alone, if there are any
    #[arg(long, value_name = "FORMAT")]
    export: Option<String>,
    /// One JSON object a step and one at the end
    #[arg(long)]
    json: bool,
}

/// Trains.
///
/// # Errors
/// If recipe, text or output folder are wrong, the memory does not suffice, or a step is not finite.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let recipe = Recipe::read(&args.recipe)?;
    let export = match args.export.as_deref() {
        Some(name) => match Dtype::from_name(name) {
            Some(dtype) => Some(dtype),
            None => bail!("--export {name}: unknown format; did you mean {}?", Dtype::nearest_name(name)),
        },
        None => None,
    };
    let own = || args.recipe.parent().map(PathBuf::from).unwrap_or_default();
    let data = match DataDir::find(args.data.as_deref())?.path() {
        Some(folder) => folder.to_path_buf(),
        None => own(),
    };
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
    if !args.resume && out.join("checkpoint.safetensors").exists() {
        bail!("{} has a checkpoint: --resume continues it; or name another folder with --out", out.display());
    }
    let threads = args.threads.unwrap_or_else(load::processors);
    let budget = load::budget(args.memory);
    let limit = budget.limit();
    let options = LanguageOptions { data, out: out.clone(), threads, budget, resume: args.resume, export };
    let show = Show::new(args.json, recipe.train.steps);
    let summary = train(&recipe, &options, |plan| show.plan(&describe(plan, limit)), |line| show.line(line))?;
    show.end();
    let rss_bytes = ProcessMemory::read().map_or(0, |m| m.hwm);
    if args.json {
        let mut line = serde_json::json!(summary);
        line["rss_bytes"] = serde_json::json!(rss_bytes);
        println!("{line}");
    } else {
        println!(
            "{} steps, {} parameters: {:.3} bits a byte on validation text, {:.3} on test text; {} of memory; {}",
            summary.steps,
            summary.parameters,
            summary.validation_bits_per_byte,
            summary.test_bits_per_byte,
            format_size(rss_bytes),
            out.join("model.gguf").display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan as lines for people.
fn describe(plan: &TrainingPlan, limit: Option<usize>) -> String {
    let mut text = String::from("plan\n");
    for (name, bytes) in plan.accounts().into_iter().filter(|(_, bytes)| *bytes > 0) {
        text.push_str(&format!("  {name:9} {:>10}\n", format_size(bytes)));
    }
    let limit = limit.map_or(String::new(), |limit| format!(" of {}", format_size(limit)));
    let recomputed = plan.options.recompute;
    text.push_str(&format!(
        "  {:9} {:>10}{limit}, {recomputed} blocks recomputed",
        "total",
        format_size(plan.total_bytes())
    ));
    text
}
