//! The graph of a step: what a planner reads, and what an engine runs.

use memwall_formats::Dtype;
use memwall_graph::{Dim, Graph, fuse, join_products, prune};
use memwall_nn::{ModelConfig, Sequences, WeightTypes};

use crate::{EngineOptions, FitError};

/// The step graph of a model whose matrices are held in `types`, without any memory for it.
///
/// Its rows are tokens of any sequences, each with its slot and position; its one output is `logits` [outputs, vocabulary].
///
/// # Errors
/// If the options do not fit the model, or an operator refuses its inputs.
pub fn step_graph(
    config: &ModelConfig,
    types: &WeightTypes,
    options: &EngineOptions,
) -> Result<(Graph, Sequences), FitError> {
    options.check(config.max_context)?;
    let mut g = Graph::new(Dtype::F32);
    let rows = g.run_dim("rows", options.step)?;
    let outputs = g.run_dim("outputs", options.outputs)?;
    let seqs =
        Sequences::slots(&mut g, rows, options.step, options.slots, options.context, options.kv, options.rollback)?;
    let chosen = g.input("chosen", [Dim::from(outputs)], Dtype::I32)?;
    let hidden = config.hidden_chosen(&mut g, types, &seqs, chosen)?;
    let logits = config.logits(&mut g, types, hidden, None)?;
    g.output("logits", logits);
    Ok((join_products(&fuse(&prune(&g))), seqs))
}
