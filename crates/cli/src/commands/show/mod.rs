//! `memwall show`: what a model file holds, and what its step does with memory.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use memwall_formats::gguf::Value as Metadatum;
use memwall_formats::{Container, atomic_file};
use memwall_graph::{Plan, PlanOptions};
use memwall_infer::{EngineOptions, Model, step_graph};
use memwall_store::format_size;
use serde_json::{Value, json};

use super::plan_svg;
use crate::load;

/// Elements of a list that are shown.
const SHOWN: usize = 6;

/// Arguments of `memwall show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF, safetensors or llama2.c file, or a folder with one
    file: PathBuf,
    /// Draw the step's graph and its arena over time, from the plan that runs, as SVG
    #[arg(long, value_name = "SVG")]
    plan: Option<PathBuf>,
    /// The context to plan for; without it, 512 or the model's, whichever is smaller
    #[arg(short, long, value_name = "N", requires = "plan")]
    context: Option<usize>,
    /// Rows of the step to plan for
    #[arg(long, value_name = "N", default_value_t = 64, requires = "plan")]
    step: usize,
    #[command(flatten)]
    model_args: load::ModelArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Shows it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(svg) = &args.plan {
        return draw(args, svg);
    }
    let container = Container::open(&args.file)?;
    // A container need not be a model: a file of tensors is shown all the same.
    let model = Model::open(&args.file);
    let mut out = std::io::stdout().lock();
    let metadata: Vec<(String, Value)> =
        container.metadata().iter().map(|(key, value)| (key.to_string(), shown(value))).collect();
    let tensors: Vec<Value> = container
        .tensors()
        .iter()
        .map(|t| json!({ "name": t.name, "dtype": t.dtype.name(), "shape": t.shape, "bytes": t.bytes }))
        .chain(container.unsupported().iter().map(
            |t| json!({ "name": t.name, "dtype": t.stored_as, "shape": t.shape, "bytes": t.bytes, "unsupported": true }),
        ))
        .collect();
    let bytes: u64 = container.tensors().iter().map(|t| t.bytes).sum();
    let parameters: usize = container.tensors().iter().map(|t| t.elements()).sum();
    let format = format!("{:?}", container.format()).to_lowercase();
    if args.json {
        let line = json!({
            "file": args.file,
            "container": format,
            "metadata": metadata.into_iter().collect::<serde_json::Map<_, _>>(),
            "config": model.as_ref().ok().map(|m| serde_json::to_value(&m.checkpoint().config)).transpose()?,
            "not_a_model": model.as_ref().err().map(ToString::to_string),
            "parameters": parameters,
            "weight_bytes": bytes,
            "tensors": tensors,
        });
        writeln!(out, "{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{}: {format}, {parameters} parameters, {}", args.file.display(), format_size(bytes as usize))?;
    match &model {
        Ok(model) => {
            let config = serde_json::to_string_pretty(&model.checkpoint().config)?;
            writeln!(out, "\nconfiguration\n{config}")?;
        }
        Err(error) => writeln!(out, "\nnot a model that runs: {error}")?,
    }
    writeln!(out, "\nmetadata")?;
    for (key, value) in &metadata {
        writeln!(out, "  {key} = {value}")?;
    }
    writeln!(out, "\ntensors")?;
    for t in &tensors {
        let size = format_size(t["bytes"].as_u64().unwrap_or_default() as usize);
        let text = |key: &str| t[key].as_str().unwrap_or_default();
        writeln!(out, "  {:44} {:>7} {:>10}  {}", text("name"), text("dtype"), size, t["shape"])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A value of the header; long ones are cut.
fn shown(value: &Metadatum) -> Value {
    match value {
        Metadatum::String(text) => json!(text),
        Metadatum::Array(array) => {
            let whole = format!("{array:?}");
            let cut: String = whole.split(", ").take(SHOWN).collect::<Vec<_>>().join(", ");
            json!(format!("{cut}{} [{} elements]", if cut.len() < whole.len() { ", …" } else { "" }, array.len()))
        }
        Metadatum::U8(x) => json!(x),
        Metadatum::I8(x) => json!(x),
        Metadatum::U16(x) => json!(x),
        Metadatum::I16(x) => json!(x),
        Metadatum::U32(x) => json!(x),
        Metadatum::I32(x) => json!(x),
        Metadatum::U64(x) => json!(x),
        Metadatum::I64(x) => json!(x),
        Metadatum::F32(x) => json!(x),
        Metadatum::F64(x) => json!(x),
        Metadatum::Bool(x) => json!(x),
    }
}

fn draw(args: &Args, svg: &PathBuf) -> anyhow::Result<ExitCode> {
    let model = Model::open(&args.file)?;
    let context = args.context.unwrap_or_else(|| model.checkpoint().config.max_context.min(512));
    let threads = args.model_args.threads();
    let options = EngineOptions { threads, context, step: args.step, kv: args.model_args.kv, ..Default::default() };
    let (graph, _) = step_graph(&model, &options)?;
    let plan = Plan::new(&graph, PlanOptions { threads, ..PlanOptions::default() });
    let title = format!("{}: a step of {} rows, context {context}", args.file.display(), args.step);
    let drawing = plan_svg::draw(&graph, &plan, &title);
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
