//! `memwall show`: what a file holds (model, checkpoint, recipe, plan, result), and what a step does with memory.

mod json_file;
mod model;
mod picture;
mod recipe;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use memwall_cache::KvFormat;
use memwall_formats::atomic_file;
use memwall_graph::{Graph, Plan, PlanOptions};
use memwall_infer::{EngineOptions, Model, step_graph};
use memwall_store::format_size;
use memwall_train::Recipe;
use serde_json::json;

use crate::load;

/// Arguments of `memwall show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model (GGUF, safetensors, llama2.c, or a folder with one), a training checkpoint, a recipe (.toml), or the JSON
    /// of a plan or a result
    file: PathBuf,
    /// Draw the step's graph and its arena over time, from the plan that runs, as SVG; of a recipe, the training step
    #[arg(long, value_name = "SVG")]
    plan: Option<PathBuf>,
    /// The context to plan for; without it, 512 or the model's, whichever is smaller
    #[arg(short, long, value_name = "N", requires = "plan")]
    context: Option<usize>,
    /// Rows of the step to plan for
    #[arg(long, value_name = "N", default_value_t = 64, requires = "plan")]
    step: usize,
    /// Threads to plan for; without it, as many as there are processors
    #[arg(short, long, value_name = "N", value_parser = load::threads)]
    threads: Option<usize>,
    /// How the planned step stores keys and values: f32, f16, bf16 or q8_0
    #[arg(long, value_name = "FORMAT", default_value = "f16", value_parser = load::kv, requires = "plan")]
    kv: KvFormat,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

/// Shows it.
///
/// # Errors
/// If the file is none of these, or is damaged; if the picture cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(svg) = &args.plan {
        return draw(args, svg);
    }
    let mut out = std::io::stdout().lock();
    match extension(&args.file) {
        "toml" => recipe::show(&args.file, args.threads(), args.json, &mut out)?,
        "json" if !args.file.ends_with("model.safetensors.index.json") => {
            json_file::show(&args.file, args.json, &mut out)?;
        }
        _ => model::show(&args.file, args.json, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn extension(file: &Path) -> &str {
    file.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

/// The step of a file, planned, with a title.
fn planned(args: &Args) -> anyhow::Result<(Graph, Plan, String)> {
    let threads = args.threads();
    if extension(&args.file) == "toml" {
        let recipe = Recipe::read(&args.file)?;
        let (graph, plan) = recipe::planned(&args.file, &recipe, threads)?;
        let t = &recipe.train;
        let title = format!("{}: a training step of {} × {} tokens", recipe.name, t.batch, t.window);
        return Ok((graph, plan, title));
    }
    let model = Model::open(&args.file)?;
    let context = args.context.unwrap_or_else(|| model.checkpoint().config.max_context.min(512));
    let options = EngineOptions { threads, context, step: args.step, kv: args.kv, ..Default::default() };
    let checkpoint = model.checkpoint();
    let (graph, _) = step_graph(&checkpoint.config, &checkpoint.types(), &options)?;
    let plan = Plan::new(&graph, PlanOptions { threads, ..PlanOptions::default() });
    let name = args.file.file_name().unwrap_or_default().display();
    let title = format!("{name}: a step of {} rows, context {context}", args.step);
    Ok((graph, plan, title))
}

fn draw(args: &Args, svg: &Path) -> anyhow::Result<ExitCode> {
    let (graph, plan, title) = planned(args)?;
    let drawing = picture::draw(&graph, &plan, &title);
    atomic_file::write(svg, drawing.as_bytes()).with_context(|| "the drawing".to_string())?;
    let (arena, least) = (plan.arena_bytes, plan.lower_bound);
    let mut out = std::io::stdout().lock();
    if args.json {
        let line =
            json!({ "svg": svg, "nodes": graph.nodes().len(), "arena_bytes": arena, "lower_bound_bytes": least });
        writeln!(out, "{line}")?;
    } else {
        let nodes = graph.nodes().len();
        let (arena, least) = (format_size(arena), format_size(least));
        writeln!(out, "{}: {nodes} nodes, an arena of {arena}; {least} live at once at most", svg.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
