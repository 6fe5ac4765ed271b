//! Whether two models are the same function, as far as f32 can tell.

use memwall_cache::KvFormat;
use memwall_fit::{EngineOptions, WeightTier, step_graph};
use memwall_formats::Dtype;
use memwall_graph::Memory;
use memwall_infer::{Engine, Loading, Model, StepRows, Wanted};
use memwall_nn::WeightTypes;
use memwall_store::Budget;

use crate::QuantizeError;

/// The largest difference between the logits of two models on some tokens, weights, activations and caches in f32, relative to the
/// largest logit of the first.
///
/// # Errors
/// If a model does not run, or the budget refuses.
pub fn logits_difference(
    original: &Model,
    other: &Model,
    tokens: &[u32],
    threads: usize,
    budget: &Budget,
) -> Result<f64, QuantizeError> {
    let options = EngineOptions {
        threads,
        context: tokens.len(),
        step: tokens.len(),
        outputs: tokens.len(),
        tier: WeightTier::Ram,
        kv: KvFormat::both(Dtype::F32),
        ..EngineOptions::default()
    };
    let logits = |model: &Model| -> Result<Vec<f32>, QuantizeError> {
        let config = &model.checkpoint().config;
        let (graph, _) = step_graph(config, &WeightTypes::new(), &options)?;
        let mut memory = Memory::within(budget);
        model.load(&graph, &mut memory, Loading { tier: WeightTier::Ram, threads, behind: None })?;
        let mut engine = Engine::over(config, memory, options)?;
        Ok(engine.step(&[StepRows { slot: 0, tokens }], Wanted::All)?.to_vec())
    };
    let (a, b) = (logits(original)?, logits(other)?);
    let most = a.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let off = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs()));
    // What is no number is as far off as can be.
    let off = off.fold(0f64, |m, x| if x.is_nan() || x > m { x } else { m });
    Ok(if most > 0.0 { off / most } else { off })
}
