//! `memwall train`: trains a model by a recipe; resumes.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use memwall_formats::Dtype;
use memwall_tasks::DataDir;
use memwall_train::Recipe;
use memwall_train::language::{LanguageOptions, Progress, train};

/// Arguments of `memwall train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe, TOML
    recipe: PathBuf,
    /// The folder of the recipe's text files; without it, MEMWALL_DATA, or the recipe's own folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where checkpoint, tokenizer, metrics and model go; without it, runs/NAME
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue from the checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// Format of the matrices in model.gguf
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    export: String,
    /// One JSON object a step and one at the end
    #[arg(long)]
    json: bool,
}

/// Trains.
///
/// # Errors
/// If recipe, text or output folder are wrong, or a step is not finite.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let recipe = Recipe::read(&args.recipe)?;
    let Some(export) = Dtype::from_name(&args.export) else {
        bail!("--export {}: unknown format; did you mean {}?", args.export, Dtype::nearest_name(&args.export));
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
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let options = LanguageOptions { data, out: out.clone(), threads, resume: args.resume, export };
    let terminal = std::io::stderr().is_terminal();
    let summary = train(&recipe, &options, |p| report(p, args.json, terminal))?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{} steps, {} parameters: {:.3} bits a byte on validation text, {:.3} on test text; {}",
            summary.steps,
            summary.parameters,
            summary.validation_bits_per_byte,
            summary.test_bits_per_byte,
            out.join("model.gguf").display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Steps between lines where nobody watches.
const LINE_EVERY: u64 = 20;

fn report(p: &Progress, json: bool, terminal: bool) {
    if json {
        println!("{}", serde_json::json!(p));
        return;
    }
    let due =
        terminal || p.step.is_multiple_of(LINE_EVERY) || p.step == p.steps || p.validation_bits_per_byte.is_some();
    if due {
        let left = p.steps - p.step;
        let validation =
            p.validation_bits_per_byte.map_or(String::new(), |b| format!(", validation {b:.3} bits a byte"));
        eprintln!(
            "step {}/{} ({left} left): loss {:.4}, gradient {:.3}, rate {:.2e}, {:.0} tokens/s{validation}",
            p.step, p.steps, p.loss, p.gradient_norm, p.rate, p.tokens_per_second
        );
    }
}
