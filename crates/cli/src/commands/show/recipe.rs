//! What a recipe trains, and what its step needs.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::bail;
use memwall_graph::{Graph, Plan, PlanOptions, Source};
use memwall_infer::Model;
use memwall_nn::ModelConfig;
use memwall_store::format_size;
use memwall_tasks::DataDir;
use memwall_train::{Recipe, TrainerOptions, step_graph};
use serde_json::json;

/// The model of a recipe: its own, or that of the file whose weights are the first ones.
fn model(file: &Path, recipe: &Recipe) -> anyhow::Result<ModelConfig> {
    match (&recipe.model, &recipe.from) {
        (Some(model), _) => Ok(model.clone()),
        (None, Some(from)) => {
            let own = || file.parent().map(PathBuf::from).unwrap_or_default();
            let folder = DataDir::find(None)?.path().map_or_else(own, Path::to_path_buf);
            Ok(Model::open(folder.join(from))?.checkpoint().config.clone())
        }
        (None, None) => bail!("{}: has neither [model] nor from", file.display()),
    }
}

/// The options of a recipe's trainer; without `recompute` everything is kept, as ample memory allows.
fn options(recipe: &Recipe, threads: usize) -> TrainerOptions {
    let t = &recipe.train;
    TrainerOptions {
        tokens: t.batch * t.window,
        sequences: t.batch,
        threads,
        compute: t.compute.into(),
        recompute: t.recompute.unwrap_or(0),
        seed: t.seed,
        input_noise: None,
        distillation: None,
        fences: false,
    }
}

/// The graph of a recipe's step, and its plan.
///
/// # Errors
/// If the model cannot be built.
pub fn planned(file: &Path, recipe: &Recipe, threads: usize) -> anyhow::Result<(Graph, Plan)> {
    let graph = step_graph(&model(file, recipe)?, &options(recipe, threads))?;
    let plan = Plan::new(&graph, PlanOptions { threads, ..PlanOptions::default() });
    Ok((graph, plan))
}

/// Shows a recipe.
///
/// # Errors
/// If it is none, or its model cannot be built.
pub fn show(file: &Path, threads: usize, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let recipe = Recipe::read(file)?;
    let (graph, plan) = planned(file, &recipe, threads)?;
    let weights = graph.values().filter(|(_, info)| matches!(info.source, Source::Weight));
    let weight_bytes: usize = weights.map(|(_, info)| info.ty.bytes(&[])).sum();
    let t = &recipe.train;
    let tokens = t.steps * (t.batch * t.window * t.accumulate) as u64;
    // Weights, two moments, and with accumulation the sum of gradients.
    let kept = weight_bytes * if t.accumulate > 1 { 4 } else { 3 };
    let parameters = weight_bytes / size_of::<f32>();
    if as_json {
        let line = json!({
            "file": file,
            "kind": "recipe",
            "recipe": recipe,
            "parameters": parameters,
            "tokens": tokens,
            "state_bytes": kept,
            "arena_bytes": plan.arena_bytes,
        });
        return Ok(writeln!(out, "{line}")?);
    }
    writeln!(out, "{}: recipe {}, {parameters} parameters, {tokens} tokens", file.display(), recipe.name)?;
    let model = model(file, &recipe)?;
    writeln!(out, "\nmodel: width {}, vocabulary {}, context {}", model.d_model, model.vocab_size, model.max_context)?;
    for (i, layer) in layers(&model).iter().enumerate() {
        writeln!(out, "  layer {i}: {layer}")?;
    }
    let (batch, window, accumulate) = (t.batch, t.window, t.accumulate);
    writeln!(
        out,
        "\ntrain: {} steps of {accumulate} × {batch} × {window} tokens, rate {} after {} steps of warm-up, {:?}",
        t.steps, t.learning_rate, t.warm_up, t.compute
    )?;
    for file in &recipe.data.files {
        writeln!(out, "data: {}", file.display())?;
    }
    writeln!(
        out,
        "\nmemory with {threads} threads: {} for weights and moments, an arena of {}, {} of {} layers made again",
        format_size(kept),
        format_size(plan.arena_bytes),
        t.recompute.unwrap_or(0).min(model.layers.len()),
        model.layers.len()
    )?;
    Ok(())
}

/// Each layer in a line.
fn layers(model: &ModelConfig) -> Vec<String> {
    let plain = |json: String| json.replace('"', "").replace(',', ", ");
    model.layers.iter().map(|l| serde_json::to_string(l).map(plain).unwrap_or_default()).collect()
}
